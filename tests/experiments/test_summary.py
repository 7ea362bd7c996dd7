"""Table of several systems."""

import pytest
from nist import write_trn

from espnet2_birq.errors import DataError
from espnet2_birq.experiments.summary import HEADER, summarize

LOG = """\
[h] 2026-11-21 05:16:45,236 (trainer:810) INFO: 1epoch:train:1-10batch: loss=22.698
[h] 2026-11-21 05:18:53,330 (trainer:392) INFO: 1epoch results: [train] loss=8.9, \
total_count=20, [valid] loss=6.524
"""


def test_scratch(tmp_path):
    exp = tmp_path / "exp/asr"
    for kind in ("cer", "wer"):
        for name in ("dev", "test"):
            folder = exp / "decode" / name / f"score_{kind}"
            folder.mkdir(parents=True)
            speakers = 6 if name == "test" else 2
            ids = [f"s{i}-{j}" for i in range(speakers) for j in range(3)]
            write_trn(folder / "ref.trn", dict.fromkeys(ids, "a b c d"))
            write_trn(folder / "hyp.trn", dict.fromkeys(ids, "a b c x"))
    (exp / "train.log").write_text(LOG)
    lines = summarize([("none", None, exp)]).splitlines()
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    rate = "25.0 [25.0, 25.0]"
    assert lines[2] == "| none (dev) |" + " - |" * 4 + f" {rate} | {rate} | 0, 128 |"
    assert lines[3].startswith("| (test) |") and rate in lines[3]
    assert lines[5] == (
        "Normalisation: none. [95 %]: bootstrap over dev (6 utterances), "
        "test (6 speakers)."
    )
    (exp / "train.log").unlink()
    with pytest.raises(DataError, match="train.log: no such file"):
        summarize([("none", None, exp)])


PRETRAINING = """\
[h] 2026-11-21 05:16:45,236 (trainer:810) INFO: 1epoch:train:1-10batch: \
loss_low=3.5, loss=22.698, loss_scale=1.0
[h] 2026-11-21 05:17:45,236 (trainer:810) INFO: 1epoch:train:11-20batch: \
loss_low=2.25, loss_high=1.0, loss=22.698, loss_scale=1.0
[h] 2026-11-21 05:18:53,330 (trainer:392) INFO: 1epoch results: [train] \
loss_low=2.9, acc_low=0.25, label_ppl_low=20.4, pred_ppl_low=9.9, loss_high=1.0, \
acc_high=0.5, label_ppl_high=7.0, pred_ppl_high=3.0, loss_scale=1.0, total_count=20, \
[valid] loss=6.524
"""


def test_objectives_of_any_name(tmp_path):
    """No name is special: each objective in the log is shown."""
    asr, ssl = tmp_path / "asr", tmp_path / "ssl"
    folder = asr / "decode" / "test" / "score_wer"
    for kind in ("cer", "wer"):
        folder = asr / "decode" / "test" / f"score_{kind}"
        folder.mkdir(parents=True)
        write_trn(folder / "ref.trn", {"s-1": "a b", "t-1": "a b"})
        write_trn(folder / "hyp.trn", {"s-1": "a b", "t-1": "a b"})
    (asr / "train.log").write_text(LOG)
    (asr / "handoff.txt").write_text("encoder tensors from pretraining: 3 of 3\n")
    ssl.mkdir()
    (ssl / "train.log").write_text(PRETRAINING)
    row = summarize([("mine", ssl, asr)]).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:6] == [
        "low: 3.50, 2.25; high: -, 1.00",
        "25.0; 50.0",
        "20 / 10; 7 / 3",
        "3 of 3",
    ]
    stopped = PRETRAINING.replace("loss_low=2.25, ", "").replace(
        "loss_low=2.9, acc_low=0.25, label_ppl_low=20.4, pred_ppl_low=9.9, ", ""
    )
    (ssl / "train.log").write_text(stopped)
    assert "| low: 3.50, -; high: -, 1.00 | -; 50.0 |" in summarize([("m", ssl, asr)])
    (asr / "handoff.txt").write_text("")
    with pytest.raises(DataError, match="handoff.txt: is incomplete"):
        summarize([("mine", ssl, asr)])


def test_latent_prediction_and_a_run_without_an_epoch(tmp_path):
    asr, ssl = tmp_path / "asr", tmp_path / "ssl"
    for kind in ("cer", "wer"):
        folder = asr / "decode" / "test" / f"score_{kind}"
        folder.mkdir(parents=True)
        write_trn(folder / "ref.trn", {"s-1": "a b"})
        write_trn(folder / "hyp.trn", {"s-1": "a b"})
    (asr / "train.log").write_text(LOG)
    (asr / "handoff.txt").write_text("encoder tensors from pretraining: 3 of 3\n")
    ssl.mkdir()
    batch = (
        "[h] 2026-11-21 05:16:45,236 (t) INFO: 1epoch:train:1-2batch: loss_reg=2.0\n"
    )
    epoch = (
        "[h] 2026-11-21 05:17:45,236 (t) INFO: 1epoch results: [train] loss_reg=2.5, "
    )
    epoch += "target_std_reg=1.0, [valid] loss_reg=2.4\n"
    (ssl / "train.log").write_text(batch)
    with pytest.raises(DataError, match="no epoch of pretraining has ended"):
        summarize([("mine", ssl, asr)])
    (ssl / "train.log").write_text(batch + epoch)
    row = summarize([("mine", ssl, asr)]).splitlines()[2]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:5] == ["reg: 2.00, 2.00", "-", "- / -"]
