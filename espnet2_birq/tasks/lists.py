"""Checks of the lists that ESPnet reads, with one-line errors before anything is built."""

import argparse
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from espnet2_birq.datadir.stamp import STAMP, describe
from espnet2_birq.datadir.stream import refuse_byte_order_mark
from espnet2_birq.errors import DataError
from espnet2_birq.reading import read_lines

CATEGORIES = "category2utt"  # beside the first list of a set
# Values of batch_type that draw utterances anew for every epoch
DRAWN = ("catpow", "catpow_balance_dataset")
SHAPE = re.compile(r"[0-9]{1,18}(,[0-9]{1,18})*")
LENGTH = re.compile(r"[0-9]{1,18}")


def check_set(args: argparse.Namespace, kind: str) -> None:
    """Check the lists of a set as check_tables() does.

    Args:
        args: Options of training.
        kind: "train", "valid" or "unlabelled".

    Raises:
        DataError: See check_tables().
    """
    # Before there are lengths, ESPnet takes any table of the utterances for them.
    shapes = [] if args.collect_stats else getattr(args, f"{kind}_shape_file")
    check_tables(getattr(args, f"{kind}_data_path_and_name_and_type"), shapes)
    if kind == "train" and args.batch_type in DRAWN:
        remedy = f"batch_type {args.batch_type} wants lengths alone (cut -d, -f1)"
        for file in files_of(shapes):
            _check_table(file, LENGTH, remedy)


def check_tables(lists: Collection[Sequence[str]], shapes: Collection[str]) -> None:
    """Check that each line has a unique key and, in shape files, a length.

    Args:
        lists: Path, name and type, as in ``train_data_path_and_name_and_type``.
        shapes: Shape files.

    Raises:
        DataError: A line is malformed or not UTF-8, a key is repeated, or a file empty.
    """
    for file in files_of([path for path, *_ in lists]):
        _check_table(file, None, "make the list again")
    for file in files_of(shapes):
        _check_table(file, SHAPE, "make the shape file again (birq.sh --stage 6)")


def files_of(paths: Collection[str]) -> Iterator[Path]:
    """Yield the files; for the folder of a list split into parts, its parts."""
    for path in map(Path, paths):
        if path.is_dir():
            yield from sorted(path.glob("split.*"))
        elif path.is_file():
            yield path


def describe_lists(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Describe the files on which the batches of a set depend.

    Args:
        args: Options of training.
        kind: "train", "valid" or "unlabelled".

    Returns:
        Size and hash by path; for a list split into parts, those of its parts.
    """
    entries = getattr(args, f"{kind}_data_path_and_name_and_type", [])
    paths = [*getattr(args, f"{kind}_shape_file", [])]
    for path, _, form in entries:
        paths.append(path)
        stamp = Path(path).with_name(STAMP)
        # The lists of old and new labels may be the same to the byte.
        if form == "kaldi_ark" and stamp.is_file():
            paths.append(str(stamp))
    iterator = getattr(args, f"{kind}_iterator_type", None) or args.iterator_type
    if entries and iterator == "category":
        paths.append(str(Path(entries[0][0]).with_name(CATEGORIES)))
    return {path: _describe(Path(path)) for path in paths}


def _describe(path: Path) -> Any:
    if path.is_dir():
        return {file.name: describe(file) for file in sorted(path.glob("split*"))}
    return describe(path)


def _check_table(path: Path, form: re.Pattern | None, remedy: str) -> None:
    with path.open("rb") as stream:
        refuse_byte_order_mark(path, stream.read(3))
    keys: set[str] = set()
    for number, line in enumerate(read_lines(path, remedy), 1):
        key, *value = line.split(maxsplit=1) or [""]
        if not key or "\r" in line.removesuffix("\n").removesuffix("\r"):
            raise DataError(f"{path}: line {number} is blank, or broken; {remedy}")
        if key in keys:
            raise DataError(f"{path}: line {number}: {key[:80]} occurs twice; {remedy}")
        keys.add(key)
        if form and not form.fullmatch("".join(value).rstrip()):
            alone = " alone" if form is LENGTH else ""
            raise DataError(
                f"{path}: line {number}: {key[:80]} has no length{alone}; {remedy}"
            )
    if not keys:
        raise DataError(f"{path}: is empty; {remedy}")
