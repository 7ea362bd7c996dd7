"""Hostile files: valid ones, damaged in all the ways that occur by accident or on purpose.

A reader gets a folder of valid files, one of which has been changed. It may read it or
refuse it with a one-line error of the project. It must not raise anything else, write
outside its folder, start a program, or hang.
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
from random import Random

from espnet2_birq.errors import ConfigError, DataError

TEMPORARY = "tmp"
SECONDS = 20  # of CPU time, after which a reader counts as hanging
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
NUMBER = re.compile(rb"[0-9][0-9.]*")
PIECE = re.compile(rb"[0-9][0-9.]*|[\w.-]+|[^\w\s]")  # numbers, words, signs


@dataclass(frozen=True)
class Reader:
    """Function that reads files from outside.

    Attributes:
        name: Name of the test.
        files: Mapping from name to content: a folder that it accepts.
        read: Function of the folder.
        only: Names of the files to damage; empty: all.
        faults: Damaged files that were once not refused correctly.
        share: Share of the files to try: 1 for slow readers, otherwise 4.
    """

    name: str
    files: Mapping[str, bytes | str]
    read: Callable[[Path], object]
    only: tuple[str, ...] = ()
    faults: tuple[tuple[str, bytes], ...] = ()
    share: int = 4

    def damaged(self, random: Random) -> tuple[str, bytes]:
        """Choose a file and damage it; return its name and content."""
        name = random.choice(sorted(self.only or self.files))
        content = self.files[name]
        content = content.encode() if isinstance(content, str) else content
        for _ in range(random.randint(1, 3)):
            content = random.choice(DAMAGES)(random, content)
        return name, content


def _place(random: Random, content: bytes) -> int:
    return random.randint(0, len(content))


def _insert(random: Random, content: bytes) -> bytes:
    at = _place(random, content)
    return content[:at] + random.choice(TOKENS) + content[at:]


def _exchange(random: Random, content: bytes, what: re.Pattern, news) -> bytes:
    pieces = list(what.finditer(content))
    if not pieces:
        return content
    piece = random.choice(pieces)
    return content[: piece.start()] + random.choice(news) + content[piece.end() :]


def _replace(random: Random, content: bytes) -> bytes:
    return _exchange(random, content, PIECE, TOKENS)


def _number(random: Random, content: bytes) -> bytes:
    news = [
        *HUGE,
        b"%d" % random.randint(-(2**40), 2**40),
        b"%d" % random.randint(-9, 9),
    ]
    return _exchange(random, content, NUMBER, news)


def _bytes(random: Random, content: bytes) -> bytes:
    at, size = _place(random, content), random.randint(1, 8)
    return content[:at] + random.randbytes(size) + content[at + size :]


def _bit(random: Random, content: bytes) -> bytes:
    at = random.randint(0, max(0, len(content) - 1))
    changed = bytes(x ^ 1 << random.randint(0, 7) for x in content[at : at + 1])
    return content[:at] + changed + content[at + 1 :]


def _cut(random: Random, content: bytes) -> bytes:
    return content[: _place(random, content)]


def _remove(random: Random, content: bytes) -> bytes:
    first, last = sorted((_place(random, content), _place(random, content)))
    return content[:first] + content[last:]


def _repeat(random: Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    at = random.randint(0, len(lines))
    return b"".join([*lines[:at], *lines[max(0, at - 1) :]])


def _swap(random: Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    random.shuffle(lines)
    return b"".join(lines)


def _drop_line(random: Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    at = random.randint(0, len(lines))
    return b"".join([*lines[:at], *lines[at + 1 :]])


def _windows(random: Random, content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _marked(random: Random, content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def _wide(random: Random, content: bytes) -> bytes:
    return content.decode("latin-1").encode("utf-16")


def _text(random: Random, content: bytes) -> bytes:
    tops = [random.choice((0x80, 0x800, 0x10000, 0x110000)) for _ in range(9)]
    text = "".join(chr(random.randint(0, top - 1)) for top in tops)
    return text.encode("utf-8", "surrogatepass")


def _noise(random: Random, content: bytes) -> bytes:
    return random.randbytes(random.randint(1, 100))


def _empty(random: Random, content: bytes) -> bytes:
    return b""


DAMAGES = [
    *(_insert, _replace, _replace, _number, _number, _bytes, _bit, _cut, _remove),
    *(_repeat, _swap, _drop_line, _windows, _marked, _wide, _text, _noise, _empty),
]


def try_reader(reader: Reader, name: str, content: bytes, top: Path) -> bool:
    """Give a reader a damaged file; return whether it was read.

    Raises:
        Exception: The reader raised an error that is not meant for users, hung, wrote
            elsewhere or started a program.
    """
    folder = top / "folder"
    if _names(folder) != {*reader.files, TEMPORARY}:  # left by the previous reader
        shutil.rmtree(folder, ignore_errors=True)
        (folder / TEMPORARY).mkdir(parents=True)
        write_files(folder, reader.files)
    files = {key: reader.files[key] for key in reader.only or reader.files}
    write_files(folder, {**files, name: content})
    with watched(folder):
        try:
            reader.read(folder)
        except (ConfigError, DataError) as error:
            assert len(str(error).splitlines()) == 1, f"several lines: {error}"
            return False
    return True


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files, creating their folders."""
    for name, content in files.items():
        path = folder / name
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _names(folder: Path) -> set[str]:
    """Return the files and the empty folders below a folder."""
    names = set()
    for where, folders, files in os.walk(folder):
        inside = [os.path.relpath(os.path.join(where, x), folder) for x in files]
        names.update(inside or ([] if folders else [os.path.relpath(where, folder)]))
    return names


_inside: list[str] = []  # the folder that a running reader may write to
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
    """Stop code that writes outside a folder, starts a program or hangs."""
    before = tempfile.tempdir, signal.signal(signal.SIGPROF, _hang), os.getcwd()
    tempfile.tempdir = str(folder / TEMPORARY)
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
