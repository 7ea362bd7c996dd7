"""Label files are read by ESPnet's own types, and are complete or absent."""

import os
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from espnet2.train.dataset import ESPnetDataset

from espnet2_birq.relabelling.store import write_labels


@pytest.mark.parametrize("size", [100, 2**15, 2**15 + 1])
def test_espnet_reads_them_as_they_are(tmp_path, size):
    """All codes, missing labels, and utterances of one frame or more; also by kaldiio."""
    draw = np.random.default_rng(0)
    codes = {f"u{n}": draw.integers(-1, size, n) for n in (1, 2, 3, 17, 4000)}
    codes["u5"] = np.array([-1, 0, size - 1, 0, -1])
    write_labels(tmp_path / "labels.1.ark", codes.items(), size, 25.0)
    scp = str(tmp_path / "labels.1.scp")
    dataset = ESPnetDataset([(scp, "labels", "kaldi_ark")])
    assert list(dataset) == list(codes)
    for name, expected in codes.items():
        found = dataset[name][1]["labels"]
        assert found.dtype == np.int64 and np.array_equal(found, expected)
    if size > 2**15:
        return  # which kaldiio cannot read
    for name, (rate, found) in kaldiio.load_scp(scp).items():
        assert rate == 25 and np.array_equal(found, codes[name])


def test_two_bytes_a_frame(tmp_path):
    """Plus 44 bytes and the name for each utterance."""
    labels = [(f"u{n:03}", np.full(400, n)) for n in range(100)]
    write_labels(tmp_path / "labels.1.ark", labels, 100, 25.0)
    assert (tmp_path / "labels.1.ark").stat().st_size == 100 * (800 + 44 + 5)


def test_the_archive_is_on_disk_before_its_list(tmp_path, monkeypatch):
    """After a power cut, a list that is there points to labels that are there."""
    synced = []
    sync = os.fsync

    def record(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced.append((path.name, path.stat().st_size, scp.exists()))
        sync(descriptor)

    ark, scp = tmp_path / "labels.1.ark", tmp_path / "labels.1.scp"
    monkeypatch.setattr(os, "fsync", record)
    write_labels(ark, [("a", np.ones(3, int))], 9, 25.0)
    assert (ark.name, ark.stat().st_size, False) in synced


def test_a_list_appears_when_all_labels_are_there(tmp_path):
    def broken():
        yield "a", np.zeros(3, int)
        raise KeyboardInterrupt

    ark, scp = tmp_path / "labels.1.ark", tmp_path / "labels.1.scp"
    write_labels(ark, [("a", np.ones(3, int))], 9, 25.0)
    with pytest.raises(KeyboardInterrupt):
        write_labels(ark, broken(), 9, 25.0)
    assert not scp.exists()  # its archive has been replaced
    write_labels(ark, [("a", np.ones(3, int))], 9, 25.0)
    assert scp.read_text() == f"a {ark}:2\n"
