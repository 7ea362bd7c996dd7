"""Whatever reads files from outside reads them, or refuses them in one line.

pytest tests/fuzz -m slow    # MANY inputs each; the default: FEW, always the same
"""

import contextlib

import fuzz_corpora
import fuzz_datadir
import fuzz_evaluation
import fuzz_experiments
import fuzz_models
import pytest
from fuzzing import try_reader, watched, write_files
from hypothesis import HealthCheck, Phase, example, given, settings

ROOMS = (fuzz_datadir, fuzz_corpora, fuzz_evaluation, fuzz_models, fuzz_experiments)
READERS = [reader for room in ROOMS for reader in room.READERS]
FEW, WANTED = 20, 100_000
MANY = -(-WANTED // len(READERS))


def fuzz(reader, top, number, **more):
    """Try a reader with so many damaged files."""
    tried = []
    whole = top / "whole"
    write_files(whole, reader.files)
    with contextlib.chdir(whole):  # what is compiled is, before writing is watched
        reader.read(whole)

    def one(found):
        tried.append(try_reader(reader, *found, top))

    for found in reader.faults:
        one = example(found)(one)
    common = dict(
        deadline=None,  # watched() has one of its own, which ends what hangs
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    settings(max_examples=number, **common, **more)(given(reader.damaged())(one))()
    return tried


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_it_reads_what_is_whole(reader, tmp_path):
    """What is tried below is damage."""
    write_files(tmp_path / "folder", reader.files)
    with watched(tmp_path / "folder"):
        reader.read(tmp_path / "folder")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_few(reader, tmp_path):
    fuzz(reader, tmp_path, FEW, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_many(reader, tmp_path):
    """Others each time; hypothesis prints how to repeat what fails."""
    tried = fuzz(reader, tmp_path, MANY, print_blob=True)
    print(f"{reader.name}: {len(tried)} files, {sum(tried)} of them read")
    assert len(tried) >= MANY
