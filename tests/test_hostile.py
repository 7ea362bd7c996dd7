"""Hostile files cannot run code, write outside their folder or fill a disk."""

import io
import os
import stat
import tarfile
import zipfile

import pytest
import torch
import trainings
import yaml
from planted import OBJECTIVES, write_experiment

from espnet2_birq import api
from espnet2_birq.bin import check_handoff, ssl_train
from espnet2_birq.checkpoint import unpack
from espnet2_birq.config import read_config
from espnet2_birq.corpora.ami import annotation
from espnet2_birq.corpora.an4 import unpack_an4
from espnet2_birq.corpora.yodas import shard
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.tasks.ssl import SSLTask


class Program:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def model(tmp_path):
    return write_experiment(tmp_path / "exp", SSLTask, objectives=OBJECTIVES)


def test_a_program_instead_of_a_model(model, tmp_path):
    torch.save({"encoder": Program(tmp_path / "ran")}, model)
    with pytest.raises(DataError, match="model.pth: is damaged, or contains more than"):
        api.load(model)
    with pytest.raises(SystemExit, match="error: .*model.pth: is damaged, or contains"):
        check_handoff.main([str(model), str(model)])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["checkpoint.pth", "progress.pth", "init.pth"])
def test_a_program_to_go_on_with(tmp_path, name):
    """ESPnet loads the checkpoint and the models of init_param."""
    (tmp_path / "exp").mkdir()
    content = Program(tmp_path / "ran")
    torch.save({"encoder": content}, tmp_path / "exp" / name)
    trainings.write_data(tmp_path)
    found = trainings.options(tmp_path, tmp_path / "exp", max_epoch=1)
    if name == "init.pth":
        found += ["--init_param", str(tmp_path / "exp" / name)]
    if name == "progress.pth":  # training does not use it and restarts
        ssl_train.main(found)
    else:
        with pytest.raises(
            SystemExit, match="it is not loaded: it could execute code$"
        ):
            ssl_train.main(found)
    assert not (tmp_path / "ran").exists()


def zip_of(path, name, content=b"x", mode=0):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, content)
    return path


@pytest.mark.parametrize("name", ["../out.pth", "/out.pth", "a/../../out.pth", "C:/x"])
def test_a_zip_that_leads_elsewhere(tmp_path, name):
    path = zip_of(tmp_path / "m.zip", name)
    with pytest.raises(DataError, match="m.zip: .* leads out of it: not unpacked"):
        api.load(path)


def test_a_zip_with_a_link(tmp_path):
    path = zip_of(tmp_path / "m.zip", "m.pth", b"/etc/passwd", stat.S_IFLNK | 0o777)
    with pytest.raises(DataError, match="is a link: not unpacked"):
        api.load(path)


def test_a_zip_that_unpacks_to_far_more(tmp_path):
    path = zip_of(tmp_path / "m.zip", "m.pth", bytes(100 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="unpacks to 1e\\+08 bytes: not unpacked"):
        api.load(path)


def test_a_zip_cut_short(tmp_path):
    path = zip_of(tmp_path / "m.zip", "m.pth", os.urandom(10000))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="m.zip: "):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    ["- 1\n", "x", "", "!!python/object/apply:os.mkdir [ran]\n", "1: 2\n", "a: ["],
)
def test_a_configuration_that_is_none(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(
        ConfigError, match="config.yaml: (no YAML|has no training options)"
    ):
        read_config(tmp_path / "config.yaml")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "option",
    [
        {"encoder_conf": 3},
        {"encoder_conf": {"output_size": "x"}},
        {"frontend_conf": {"n_fft": 0}},
        {"encoder": ["conformer"]},
        {"objectives": 1},
        {"masking_conf": None},
    ],
)
def test_a_configuration_of_no_model(model, option):
    path = model.parent / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **option}))
    with pytest.raises(ConfigError) as caught:
        api.load(model)
    assert len(str(caught.value).splitlines()) == 1


def test_xml_with_entities(tmp_path):
    """A billion laughs, and a file of this machine."""
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><x>&b;</x>'
    outside = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'
    for text in (laughs, outside):
        path = tmp_path / "words.xml"
        path.write_text(text)
        with pytest.raises(DataError, match="words.xml: not readable as XML .*DOCTYPE"):
            annotation._parse(path)
    path.write_text("<x>plain</x>")
    assert annotation._parse(path).text == "plain"


def tar_of(path, **attributes):
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo()
        for name, value in attributes.items():
            setattr(info, name, value)
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    return path


@pytest.mark.parametrize(
    "attributes",
    [
        dict(name="../out"),
        dict(name="/out"),
        dict(name="downloads", type=tarfile.SYMTYPE, linkname="/etc"),
        dict(name="a", type=tarfile.LNKTYPE, linkname="../../out"),
        dict(name="a", type=tarfile.CHRTYPE),
    ],
)
def test_a_tar_that_leads_elsewhere(tmp_path, attributes):
    path = tar_of(tmp_path / "downloads.tar.gz", **attributes)
    with pytest.raises(DataError, match="downloads.tar.gz: "):
        unpack_an4(path, tmp_path / "top" / "downloads")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "top" / "downloads").exists()


def test_a_tar_with_a_file_larger_than_any_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(shard, "LARGEST_MEMBER", 1000)
    path = tar_of(tmp_path / "s.tar.gz", name="x.wav", size=2000)
    with path.open("rb") as stream, pytest.raises(tarfile.TarError, match="2000 bytes"):
        list(shard.audio_members(stream, tmp_path))
