"""Pages of the project and the commands in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from checkout import ROOT

PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "bench/*.md", "egs2/*/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
MODULE = re.compile(r"(?:python3?|\.venv/bin/python) -m espnet2_birq(?:\.bin\.| )(\w+)")
BIRQ = re.compile(r"birq (\w[\w-]*)(?= |$)")
SCRIPT = re.compile(r"(?:\S*/)?((?:run|birq|finetune|setup|download)\.sh)(?= |$)")
START = re.compile(r"^(?:srun \S+ (?:--\S+ )*|until |[A-Z_]+=\S+ |PYTHONPATH=\S+ )+")


class Command(NamedTuple):
    """A command of a page."""

    page: Path
    kind: str  # birq or script
    name: str
    words: list[str]  # after the name
    folder: str  # asr1 or ssl1, if the page says so


def commands() -> Iterator[Command]:
    """Yield the commands in blocks and in the text of all pages."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        folder = ""
        for language, block in FENCE.findall(text):
            if language not in ("", "bash", "sh"):
                continue
            for line in block.replace("\\\n", " ").splitlines():
                for part in re.split(r"&&|\$\(|; (?:do|then)|\| (?=python)", line):
                    if match := re.search(r"(?:^| )cd (\S+)", part):
                        task = re.search(r"asr1|ssl1", match[1])
                        folder = task[0] if task else ""
                    yield from _command(page, part.strip(), folder)
        for code in INLINE.findall(FENCE.sub("", text)):
            yield from _command(page, " ".join(code.split()), "")


def _command(page: Path, line: str, folder: str) -> Iterator[Command]:
    line = START.sub("", line)
    for kind, pattern in (("birq", MODULE), ("birq", BIRQ), ("script", SCRIPT)):
        if match := pattern.match(line):
            rest = line[match.end() :].split(" #")[0].rstrip(";")
            if folder == "" and (found := re.search("asr1|ssl1", match[0])):
                folder = found[0]
            yield Command(page, kind, match[1].replace("-", "_"), words(rest), folder)
            return


def words(text: str) -> list[str]:
    """Split into words, at spaces alone if quotes are not closed."""
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()
