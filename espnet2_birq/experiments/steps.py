"""Steps of a matrix, and what is on disk about them: whether they are finished and current."""

import glob
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.stamp import STAMP, check_stamp, sources, write_stamp
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_json

ANY = object()  # in a key: not given, so anything is the same
OTHER_SETTINGS = "was made with other settings"
# Lists of a data directory; its audio is not read.
LISTS = ("wav.scp", "segments", "utt2spk", "text")


@dataclass(frozen=True)
class Step:
    """A step, without running it.

    Attributes:
        name: Name of the step.
        key: Settings of the step, as JSON; see ANY.
        commands: Pairs of working directory and command.
        makes: Patterns of output files; each must match a file.
        lists: Function that returns the step's input lists and models; the step is
            redone if they change.
        named: Function that returns what may be files that the settings name. Those that
            exist are inputs, too; older versions did not record them.
        folder: Output folder, removed before the step is redone.
        prepares: Whether the lists are the step's own output.
        before: Step whose model this one starts from.
        tests: Function that returns the lists of test sets, which only the last commands
            read. If sets are added, a finished step goes on; if some are left out, it
            stays as it is.
    """

    name: str
    key: list[Any]
    commands: list[tuple[Path, list]]
    makes: list[str | Path]
    lists: Callable[[], list[Path]]
    named: Callable[[], list[Path]] = list
    folder: Path | None = None
    prepares: bool = False
    before: "Step | None" = None
    tests: Callable[[], list[Path]] = list

    def lock(self, out: Path) -> Path:
        """Return the file that is locked while the step runs.

        Data are prepared in the recipe, which other matrices may use, too.
        """
        if self.prepares:
            return self.commands[0][0] / "dump" / "matrix.lock"
        return out / "locks" / self.name

    def starts_from(self, name: str) -> bool:
        """Whether the step was made from the output of another, directly or not."""
        return self.before is not None and (
            self.before.name == name or self.before.starts_from(name)
        )


