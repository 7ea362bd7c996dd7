"""Reader of Praat's TextGrids, in long and short form.

Praat reads only free-standing numbers, quoted strings and the flag <exists>. It ignores
everything else, such as `xmin =`, `intervals [1]:` and text after `!`. Both forms are
therefore the same sequence of values.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from espnet2_birq.errors import DataError

_TOKEN = re.compile(r'"(?:[^"]|"")*"|![^\n]*|\S+')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?$")


def read_textgrid(path: Path, tier: str) -> list[tuple[float, float, str, int]]:
    """Read a tier of intervals.

    Args:
        path: File in UTF-8, or in UTF-16 with a byte order mark, as Praat writes it.
        tier: Name of the tier.

    Returns:
        Start and end in seconds, text, and line number of each interval.

    Raises:
        DataError: The file is not a TextGrid, is truncated, or has no such tier.
    """
    values = _Values(path)
    kind = values.next(str), values.next(str)
    if kind != ("ooTextFile", "TextGrid"):
        raise DataError(f"{path}: line 1: not Praat's TextGrid in text form")
    values.next(float), values.next(float)  # start and end of the file
    there = []
    for _ in range(int(values.next(float))):
        kind, name = values.next(str), values.next(str)
        there.append(name)
        values.next(float), values.next(float)  # start and end of the tier
        entries = range(int(values.next(float)))
        if kind == "IntervalTier":
            intervals = [_interval(values) for _ in entries]
            if name == tier:
                return intervals
        else:
            for _ in entries:  # points
                values.next(float), values.next(str)
    raise DataError(f"{path}: no tier of intervals {tier!r}, only {there}; give --tier")


def _interval(values: "_Values") -> tuple[float, float, str, int]:
    start, end, text = values.next(float), values.next(float), values.next(str)
    return start, end, text, values.line


class _Values:
    """Iterator over the numbers and strings of a file.

    Attributes:
        line: Line number of the last value.
    """

    def __init__(self, path: Path):
        self._path = path
        self._tokens = self._read()
        self.line = 1

    def _read(self) -> Iterator[str | float]:
        raw = self._path.read_bytes()
        is_utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        try:
            text = raw.decode("utf-16" if is_utf16 else "utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self._path}: neither UTF-8 nor UTF-16; save it from Praat again"
            ) from error
        at = 0
        for match in _TOKEN.finditer(text):
            self.line += text.count("\n", at, match.start())
            at = match.start()
            token = match[0]
            if token.startswith('"'):
                if len(token) == 1 or token[-1] != '"':
                    raise DataError(
                        f"{self._path}: line {self.line}: a string without end; save "
                        "it from Praat again"
                    )
                yield token[1:-1].replace('""', '"')
            elif _NUMBER.match(token):
                number = float(token.rstrip("%"))
                if not math.isfinite(number):
                    raise DataError(
                        f"{self._path}: line {self.line}: a number out of range; "
                        "save it from Praat again"
                    )
                yield number

    def next(self, kind: type):
        """Return the next value, which must be of type `kind` (str or float)."""
        value = next(self._tokens, None)
        if value is None:
            raise DataError(f"{self._path}: ends in the middle, at line {self.line}")
        if not isinstance(value, kind):
            raise DataError(
                f"{self._path}: line {self.line}: {value!r} where a "
                f"{'string' if kind is str else 'number'} should stand"
            )
        return value
