"""Options for finetune.sh that depend on the pretrained model and on the data."""

import pytest
import yaml

from espnet2_birq.bin.finetune_options import main


@pytest.fixture
def config(tmp_path):
    """Options after `--`: a configuration, and 12 utterances of 10 samples."""
    settings = {
        "batch_type": "numel",
        "batch_bins": 40,
        "max_epoch": 4,
        "optim": "adamw",
        "scheduler": "tristagelr",
        "encoder": "conformer",
        "encoder_conf": {"num_blocks": 4},
    }
    (tmp_path / "asr.yaml").write_text(yaml.safe_dump(settings))
    shapes = "".join(f"u{number:02d} 10\n" for number in range(12))
    (tmp_path / "shape").write_text(shapes)
    return ["--", "--config", str(tmp_path / "asr.yaml"), "--train_shape_file"] + [
        str(tmp_path / "shape")
    ]


@pytest.mark.parametrize(
    "gpus, more, expected",
    [
        (1, [], "--scheduler_conf max_steps=12\n"),  # batches of 5, 5 and 2 utterances
        (6, [], "--scheduler_conf max_steps=8\n"),  # batches of 6 and 6
        (1, ["--accum_grad", "3"], "--scheduler_conf max_steps=4\n"),
        (1, ["--scheduler", "warmuplr"], "\n"),
        (1, ["--scheduler_conf", "max_steps=9"], "\n"),
        (1, ["--scheduler_conf", "hold_ratio=0.3"], "--scheduler_conf max_steps=12\n"),
    ],
)
def test_schedule(config, capsys, gpus, more, expected):
    main(["training", "--gpus", str(gpus), *config, *more])
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("before, warned", [(12, False), (8, True), (None, False)])
def test_a_schedule_that_goes_on(tmp_path, config, capsys, caplog, before, warned):
    """ESPnet resumes the scheduler with its own number of updates."""
    saved = {
        "token_list": ["a"],
        "scheduler_conf": {"max_steps": before} if before else {},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    main(["training", "--resumed", str(tmp_path / "config.yaml"), *config])
    assert capsys.readouterr().out == "--scheduler_conf max_steps=12\n"
    assert ("a schedule of 8 updates, which goes on" in caplog.text) is warned


def test_init_param(tmp_path, config, capsys):
    model = tmp_path / "model.pth"
    model.touch()
    (tmp_path / "config.yaml").write_text("encoder_conf: {num_blocks: 6}\n")
    main(["init_param", "--ssl_model", str(model), *config])
    spec = f"{model}:encoder:encoder:encoder.encoders.4.,encoder.encoders.5.\n"
    assert capsys.readouterr().out == spec
    main(
        ["init_param", "--ssl_model", str(model), *config]
        + ["--encoder_conf", "num_blocks=6"]
    )
    assert capsys.readouterr().out == f"{model}:encoder:encoder\n"
    # ESPnet's conformer has 6 layers if num_blocks is missing.
    (tmp_path / "config.yaml").write_text("encoder: conformer\nencoder_conf: {}\n")
    main(["init_param", "--ssl_model", str(model), *config])
    assert capsys.readouterr().out == spec
    with pytest.raises(SystemExit, match="^error: .*has 6 encoder layers"):
        main(
            ["init_param", "--ssl_model", str(model), *config]
            + ["--encoder_conf", "num_blocks=7"]
        )


def test_wrong_requests(config, capsys):
    with pytest.raises(SystemExit, match="^error: .*batch_type folded"):
        main(["training", *config, "--batch_type", "folded"])
    main(["training", *config, "--batch_type", "folded", "--scheduler", "warmuplr"])
    assert capsys.readouterr().out == "\n"
    # With any scheduler, ESPnet would report a training without an update as a success.
    for scheduler in ("tristagelr", "warmuplr"):
        with pytest.raises(SystemExit, match="^error: an epoch of 3 batches has no"):
            main(["training", *config, "--accum_grad", "4", "--scheduler", scheduler])
    with pytest.raises(SystemExit, match="^error: give --train_shape_file"):
        main(["training", *config[:3]])
    with pytest.raises(SystemExit):
        main(["init_param", *config])
    assert "init_param requires --ssl_model" in capsys.readouterr().err


def test_configurations_are_those_of_asr_train(tmp_path, config, capsys):
    shape = config[-2:]
    named = ["--config", "birq:librispeech/train_asr.yaml", "--accum_grad", "1"]
    main(["training", "--", *named, *shape])
    assert capsys.readouterr().out == "--scheduler_conf max_steps=30\n"
    main(["training", *config, "--accum-grad", "3"])
    assert capsys.readouterr().out == "--scheduler_conf max_steps=4\n"
    (tmp_path / "asr.yaml").write_text("optim_conf: {lr: [\n")
    with pytest.raises(SystemExit, match="^error: --config, or an option: not valid"):
        main(["training", *config])


def test_normalize(tmp_path, config, capsys):
    model = tmp_path / "model.pth"
    model.touch()
    stats = tmp_path / "asr" / "train" / "feats_stats.npz"
    config += ["--scheduler", "warmuplr"]
    command = ["training", "--ssl_model", str(model), "--stats", str(stats), *config]
    settings = tmp_path / "config.yaml"
    settings.write_text("normalize: utterance_mvn\nnormalize_conf: {norm_vars: true}\n")
    main(command)
    assert capsys.readouterr().out == "\n" and not stats.exists()
    # The recorded path is relative to pretraining's working directory; the file is now
    # next to the model.
    settings.write_text(
        "normalize: global_mvn\nnormalize_conf: {stats_file: exp/x/feats_stats.npz}\n"
    )
    with pytest.raises(SystemExit, match="^error: exp/x/feats_stats.npz: statistics"):
        main(command)
    (tmp_path / "feats_stats.npz").write_bytes(b"statistics")
    main(command)
    option = f"--normalize global_mvn --normalize_conf stats_file={stats}\n"
    assert capsys.readouterr().out == option and stats.read_bytes() == b"statistics"
