"""run.sh of the fine-tuning recipes: effects of --protocol and --method."""

import pytest
from checkout import ROOT, run

from espnet2_birq.config import averaged_model


def options_of(tmp_path, corpus, *arguments):
    """Return what run.sh passes to finetune.sh, by option; the last value counts."""
    folder = tmp_path / "egs2" / corpus / "asr1"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        if not (tmp_path / "local").exists():
            (tmp_path / "local").symlink_to(ROOT / "local")
        (folder / "run.sh").symlink_to(ROOT / "egs2" / corpus / "asr1" / "run.sh")
        (folder / "conf").symlink_to(ROOT / "conf" / corpus)
        (folder / "finetune.sh").write_text('#!/bin/sh\nprintf "%s\\n" "$@"')
        (folder / "finetune.sh").chmod(0o755)
    given = run(["./run.sh", *arguments], folder).stdout.splitlines()
    given = dict(zip(given[::2], given[1::2], strict=True))
    for name in ("--asr_config", "--inference_config"):
        assert (folder / given[name]).is_file(), given[name]
    return given


@pytest.mark.parametrize("protocol", ["paper", "strong"])
@pytest.mark.parametrize("corpus", ["librispeech", "ami", "mini_librispeech"])
def test_from_scratch_is_the_same_but_for_the_model(tmp_path, corpus, protocol):
    runs = [
        options_of(tmp_path, corpus, "--method", method, "--protocol", protocol)
        for method in ("birq", "best_rq", "scratch")
    ]
    suffix = "" if protocol == "paper" else "_strong"
    tags = [one.pop("--asr_tag") for one in runs]
    assert tags == [f"{method}{suffix}" for method in ("birq", "best_rq", "scratch")]
    models = [one.pop("--ssl_model") for one in runs]
    assert "birq" in models[0] and "best_rq" in models[1] and models[2] == "none"
    assert runs[0] == runs[1] == runs[2]
    paper = protocol == "paper"
    assert runs[0]["--token_type"] == ("char" if paper else "bpe")
    assert ("strong" in runs[0]["--asr_config"]) is not paper
    kind = "loss" if paper else "acc"
    config = ROOT / "egs2" / corpus / "asr1" / runs[0]["--asr_config"]
    assert averaged_model(config) == f"valid.{kind}.ave.pth"


def test_paper_is_the_default(tmp_path):
    for corpus in ("librispeech", "ami", "mini_librispeech"):
        default = options_of(tmp_path, corpus)
        assert default == options_of(tmp_path, corpus, "--protocol", "paper")


@pytest.mark.parametrize("mic", ["ihm", "sdm1", "mdm8"])
def test_microphones_of_ami(tmp_path, mic):
    given = options_of(tmp_path, "ami", "--mic", mic)
    assert given["--ssl_model"].startswith(f"../ssl1/exp/{mic}/")
    assert (
        given["--expdir"] == f"exp/{mic}"
        and f"--mic {mic}" in (given["--local_data_opts"])
    )
    assert given["--train_set"] == f"{mic}_train"
    assert given["--test_sets"] == f"{mic}_dev {mic}_eval"
