"""Hostile files: valid ones, damaged in all the ways that files are damaged or made to be.

A reader is given a folder of valid files of which one has been changed. It may read it or
refuse it with the project's own error in one line; nothing else may come out, nothing be
written outside its folder, no program started, and it has to end.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from espnet2_birq.errors import ConfigError, DataError

SECONDS = 20  # of computation, after which a reader hangs
HUGE = (b"99999999999", b"1e400", b"-1", b"0", b"nan", b"-inf", b"9" * 5000)
TOKENS = (
    *HUGE,
    *(b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe"),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b"\x0b", b"\x1c", b"\x85"),
    *("\u2028", "\u00a0", "\u00b2", "\u0663", "\u00bd", "\U0001f600", "\ud7ff"),
    *(b"|", b"/", b"//", b"../../x", b"/dev/zero", b"~", b"-", b"--", b":", b",", b"="),
    *(b'"', b"'", b"(", b")", b"<", b">", b"&", b"%s", b"{", b"}", b"[", b"]", b"#"),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"- " * 3000, b"<a>" * 3000),
    *(b"a" * 300, b"a" * 5000, b"x/" * 3000, b"null", b"true", b"{}", b"[]", b'"a"'),
    *(b"!!python/object/apply:os.mkdir [ran]", b"&a [*a]", b"&a", b"*a", b"\\u0000"),
    *(b"<!DOCTYPE x>", b"&lt;", b"\\x00", b"\\ud800", b"1:2", b"~", b"x.ark:0"),
)
TOKENS = tuple(x.encode() if isinstance(x, str) else x for x in TOKENS)
PIECE = re.compile(rb"[0-9][0-9.]*|[\w.-]+|[^\w\s]")  # numbers, words, signs


@dataclass(frozen=True)
class Reader:
    """What reads files from outside.

    Attributes:
        name: Name of the test.
        files: Mapping from name to content: a folder that it accepts.
        read: What is given the folder.
        only: Names of the files that are damaged; empty: all.
        faults: Damaged files that were not refused as they should be, once.
    """

    name: str
    files: Mapping[str, bytes | str]
    read: Callable[[Path], object]
    only: tuple[str, ...] = ()
    faults: tuple[tuple[str, bytes], ...] = ()

    def damaged(self) -> st.SearchStrategy[tuple[str, bytes]]:
        """Draw a file, and what has become of it."""
        seeds = {
            name: content.encode() if isinstance(content, str) else content
            for name, content in self.files.items()
            if not self.only or name in self.only
        }
        return damaged(seeds)


@st.composite
def damaged(draw, seeds: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Draw one of some files, with up to four damages."""
    name = draw(st.sampled_from(sorted(seeds)))
    content = seeds[name]
    for damage in draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=4)):
        content = damage(draw, content)
    return name, content


def _place(draw, content: bytes) -> int:
    return draw(st.integers(0, len(content)))


def _insert(draw, content: bytes) -> bytes:
    at = _place(draw, content)
    return content[:at] + draw(st.sampled_from(TOKENS)) + content[at:]


def _replace(draw, content: bytes) -> bytes:
    pieces = list(PIECE.finditer(content))
    if not pieces:
        return content
    piece = draw(st.sampled_from(pieces))
    new = draw(st.sampled_from(TOKENS))
    return content[: piece.start()] + new + content[piece.end() :]


def _number(draw, content: bytes) -> bytes:
    numbers = [x for x in PIECE.finditer(content) if x[0][:1].isdigit()]
    if not numbers:
        return content
    number = draw(st.sampled_from(numbers))
    new = draw(st.one_of(st.sampled_from(HUGE), st.integers().map(lambda x: b"%d" % x)))
    return content[: number.start()] + new + content[number.end() :]


def _bytes(draw, content: bytes) -> bytes:
    at = _place(draw, content)
    new = draw(st.binary(min_size=1, max_size=8))
    return content[:at] + new + content[at + len(new) :]


def _cut(draw, content: bytes) -> bytes:
    return content[: _place(draw, content)]


def _remove(draw, content: bytes) -> bytes:
    first, last = sorted((_place(draw, content), _place(draw, content)))
    return content[:first] + content[last:]


def _repeat(draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if not lines:
        return content
    number = draw(st.integers(0, len(lines) - 1))
    return b"".join([*lines[: number + 1], *lines[number:]])


def _swap(draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(draw(st.permutations(lines))) if 1 < len(lines) < 30 else content


def _drop_line(draw, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    if lines:
        del lines[draw(st.integers(0, len(lines) - 1))]
    return b"".join(lines)


def _windows(draw, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _marked(draw, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _wide(draw, content: bytes) -> bytes:
    return content.decode("latin-1").encode("utf-16")


def _text(draw, content: bytes) -> bytes:
    return draw(st.text(max_size=60)).encode("utf-8", "surrogatepass")


def _noise(draw, content: bytes) -> bytes:
    return draw(st.binary(max_size=100))


def _empty(draw, content: bytes) -> bytes:
    return b""


DAMAGES = [
    *(_insert, _replace, _replace, _number, _bytes, _cut, _remove, _repeat, _swap),
    *(_drop_line, _windows, _marked, _wide, _text, _noise, _empty),
]


def try_reader(reader: Reader, name: str, content: bytes, top: Path) -> bool:
    """Give a reader a damaged file; return whether it was read.

    Raises:
        Exception: Of another kind than a user can understand; or it hangs, writes
            elsewhere or starts a program.
    """
    folder = top / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    write_files(folder, {**reader.files, name: content})
    with watched(folder):
        try:
            reader.read(folder)
        except (ConfigError, DataError) as error:
            assert len(str(error).splitlines()) == 1, f"several lines: {error}"
            return False
    return True


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files, with their folders."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


_inside: list[str] = []  # the folder that may be written to, while a reader runs
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    *("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link"),
    *("os.truncate", "shutil.rmtree", "os.chmod"),
}
PROGRAMS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pty.spawn"}


def _audit(event: str, args: tuple) -> None:
    if not _inside:
        return
    if event == "open" and isinstance(args[0], (str, bytes)) and args[2] & WRITES:
        _refuse_outside(event, args[0])
    elif event in CHANGES:
        _refuse_outside(event, args[0])
    elif event in PROGRAMS and args[0] != "sort":
        raise AssertionError(f"starts a program: {args}")


def _refuse_outside(event: str, path) -> None:
    if isinstance(path, (str, bytes, os.PathLike)):
        real = os.path.realpath(os.fsdecode(path))
        if not real.startswith((_inside[0], "/dev/null")) and "__pycache__" not in real:
            raise AssertionError(f"{event} outside its folder: {real}")


sys.addaudithook(_audit)


def _hang(number, frame):
    raise TimeoutError(f"hangs: longer than {SECONDS} s")


@contextmanager
def watched(folder: Path):
    """Stop what writes outside a folder, starts a program or does not end."""
    temporary = folder / "tmp"
    temporary.mkdir()
    before = tempfile.tempdir, signal.signal(signal.SIGPROF, _hang), os.getcwd()
    tempfile.tempdir = str(temporary)
    os.chdir(folder)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _inside.append(os.path.realpath(folder))
    try:
        yield
    finally:
        _inside.pop()
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.chdir(before[2])
        tempfile.tempdir = before[0]
        signal.signal(signal.SIGPROF, before[1])
