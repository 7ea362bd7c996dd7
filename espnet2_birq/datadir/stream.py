"""Processing of a data directory's files in constant memory."""

import codecs
import os
import random
import subprocess
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from espnet2_birq.errors import DataError
from espnet2_birq.reading import refusing

SORT_MEMORY = "32M"
PIECE = 1 << 12  # characters of a line in memory at a time
IN_FLIGHT = 16  # waiting and running calls per thread


def merge(
    tables: Mapping[str, Iterator[tuple[str, str]]],
) -> Iterator[tuple[str, dict[str, str]]]:
    """Iterate over sorted tables in parallel.

    Args:
        tables: Mapping from name to (key, value) pairs, sorted by key, keys unique.

    Yields:
        Each key of any table, in order, and its values by name of the table.
    """
    tables = {name: iter(table) for name, table in tables.items()}
    heads: dict[str, tuple[str, str]] = {}

    def advance(name: str) -> None:
        head = next(tables[name], None)
        if head is None:
            heads.pop(name, None)
        else:
            heads[name] = head

    for name in tables:
        advance(name)
    while heads:
        key = min(head[0] for head in heads.values())
        row = {name: head[1] for name, head in heads.items() if head[0] == key}
        yield key, row
        for name in row:
            advance(name)


class ExternalSort:
    """Byte-order sorter of more lines than fit into memory, using the program `sort`.

    Temporary files are in TMPDIR. Use it as a context manager: write all lines, then
    iterate.
    """

    def __enter__(self) -> "ExternalSort":
        """Start the program."""
        self._process = subprocess.Popen(
            ["sort", "-S", SORT_MEMORY],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "LC_ALL": "C"},
        )
        assert self._process.stdin and self._process.stdout  # pipes, as requested
        self._input, self._output = self._process.stdin, self._process.stdout
        return self

    def write(self, line: str) -> None:
        """Add a line, without line feed."""
        self._input.write(line.encode("utf-8") + b"\n")

    def __iter__(self) -> Iterator[str]:
        """Yield the lines, sorted.

        Raises:
            DataError: The program failed, most likely for lack of disk space.
        """
        self._input.close()
        for line in self._output:
            yield line.decode("utf-8").removesuffix("\n")
        if self._process.wait():
            raise DataError(
                f"sort ended with status {self._process.returncode}; is the disk of "
                f"{os.environ.get('TMPDIR', '/tmp')} full? Set TMPDIR to a larger one"
            )

    def __exit__(self, *exception) -> None:
        """End the program, even if lines are unread."""
        self._output.close()
        try:
            self._input.close()
        except BrokenPipeError:
            pass  # `sort` has ended and printed an error
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()


def draw[Item](items: Iterable[Item], number: int, seed: int = 0) -> list[Item]:
    """Draw a uniform random sample in one pass.

    Args:
        items: Any number of items to draw from.
        number: Number of items to draw.
        seed: Random seed.

    Returns:
        Sample, in the order of `items`; all items if there are no more than `number`.
    """
    generator = random.Random(seed)
    sample: list[tuple[int, Item]] = []
    for place, item in enumerate(items):
        if place < number:
            sample.append((place, item))
        elif (slot := int(generator.random() * (place + 1))) < number:
            sample[slot] = (place, item)
    return [item for _, item in sorted(sample, key=lambda drawn: drawn[0])]


def map_parallel[Item, Result](
    function: Callable[[Item], Result], items: Iterable[Item], nj: int
) -> Iterator[Result]:
    """Map like ThreadPoolExecutor.map(), but read `items` only as fast as needed.

    Args:
        function: Function to call. Its exceptions end the iteration.
        items: Any number of arguments.
        nj: Number of threads.

    Yields:
        Results, in the order of `items`.
    """
    waiting: deque[Future] = deque()
    with ThreadPoolExecutor(nj) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= nj * IN_FLIGHT:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def refuse_byte_order_mark(path: Path, head: bytes) -> None:
    """Check that a Kaldi list does not begin with a byte order mark.

    The mark would become part of the first key, in Kaldi's and ESPnet's scripts too. The
    key would then match no other list, and its utterance would be lost.

    Args:
        path: Path of the list, for the message.
        head: First bytes of the list.

    Raises:
        DataError: The list begins with a byte order mark.
    """
    if head.startswith(codecs.BOM_UTF8):
        raise DataError(
            f"{path}: begins with a byte order mark; remove it with "
            f"sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
        )


def iter_spk2utt(path: str | Path) -> Iterator[tuple[str, str]]:
    """Read spk2utt one utterance at a time, since a line may be very long.

    Args:
        path: File to read.

    Yields:
        Utterance and speaker, in the order of the file.

    Raises:
        DataError: The file is missing, empty, not UTF-8 or begins with a byte order
            mark, or a speaker is out of order, repeated, or has no utterance.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run utils/fix_data_dir.sh")
    previous, number = "", 0
    for number, words in enumerate(_lines_of_words(path), 1):
        speaker = next(words, "")
        if not speaker:
            raise DataError(f"{path}: line {number} is blank; remove it")
        if speaker == previous:
            raise DataError(
                f"{path}: line {number} repeats {speaker}; run utils/fix_data_dir.sh"
            )
        if speaker < previous:
            raise DataError(
                f"{path}: line {number}: {speaker} comes after {previous}; "
                f"sort it with LC_ALL=C sort -o {path} {path}"
            )
        utterance = None
        for utterance in words:
            yield utterance, speaker
        if utterance is None:
            raise DataError(
                f"{path}: line {number}: {speaker} has no utterance; remove the line"
            )
        previous = speaker
    if not number:
        raise DataError(f"{path}: empty file; run utils/fix_data_dir.sh")


def _lines_of_words(path: Path) -> Iterator[Iterator[str]]:
    # The caller must exhaust each line's words before taking the next line.
    with path.open("rb") as stream:
        refuse_byte_order_mark(path, stream.read(len(codecs.BOM_UTF8)))
    with path.open(encoding="utf-8", newline="\n") as text:

        def next_piece() -> str:
            with refusing(path, "is not UTF-8", "convert the file with iconv -t UTF-8"):
                return text.readline(PIECE)

        while piece := next_piece():
            yield _words(piece, next_piece)


def _words(piece: str, next_piece: Callable[[], str]) -> Iterator[str]:
    rest = ""
    while piece:
        words = (rest + piece).split()
        if piece.endswith("\n"):
            yield from words
            return
        # A word may continue in the next piece.
        rest = "" if piece[-1].isspace() or not words else words.pop()
        yield from words
        piece = next_piece()
    if rest:
        yield rest