class Record:
    """Record of a step in OUT/steps/<name>.

    key.json has the settings, made_from.json the inputs; both are written when the step
    starts, since an interrupted step goes on with what it began with. done.json is
    written at its end. It is renamed to outdated.json when the step before is redone.

    Args:
        out: Output folder of the matrix.
        step: The step.
    """

    def __init__(self, out: Path, step: Step):
        self.out = out
        self.step = step
        self.folder = out / "steps" / step.name
        self.log = self.folder / "log"
        self.done = self.folder / "done.json"
        self._named = self.folder / "named_files"  # has a stamp beside it
        self._key = self.folder / "key.json"
        self._outdated = self.folder / "outdated.json"

    @property
    def has_ended(self) -> bool:
        """Whether the step has finished, with whatever settings and inputs."""
        return self.done.is_file() or self._outdated.is_file()

    # ----------------------------------------------------------------- writing
    def start(self) -> None:
        """Record the settings and inputs of a step that starts or goes on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tests = self.step.tests()
        if not (self.step.prepares or (self.folder / STAMP).is_file()):
            if named := self._named_files():
                write_stamp(self._named, named)
            write_stamp(self.folder, [*self.step.lists(), *tests])
        elif not set(map(str, tests)) <= set(sources(self.folder)):  # sets were added
            write_stamp(self.folder, [*self.step.lists(), *tests])
        write_whole(self._key, json.dumps(self.step.key))

    def finish(self, seconds: int) -> None:
        """Record the end of a step."""
        if self.step.prepares:
            write_stamp(self.folder, self.step.lists())
        write_whole(self.done, json.dumps({"seconds": seconds}))

    def outdate(self) -> None:
        """Record that a finished step was made from something that is replaced."""
        if self.done.is_file():
            os.replace(self.done, self._outdated)

    def restore(self) -> None:
        """Record that a finished step is current: the same was made again."""
        if self._outdated.is_file():
            os.replace(self._outdated, self.done)

    def reopen(self) -> None:
        """Let a finished step go on with what there is, as if interrupted."""
        self.done.unlink(missing_ok=True)
        self._outdated.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the step's output, then its record."""
        if self.step.folder is not None:
            shutil.rmtree(self.step.folder, ignore_errors=True)
        shutil.rmtree(self.folder)

    # --------------------------------------------------------------- comparing
    def why_redo(self) -> str | None:
        """Return why the step, finished or not, must be started anew; None if not."""
        if self._key.is_file() and self._key.read_text() != json.dumps(self.step.key):
            return OTHER_SETTINGS
        if self.step.prepares and (not self.has_ended or self.lacks() is not None):
            return None
        return self._changed(strict=True)

    def lacks(self) -> str | None:
        """Return an output that a finished step lacks; None if it has all, or goes on."""
        return lacking(self.step.makes) if self.has_ended else None

    def why_outdated(self) -> str | None:
        """Return why the result of a finished step is not current; None if it is.

        The step before is not looked at. OUT may have been copied from another machine,
        without the data: inputs that are absent are not compared.
        """
        if self._key.is_file() and not self._has_same_key():
            return OTHER_SETTINGS
        if self._outdated.is_file():
            return "was made from an earlier model"
        return self._changed(strict=False)

    def _named_files(self) -> list[str]:
        return [str(file) for file in self.step.named() if os.path.isfile(file)]

    def _changed(self, strict: bool) -> str | None:
        """Return which input has changed.

        Args:
            strict: Whether the names of the inputs must also be the same, even where
                files are absent.
        """
        try:
            noted, inputs = sources(self.folder), list(map(str, self.step.lists()))
            if not strict and self._is_elsewhere(inputs, noted):
                inputs = noted
            if self.step.tests():  # those noted in addition are of test sets
                inputs += [x for x in noted if x not in inputs]
            check_stamp(self.folder, inputs)
            named = sources(self._named)
            if strict and named:
                named += self._named_files()
            check_stamp(self._named, named)
        except DataError as error:
            return str(error)
        return None

    def _is_elsewhere(self, inputs: list[str], noted: list[str]) -> bool:
        """Whether inputs are absent, or OUT or the recipe was moved."""
        if not all(map(os.path.isfile, inputs)) or not set(inputs) & set(noted):
            return True
        own = [file for file in inputs if Path(file).is_relative_to(self.out)]
        return not set(own) <= set(noted)

    def _has_same_key(self) -> bool:
        try:
            noted = read_json(self._key, list)
        except DataError:
            return False
        key = self.step.key
        return len(noted) == len(key) and all(map(self._is_same, noted, key))

    def _is_same(self, noted: Any, value: Any) -> bool:
        """Whether two settings are the same, apart from the place of OUT."""
        if isinstance(noted, str) and isinstance(value, str):
            first, *rest = map(re.escape, value.split(str(self.out)))
            pattern = first + "(?P=out)".join(rest)
            if rest:
                pattern = f"{first}(?P<out>[^\n]*?){'(?P=out)'.join(rest)}"
            return re.fullmatch(pattern, noted) is not None
        return value is ANY or noted == value


def last_setting(out: Path, steps: str, place: int) -> Any:
    """Return a setting of the step that started last; ANY if none has.

    Args:
        out: Output folder of the matrix.
        steps: Pattern of the steps' names.
        place: Place of the setting in their keys.
    """
    keys = (out / "steps").glob(f"{steps}/key.json")
    last = max(keys, key=lambda file: file.stat().st_mtime, default=None)
    noted = [] if last is None else read_json(last, list)
    return noted[place] if noted else ANY


def lacking(patterns: Iterable[str | Path]) -> str | None:
    """Return the first pattern without a matching file."""
    missing = (x for x in patterns if not (os.path.exists(x) or glob.glob(str(x))))
    return next((str(x) for x in missing), None)


def files_in_config(conf: Any, folder: Path) -> list[Path]:
    """Return what may be files among the values of a configuration.

    Args:
        conf: Configuration, e.g. with init_param (FILE:KEY:KEY:KEYS) or lists of speech.
        folder: Folder from which relative names count.
    """
    words = [part for text in _texts(conf) for part in (text, text.split(":")[0])]
    return [folder / word for word in dict.fromkeys(words) if word]


def files_in_options(options: list[str], folder: Path) -> list[Path]:
    """Return what may be files among command-line options, including lists in folders."""
    found = []
    for word in options:
        path = folder / word.split("=")[-1]
        found.append(path)
        if os.path.isdir(path):
            found += [path / name for name in LISTS]
            found += sorted(
                x for x in path.rglob("*") if x.suffix.lower() == ".textgrid"
            )
    return found


def _texts(conf: Any) -> Iterator[str]:
    if isinstance(conf, str):
        yield conf
    elif isinstance(conf, (dict, list)):
        for value in conf.values() if isinstance(conf, dict) else conf:
            yield from _texts(value)
