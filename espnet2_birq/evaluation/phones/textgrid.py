"""Praat's TextGrid, long and short form.

Of a text file Praat reads the free-standing numbers, the strings in quotes and the
flag <exists>; all else, like `xmin =`, `intervals [1]:` or what follows a `!`, is for
human readers. So both forms are one sequence of values.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from espnet2_birq.errors import DataError

_TOKEN = re.compile(r'"(?:[^"]|"")*"|![^\n]*|\S+')
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?%?$")


def read_textgrid(path: Path, tier: str) -> list[tuple[float, float, str, int]]:
    """Read a tier of intervals.

    Args:
        path: The file, UTF-8, or UTF-16 with its mark, as Praat writes it.
        tier: Name of the tier.

    Returns:
        Start and end in seconds, text, and line of each interval.

    Raises:
        DataError: It is not a TextGrid, ends too early, or has no such tier.
    """
    values = _Values(path)
    kind = values.next(str), values.next(str)
    if kind != ("ooTextFile", "TextGrid"):
        raise DataError(f"{path}: line 1: not Praat's TextGrid in text form")
    values.next(float), values.next(float)  # the times of all
    there = []
    for _ in range(int(values.next(float))):
        kind, name = values.next(str), values.next(str)
        there.append(name)
        values.next(float), values.next(float)  # the times of the tier
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
    """Numbers and strings of a file, one by one.

    Attributes:
        line: Where the last one was.
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
                yield float(token.rstrip("%"))

    def next(self, kind: type):
        """Take the next value, which must be a str or a float."""
        value = next(self._tokens, None)
        if value is None:
            raise DataError(f"{self._path}: ends in the middle, at line {self.line}")
        if not isinstance(value, kind):
            raise DataError(
                f"{self._path}: line {self.line}: {value!r} where a "
                f"{'string' if kind is str else 'number'} should stand"
            )
        return value
