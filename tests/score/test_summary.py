"""The table of several systems."""

import pytest
from nist import write_trn

from espnet2_birq.errors import DataError
from espnet2_birq.score.summary import HEADER, summarize

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
    assert lines[2] == "| none (dev) |" + " - |" * 5 + f" {rate} | {rate} | 0, 128 |"
    assert lines[3].startswith("| (test) |") and rate in lines[3]
    assert lines[5] == (
        "Normalisation: none. [95 %]: bootstrap over dev (6 utterances), "
        "test (6 speakers)."
    )
    (exp / "train.log").unlink()
    with pytest.raises(DataError, match="train.log: no such file"):
        summarize([("none", None, exp)])
