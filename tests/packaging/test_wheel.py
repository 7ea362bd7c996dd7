"""Contents of the wheel and source distribution, and use of the wheel alone."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT, run

from espnet2_birq.api import load
from espnet2_birq.errors import ConfigError
from espnet2_birq.recipes import FOLDERS, copy_recipes, left_behind

BUILD = "import sys; from setuptools import build_meta as b; b.build_{}(sys.argv[1])"
NOT_SOURCE = shutil.ignore_patterns(
    *(
        ".git",
        ".venv",
        "tools",
        "build",
        "*.egg-info",
        "site",
        ".hypothesis",
        "__pycache__",
        ".*_cache",
    ),
    *("data", "data_*", "dump", "exp", "downloads", "*.log"),
)


def not_source(folder: str, names: list[str]) -> set[str]:
    """Return names that do not belong to the source; scripts always do."""
    return {name for name in NOT_SOURCE(folder, names) if not name.endswith(".sh")}


def contents(top: Path) -> dict[str, tuple]:
    """Map every file of a tree to its link's target, or its mode and bytes."""
    found = {}
    for folder, below, names in os.walk(top):
        for name in (*below, *names):
            path = Path(folder, name)
            key = str(path.relative_to(top))
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))
            elif path.is_file():
                found[key] = (os.access(path, os.X_OK), path.read_bytes())
    return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """Clean checkout, except for files left behind by a recipe."""
    top = tmp_path_factory.mktemp("source") / "checkout"
    shutil.copytree(ROOT, top, symlinks=True, ignore=not_source)
    for name in ("exp_small", "data"):
        (top / "egs2/own/ssl1" / name).mkdir()
        (top / "egs2/own/ssl1" / name / "left").touch()
    (top / "egs2/mini_synth/demo.log").touch()
    return top


