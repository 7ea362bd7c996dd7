"""egs2/librispeech from audio to scores, on a few real utterances of LibriSpeech.

The configurations are those of the recipe, with smaller layers, batches and epochs:
both models are averages of five epochs, as at full size.
"""

import re

import pytest
import torch
from checkout import copy_checkout, run

SMALL = (
    "--encoder_conf num_blocks=2 --encoder_conf output_size=16 --encoder_conf "
    "attention_heads=2 --encoder_conf linear_units=32 --encoder_conf "
    "cnn_module_kernel=7 --batch_bins 1000000 --max_epoch 5 --num_workers 0"
)
SETS = ["--train_set", "train_clean_100", "--valid_set", "test_other"]


@pytest.fixture
def corpus(shared_data, tmp_path):
    """Corpus of 24 utterances for training and one reader of test-other."""
    real = shared_data / "librispeech" / "LibriSpeech"
    top = tmp_path / "corpus" / "LibriSpeech"
    for part, readers in (("train-clean-100", 24), ("test-other", 1)):
        (top / part).mkdir(parents=True)
        for reader in sorted((real / part).iterdir())[:readers]:
            (top / part / reader.name).symlink_to(reader)
    for path in real.glob("*.TXT"):
        (top / path.name).symlink_to(path)
    return top.parent


def epochs_of(exp, criterion):
    """Check that a model is an average of five epochs; return its tensors."""
    model = exp / f"valid.{criterion}.ave.pth"
    assert model.readlink().name == f"valid.{criterion}.ave_5best.pth"
    assert len(list(exp.glob("[1-5]epoch.pth"))) == 5
    return torch.load(model, weights_only=True)


@pytest.mark.slow
def test_from_audio_to_scores(corpus, an4_tarball, tmp_path):
    top = copy_checkout(tmp_path / "checkout", an4_tarball.parents[3])
    egs = top / "egs2" / "librispeech"
    common = ["--librispeech", str(corpus), *SETS, "--ngpu", "0", "--num_threads", "1"]
    common += ["--skip_bad", "true"]  # the sets are partial
    command = ["./run.sh", "--method", "birq", *common, "--ssl_args", SMALL]
    run(command, egs / "ssl1")
    ssl = epochs_of(egs / "ssl1" / "exp" / "ssl_train_birq_raw", "total_count")
    command = ["./run.sh", "--method", "birq", *common, "--test_sets", "test_other"]
    run([*command, "--asr_args", SMALL], egs / "asr1")
    exp = egs / "asr1" / "exp" / "asr_birq"
    epochs_of(exp, "loss")
    handoff = (exp / "handoff.txt").read_text()
    loaded = sum(name.startswith("encoder.") for name in ssl)
    assert f"encoder tensors from pretraining: {loaded} of {loaded} " in handoff
    assert "frontend and normalize are the same" in handoff
    number = sum(1 for _ in (egs / "asr1/dump/raw/test_other/wav.scp").open())
    (row,) = re.findall(
        r"### WER\n\n.*\n.*\n\|.*/test_other\|(\d+)\|\d+\|.*\|([\d.]+)\|[\d.]+\|\n",
        (exp / "RESULTS.md").read_text(),
    )
    assert int(row[0]) == number > 5 and 0 < float(row[1]) <= 300
