"""egs2/ami: requests of its ssl1/run.sh, and what its data.sh and download.sh call."""

import io
import shutil
import zipfile

import pytest
from checkout import copy_checkout, run


@pytest.fixture
def ssl1(tmp_path, an4_tarball):
    """ssl1 in a copy, whose birq.sh and preparation tell what they were given."""
    top = copy_checkout(tmp_path / "top", an4_tarball.parents[3])
    folder = top / "egs2" / "ami" / "ssl1"
    (folder / "birq.sh").unlink()
    for script in (folder / "birq.sh", tmp_path / "bin" / "python3"):
        script.parent.mkdir(exist_ok=True)
        script.write_text('#!/bin/sh\necho "$*"\n')
        script.chmod(0o755)
    (folder / "local/path.sh").write_text(f"PATH={tmp_path}/bin:$PATH\n")
    return folder


def test_pretraining_needs_no_evaluation_set(ssl1):
    said = run(["./run.sh", "--mic", "sdm1", "--ami", "/c"], ssl1).stdout
    assert "--local_data_opts --sets train,dev --mic sdm1 --ami /c" in said
    said = run(["./run.sh", "--skip_bad", "true", "--dry_run", "true"], ssl1).stdout
    assert "--sets train,dev --skip_bad true --dry_run true --stage 1 --stop_st" in said


@pytest.mark.parametrize(
    "options, wanted, unwanted",
    [
        ("", ["--sets train,dev,eval"], ["--skip_bad", "--dry_run"]),
        ("--sets train,dev", ["--sets train,dev "], ["eval"]),
        ("--skip_bad true", ["--skip_bad"], ["--dry_run"]),
        ("--dry_run true", ["--dry_run"], ["--annotations_only"]),
        # Nothing has been beamformed yet.
        ("--dry_run true --mic mdm8", ["--dry_run", "--annotations_only"], []),
        ("--skip_bad true --mic mdm8", ["--skip_bad"], ["--annotations_only"]),
    ],
)
def test_options_of_the_preparation(ssl1, options, wanted, unwanted):
    said = run(["local/data.sh", "--ami", "/c", *options.split()], ssl1).stdout
    *beamforming, preparing = said.splitlines()
    assert ("mdm8" in options) == bool(beamforming)
    assert all("--dry_run" in line for line in beamforming) or "dry" not in options
    assert all(word in preparing for word in wanted), preparing
    assert not any(word in preparing for word in unwanted), preparing


def test_help_of_data_sh(ssl1):
    said = run(["local/data.sh", "--help"], ssl1).stdout
    assert "--skip_bad true" in said and "set -e" not in said


def test_half_an_annotation(ssl1, tmp_path):
    if not shutil.which("wget"):
        pytest.skip("downloads need the program wget")
    (ssl1 / "local/path.sh").unlink()
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("words/ES2011a.A.words.xml", "x" * 1000)
    path = tmp_path / "ami_public_manual_1.6.2.zip"
    path.write_bytes(content.getvalue()[:500])
    done = run(["local/download.sh", "mix", tmp_path], ssl1, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith(f"download.sh: error: {path}: cannot be unpacked; free some")
