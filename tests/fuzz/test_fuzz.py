"""All readers of files from outside read damaged files, or refuse them in one line.

pytest tests/fuzz -m slow    # many inputs each; by default few, always the same
"""

import contextlib
from random import Random

import fuzz_corpora
import fuzz_datadir
import fuzz_evaluation
import fuzz_experiments
import fuzz_models
import pytest
from fuzzing import TEMPORARY, try_reader, watched, write_files
from hypothesis import HealthCheck, Phase, given, settings, strategies

ROOMS = (fuzz_datadir, fuzz_corpora, fuzz_evaluation, fuzz_models, fuzz_experiments)
READERS = [reader for room in ROOMS for reader in room.READERS]
FEW, WANTED = 20, 100_000
AT_ONCE = 25  # files per example of hypothesis, which costs more than they do
SHARES = sum(reader.share for reader in READERS)
SETTINGS = dict(
    deadline=None,  # watched() has its own, which ends hanging readers
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],  # failures are shown, and already small
)


def fuzz(reader, top, random):
    """Try a reader with a damaged file; return whether it was read."""
    name, content = reader.damaged(random)
    try:
        return try_reader(reader, name, content, top)
    except BaseException as error:
        print(f"{reader.name}: {error!r}, where {name} was {content!r}")
        raise


def read_once(reader, top):
    """Read valid files, so that modules are compiled before writing is watched."""
    write_files(top / "whole", reader.files)
    with contextlib.chdir(top / "whole"):
        reader.read(top / "whole")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_it_reads_what_is_whole(reader, tmp_path):
    """Undamaged files can be read."""
    read_once(reader, tmp_path)
    write_files(tmp_path / "folder", reader.files)
    (tmp_path / "folder" / TEMPORARY).mkdir()
    with watched(tmp_path / "folder"):
        reader.read(tmp_path / "folder")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_few(reader, tmp_path):
    read_once(reader, tmp_path)
    for name, content in reader.faults:
        try_reader(reader, name, content, tmp_path)

    @settings(max_examples=FEW, derandomize=True, **SETTINGS)
    @given(strategies.randoms())
    def one(random):
        fuzz(reader, tmp_path, random)

    one()


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many(reader, tmp_path):
    """Try different files in each run; add failing ones to the reader's faults."""
    read_once(reader, tmp_path)
    tried = []

    wanted = -(-WANTED * reader.share // SHARES)

    @settings(max_examples=-(-wanted // AT_ONCE), **SETTINGS)
    @given(strategies.integers(0, 2**64))
    def some(seed):
        random = Random(seed)
        tried.extend(fuzz(reader, tmp_path, random) for _ in range(AT_ONCE))

    some()
    print(f"{reader.name}: {len(tried)} files, {sum(tried)} of them read")
    assert len(tried) >= wanted
