"""The mini AN4 command."""

import io
import random
import tarfile

import numpy as np
import pytest
import soundfile

from espnet2_birq.bin.prepare_an4 import main
from espnet2_birq.corpora.an4 import read_an4, unpack_an4
from espnet2_birq.datadir.audio import probe
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import DataError


def make_tar(path, files):
    """Write a tar file of these names and contents."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_real_mini_an4(an4_tarball, tmp_path, capsys):
    options = ["--tarball", str(an4_tarball), "--downloads", str(tmp_path / "down")]
    main([*options, "--dest", str(tmp_path / "data")])
    texts = {
        folder.name: read_scp(folder / "text")
        for folder in (tmp_path / "data").iterdir()
    }
    # Split, ids and words are the same as in ESPnet's own recipe.
    assert texts == {
        "train_dev": {"fash-an251-b": "YES"},
        "train_nodev": {
            "fash-an253-b": "GO",
            "fbbh-cen8-b": "MARCH THIRD NINETEEN TWENTY EIGHT",
            "mwhw-an152-b": "START",
            "mwhw-cen8-b": "ELEVEN SEVENTEEN FIFTY ONE",
        },
        "test": {
            "fcaw-cen8-b": "ELEVEN TWENTY SEVEN FIFTY SEVEN",
            "mmxg-cen8-b": "OCTOBER TWENTY FOUR NINETEEN SEVENTY",
        },
    }
    for folder in (tmp_path / "data").iterdir():
        for utt_id, path in read_scp(folder / "wav.scp").items():
            assert path.startswith(str(tmp_path / "down" / "an4" / "wav"))
            assert probe(path).sample_rate == 16000
            assert read_scp(folder / "utt2spk")[utt_id] == utt_id.split("-")[0]
    assert "train_nodev: 4 utterances, 3 speakers" in capsys.readouterr().out
    # The error for another sampling rate suggests no option that this command lacks.
    path = tmp_path / "down/an4/wav/an4_clstk/fash/an251-fash-b.sph"
    content = path.read_bytes()
    soundfile.write(path, np.zeros(8000), 8000, format="NIST")
    with pytest.raises(SystemExit, match="error: .*: sample rate is 8000") as caught:
        main([*options, "--dest", str(tmp_path / "bad")])
    assert "--resample" not in str(caught.value)
    path.write_bytes(content)
    # The tar file is not needed once it has been unpacked.
    options[1] = str(tmp_path / "gone.tar.gz")
    main([*options, "--dest", str(tmp_path / "again")])
    assert (tmp_path / "again" / "test" / "wav.scp").is_file()


def test_missing_tar_file(tmp_path):
    options = ["--tarball", str(tmp_path / "gone.tar.gz")]
    options += ["--downloads", str(tmp_path / "down"), "--dest", str(tmp_path / "data")]
    with pytest.raises(SystemExit, match="error: .*gone.tar.gz: no such file; it is"):
        main(options)


def test_tar_file_that_is_none(tmp_path):
    (tmp_path / "a.tar.gz").write_text("<html>")
    with pytest.raises(DataError, match="a.tar.gz: not a readable tar file"):
        unpack_an4(tmp_path / "a.tar.gz", tmp_path / "down")


def test_cut_tar_file_leaves_nothing(tmp_path):
    noise = random.Random(0).randbytes(30000)  # does not compress
    path = make_tar(tmp_path / "a.tar.gz", {"downloads/an4/etc/x": noise})
    path.write_bytes(path.read_bytes()[:15000])
    with pytest.raises(DataError, match="a.tar.gz: not a readable tar file"):
        unpack_an4(path, tmp_path / "down")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_other_tar_file(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"downloads/README": b""})
    with pytest.raises(DataError, match="has no downloads/an4/etc"):
        unpack_an4(path, tmp_path / "down")


def test_tar_file_cannot_write_elsewhere(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", {"../../evil": b"x"})
    with pytest.raises(DataError, match="a.tar.gz: not a readable tar file"):
        unpack_an4(path, tmp_path / "here" / "down")
    assert not list(tmp_path.rglob("evil"))


def test_another_downloads_folder(tmp_path):
    (tmp_path / "down").mkdir()
    with pytest.raises(DataError, match="down: exists without AN4"):
        unpack_an4(tmp_path / "a.tar.gz", tmp_path / "down")


def test_malformed_transcript(tmp_path):
    (tmp_path / "an4" / "etc").mkdir(parents=True)
    transcripts = tmp_path / "an4" / "etc" / "an4_train.transcription"
    transcripts.write_text("<s> YES </s> (an251-fash-b)\nGO an253-fash-b\n")
    with pytest.raises(DataError, match="transcription: line 2"):
        read_an4(tmp_path / "an4", "train")
    with pytest.raises(DataError, match="an4_test.transcription: no such file"):
        read_an4(tmp_path / "an4", "test")
