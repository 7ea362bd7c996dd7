"""finetune.sh: its help, and options that are refused before anything is read."""

import re
import subprocess

from checkout import ROOT

FINETUNE = ROOT / "egs2/TEMPLATE/asr1/finetune.sh"


def test_help_shows_all_of_the_usage():
    done = subprocess.run([FINETUNE, "--help"], capture_output=True, text=True)
    assert "--python" in done.stdout and "shellcheck" not in done.stdout
    assert done.stdout.rstrip().endswith("--hf_repo")


def test_help_names_options_that_asr_sh_has(an4_tarball):
    """A recipe's run.sh prints this help, too."""
    run_sh = ROOT / "egs2/mini_synth/asr1/run.sh"
    done = subprocess.run([run_sh, "--help"], capture_output=True, text=True)
    _, found, named = done.stdout.partition("The commonest ones:")
    assert found and "./asr.sh --help" in done.stdout
    names = re.findall(r"--(\w+)", named)
    assert {"ngpu", "nj", "nbpe", "inference_config"} <= set(names)
    script = an4_tarball.parents[2] / "TEMPLATE/asr1/asr.sh"
    header = script.read_text().partition("help_message=")[0]
    assert set(names) <= set(re.findall(r"^(\w+)=", header, re.MULTILINE))


def test_folders_with_spaces_are_refused_first(tmp_path):
    (tmp_path / "asr.yaml").write_text("encoder: conformer\n")
    command = [FINETUNE, "--asr_tag", "x", "--asr_config", "asr.yaml"]
    done = subprocess.run(
        [*command, "--expdir", "my exp"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("finetune.sh: error: --expdir 'my exp': has a space")