@pytest.fixture(scope="module")
def unpacked(checkout, tmp_path_factory) -> Path:
    """The source distribution."""
    out = tmp_path_factory.mktemp("sdist")
    run([sys.executable, "-c", BUILD.format("sdist"), str(out)], checkout)
    (archive,) = out.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(out, filter="data")  # as pip does
    return next(path for path in out.iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def wheel(unpacked, tmp_path_factory) -> Path:
    """The wheel built from the source distribution, as by `python -m build`."""
    out = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-c", BUILD.format("wheel"), str(out)], unpacked)
    (file,) = out.glob("*.whl")
    return file


def test_source_distribution_is_whole(checkout, unpacked):
    expected = contents(checkout)
    for name in list(expected):
        left = name.endswith((".log", "/left")) or ".egg-info/" in name
        if left or name.startswith("build/") or name == "setup.cfg":
            del expected[name]  # setuptools rewrites setup.cfg with other spaces
    found = contents(unpacked)
    assert len(expected) > 500
    assert {name: found.get(name) for name in expected} == expected
    more = {name for name in found.keys() - expected.keys() if ".egg-info/" not in name}
    assert more == {"PKG-INFO", "setup.cfg"}


def test_wheel_has_recipes_and_configurations(checkout, wheel, tmp_path):
    site = tmp_path / "site"
    run([sys.executable, "-m", "zipfile", "-e", str(wheel), str(site)], tmp_path)
    tops = {path.name for path in site.iterdir()}
    assert tops == {"espnet2_birq", f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info"}
    for name in ("py.typed", "share/conf/tuning/train_birq_c1.yaml"):
        assert (site / "espnet2_birq" / name).is_file()
    # zipfile drops modes, which pip restores
    with zipfile.ZipFile(wheel) as archive:
        for info in archive.infolist():
            (site / info.filename).chmod(info.external_attr >> 16)
    env = {**os.environ, "PYTHONPATH": str(site)}

    def birq(*args):
        return subprocess.run(
            [sys.executable, "-m", "espnet2_birq", *args],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
        )

    assert birq("recipes", "mine").returncode == 0
    copied = contents(tmp_path / "mine")
    expected = {
        name: value
        for name, value in contents(checkout).items()
        if name.startswith(FOLDERS) and not name.endswith((".log", "/left"))
    }
    assert copied == expected
    again = birq("recipes", "mine")
    assert again.returncode == 1 and "mine: is not empty" in again.stderr
    config = ["plan", "--hours", "960", "--config"]
    done = birq(*config, "birq:mini_an4/train_birq.yaml")
    assert done.returncode == 0, done.stderr
    done = birq(*config, "birq:mini_an4/train_brq.yaml")
    assert done.returncode == 2, done.stdout
    assert "e.g. birq:mini_an4/train_birq.yaml, " in done.stderr
    assert str(site) not in done.stderr and str(ROOT) not in done.stderr


def test_recipes_of_a_checkout(tmp_path):
    copy_recipes(tmp_path / "a")
    assert contents(tmp_path / "a/conf").keys() == contents(ROOT / "conf").keys()
    with pytest.raises(ConfigError, match="take no path with a space"):
        copy_recipes(tmp_path / "a b")
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="is not empty"):
        copy_recipes(tmp_path / "link")
    assert left_behind("x/egs2/own/ssl1", ["exp", "run.sh", "RESULTS.md"]) == {"exp"}


def test_failed_copy_of_recipes_leaves_nothing(tmp_path, monkeypatch):
    def full(source, dest, **options):
        dest.mkdir()
        raise OSError(28, "No space left on device", str(dest))

    monkeypatch.setattr("espnet2_birq.recipes.shutil.copytree", full)
    with pytest.raises(OSError, match="No space left"):
        copy_recipes(tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """New environment with the wheel and ESPnet, without this checkout."""
    top = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", "--without-pip", str(top / "venv")], top)
    (site,) = top.glob("venv/lib/python3*/site-packages")
    # Folders listed in a .pth file are no site folders: their own .pth files, by which
    # the checkout is installed, have no effect.
    others = [path for path in sys.path if path.endswith("site-packages")]
    distutils = "import _distutils_hack; _distutils_hack.add_shim()"  # setuptools' own
    (site / "others.pth").write_text("\n".join([*others, distutils]))
    pip = [sys.executable, "-m", "pip", "--python", str(top / "venv")]
    run([*pip, "install", "--no-deps", "--no-index", str(wheel)], top)
    return top


@pytest.mark.slow
def test_pretrain_pack_and_use_with_the_wheel_alone(
    installed, an4_tarball, tmp_path, monkeypatch
):
    binaries = installed / "venv" / "bin"
    monkeypatch.setattr(sys, "executable", str(binaries / "python3"))
    monkeypatch.setenv("ESPNET_ROOT", str(an4_tarball.parents[3]))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    birq = str(binaries / "birq")
    where = "import espnet2_birq; print(espnet2_birq.__file__)"
    said = run([sys.executable, "-c", where], tmp_path).stdout
    assert said.startswith(str(installed)), said
    assert "birq NAME [OPTIONS]" in run([birq, "--help"], tmp_path).stdout
    run([birq, "recipes", "mine"], tmp_path)
    run(["mine/local/setup.sh"], tmp_path)
    recipe = tmp_path / "mine/egs2/mini_an4/ssl1"
    done = run(["./run.sh", "--skip_packing", "false"], recipe)
    assert (
        "8 pack: done" in run([birq, "status", "exp/ssl_train_birq_raw"], recipe).stdout
    )
    (packed,) = (recipe / "exp/ssl_train_birq_raw").glob("*.zip")
    shutil.copy(packed, tmp_path / "model.zip")
    data = str(recipe / "dump/raw/train_dev")
    run([birq, "features", "model.zip", data, "--out", "features"], tmp_path)
    (features,) = Path(tmp_path / "features").glob("*/feats.scp")
    assert len(features.read_text().splitlines()) == 1, done.stdout[-2000:]
    assert load(tmp_path / "model.zip").depth == 2
    tiny = ["--config", "birq:mini_an4/train_birq.yaml", "--max_epoch", "1"]
    for name in ("train", "valid"):
        scp = recipe / f"dump/raw/{'train_nodev' if name == 'train' else 'train_dev'}"
        tiny += [f"--{name}_data_path_and_name_and_type", f"{scp}/wav.scp,speech,sound"]
        tiny += [f"--{name}_shape_file", f"{scp}/utt2num_samples"]
    run([birq, "ssl-train", *tiny, "--output-dir", str(tmp_path / "exp")], recipe)
    assert load(tmp_path / "exp").depth == 2
