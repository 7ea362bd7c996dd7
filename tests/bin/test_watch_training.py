"""How far a training is, from what ESPnet logs."""

import yaml

from espnet2_birq.bin import watch_training

LINES = """\
[h] 2026-11-21 05:16:00,236 (trainer:810) INFO: 1epoch:train:1-10batch: loss=5.5
[h] 2026-11-21 05:17:00,561 (trainer:810) INFO: 1epoch:train:11-20batch: loss=4.5
[h] 2026-11-21 05:18:00,561 (trainer:810) INFO: 2epoch:train:1-10batch: loss_a=1, loss=4.25
"""


def test_progress(tmp_path, capsys):
    exp = tmp_path / "ssl_x"
    exp.mkdir()
    watch_training.main([str(exp), "--once"])
    assert not capsys.readouterr().out  # nothing yet
    (exp / "train.log").write_text("# Started\n")
    conf = dict(max_epoch=5, num_iters_per_epoch=20)
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    watch_training.main([str(exp), "--once"])
    assert not capsys.readouterr().out
    (exp / "train.log").write_text(LINES)
    watch_training.main([str(exp), "--once"])
    # 20 batches took 120 s, 70 are left.
    assert capsys.readouterr().out == (
        "    ssl_x: epoch 2 of 5, batch 10 of 20, loss 4.250, about 7 min left\n"
    )
    (exp / "config.yaml").write_text(yaml.safe_dump(dict(max_epoch=5)))
    watch_training.main([str(exp), "--once"])
    assert "epoch 2 of 5, batch 10, loss 4.250\n" in capsys.readouterr().out
