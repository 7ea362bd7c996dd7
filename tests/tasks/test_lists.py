"""Descriptions of the files that the batches of a set depend on."""

import argparse

import pytest

from espnet2_birq.datadir.stamp import STAMP
from espnet2_birq.tasks.changes import describe_origin, tell_changes


@pytest.fixture
def args(tmp_path):
    """Options of a training on labels from disk, of two languages."""
    for folder in ("data", "labels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "shape").write_text("a 10\nb 20\n")
    (tmp_path / "data" / "wav.scp").write_text("a a.wav\nb b.wav\n")
    (tmp_path / "data" / "category2utt").write_text("en a\nsw b\n")
    (tmp_path / "labels" / "labels.scp").write_text("a x.ark:2\nb x.ark:9\n")
    (tmp_path / "labels" / STAMP).write_text('{"files": {"km.npz": 1}}')
    entries = [(f"{tmp_path}/data/wav.scp", "speech", "sound")]
    entries += [(f"{tmp_path}/labels/labels.scp", "labels", "kaldi_ark")]
    sets = {
        f"{kind}_{name}": value
        for kind in ("train", "valid")
        for name, value in (
            ("shape_file", [f"{tmp_path}/data/shape"]),
            ("data_path_and_name_and_type", entries),
        )
    }
    return argparse.Namespace(
        iterator_type="sequence", valid_iterator_type=None, **sets
    )


@pytest.mark.parametrize(
    "name, iterator, told",
    [
        ("data/wav.scp", "sequence", True),
        (f"labels/{STAMP}", "sequence", True),
        ("data/category2utt", "category", True),
        ("data/category2utt", "sequence", False),
    ],
)
def test_other_content_is_told(tmp_path, args, caplog, name, iterator, told):
    """labels.scp itself is the same, byte by byte, if labels of the same model change."""
    args.iterator_type = iterator
    args.valid_iterator_type = "sequence"
    before = describe_origin(args)
    assert not tell_changes(before, describe_origin(args), 2)
    path = tmp_path / name
    path.write_text(
        "".join(sorted(path.read_text().splitlines(True), reverse=True)) + " "
    )
    assert tell_changes(before, describe_origin(args), 2) is told
    assert ("training lists (others, or of other" in caplog.text) is told


def test_other_content_of_a_list_in_parts_is_told(tmp_path, args):
    """As split for --multiple_iterator."""
    part = tmp_path / "data" / "parts" / "split.1"
    part.parent.mkdir()
    part.write_text("b b.wav\n")
    args.train_data_path_and_name_and_type = [(str(part.parent), "speech", "sound")]
    before = describe_origin(args)
    assert not tell_changes(before, describe_origin(args), 2)
    part.write_text("a a.wav\n")
    assert tell_changes(before, describe_origin(args), 2)
