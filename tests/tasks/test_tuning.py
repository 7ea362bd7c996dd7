"""conf/tuning and conf/librispeech: readable by ESPnet, with correct sizes."""

from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask as StockASRTask

from espnet2_birq.bin import ssl_train
from espnet2_birq.encoders.shaw_conformer import ShawConformerEncoder
from espnet2_birq.pretraining.objective import parse_objectives
from espnet2_birq.pretraining.schedule import Schedule
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.joint import JointTask
from espnet2_birq.tasks.ssl import SSLTask

CONF = Path(__file__).resolve().parents[2] / "conf"
PAPER = {  # millions of parameters, label layer, attention window, utterances per batch
    "c1": (137.4, 4, None, 64),
    "c2": (154.9, 7, None, 64),
    "c3": (274.7, 7, 200, 128),
}


METHODS = ["birq", "best_rq", "birq_stop_gradient", "birq_paper"]  # of conf/librispeech


def read(name: str, task, folder: str = "tuning"):
    config = str(CONF / folder / f"train_{name}.yaml")
    return task.get_parser().parse_args(["--config", config, "--output_dir", "x"])


@pytest.mark.parametrize("name", PAPER)
def test_pretraining_of_the_paper(name):
    args = read(f"birq_{name}", SSLTask)
    millions, label_layer, window, utterances = PAPER[name]
    assert args.encoder == "shaw_conformer"
    with torch.device("meta"):
        encoder = ShawConformerEncoder(
            args.frontend_conf["n_mels"], **args.encoder_conf
        )
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.005)
    assert encoder.encoders[0].attention.window == window
    anchor, enhanced = parse_objectives(args.objectives, len(encoder.encoders))
    assert (str(anchor.view), anchor.weight.at(0)) == ("input", 2.4)
    assert (enhanced.view.layer, enhanced.weight.at(0)) == (label_layer, 0.1)
    assert enhanced.gradient == 1.0 and enhanced.head == anchor.head
    # ESPnet's YAML reader takes 1e-4 without a dot for a string.
    assert args.optim == "adamw" and args.optim_conf["lr"] == 1e-4
    # Utterances per update, of 12.3 s, LibriSpeech's mean.
    seconds = args.batch_bins * args.accum_grad / 16000
    assert seconds / 12.3 == pytest.approx(utterances, rel=0.05)
    assert len(args.best_model_criterion) == 1
    assert args.keep_nbest_models == 1


@pytest.mark.parametrize("name", PAPER)
def test_pretraining_starts(name):
    # Use the configuration itself, except for the size of the encoder.
    args = read(f"birq_{name}", SSLTask)
    args.encoder_conf.update(output_size=16, linear_units=32)
    model = SSLTask.build_model(args).train()
    loss, stats, _ = model(torch.randn(2, 32000), torch.tensor([32000, 20000]))
    loss.backward()
    assert torch.isfinite(loss) and stats["loss_enhanced"] > 0
    assert len(model.encoder.encoders) == (5 if name == "c1" else 10)
    optimizer = SSLTask.build_optimizers(args, model)[0]
    assert optimizer.param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize("name", PAPER)
def test_best_rq_of_the_paper_differs_in_objectives_alone(name):
    best_rq, birq = (vars(read(f"{x}_{name}", SSLTask)) for x in ("best_rq", "birq"))
    blocks = best_rq["encoder_conf"]["num_blocks"]
    (alone,) = parse_objectives(best_rq["objectives"], blocks)
    anchor, _ = parse_objectives(birq["objectives"], blocks)
    assert alone == anchor._replace(weight=alone.weight)
    differing = {key for key in birq if best_rq[key] != birq[key]}
    assert differing == {"config", "objectives"}


RELATIVES = {  # objectives, and the keys that differ from BEST-RQ's
    "rvq": (["rvq"], {"objectives"}),
    "dinosr": (["clusters"], {"objectives", "teacher_conf"}),
    "spidr": (["spidr"], {"objectives", "teacher_conf"}),
    "data2vec": (["latent"], {"objectives", "teacher_conf"}),
    "bridle": (["cold", "bridle"], {"objectives", "tokenizer_conf"}),
}
SIZES = {  # millions of parameters: folder, suffix
    5: ("mini_librispeech", ""),
    155: ("tuning", "_c2"),
    275: ("tuning", "_c3"),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_differ_in_objectives_alone(name, size):
    folder, suffix = SIZES[size]
    relative, best_rq = (
        vars(read(f"{x}{suffix}", SSLTask, folder)) for x in (name, "best_rq")
    )
    names, expected = RELATIVES[name]
    rows = parse_objectives(
        relative["objectives"], best_rq["encoder_conf"]["num_blocks"]
    )
    assert [row.name for row in rows] == names
    differing = {key for key in best_rq if relative[key] != best_rq[key]}
    assert differing == {"config"} | expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", RELATIVES)
def test_relatives_start(name, size):
    folder, suffix = SIZES[size]
    args = read(f"{name}{suffix}", SSLTask, folder)
    args.encoder_conf.update(output_size=16, linear_units=32)
    for row in args.objectives:
        if "codebook_size" in row["labeller_conf"]:
            row["labeller_conf"]["codebook_size"] = 16
    model = SSLTask.build_model(args).train()
    speech, lengths = torch.randn(2, 32000), torch.tensor([32000, 20000])
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    seen = set()
    for update in sorted({0, *(x.start for x in model.whens)}):  # each phase
        model._update = update
        loss, stats, _ = model(speech, lengths)
        loss.backward()
        assert torch.isfinite(loss)
        seen |= stats.keys()
    assert {f"loss_{x}" for x in RELATIVES[name][0]} <= seen
    assert ("distillation" in seen) == (name == "bridle")


@pytest.mark.parametrize("size", SIZES)
def test_phases_of_bridle_are_those_of_the_paper_and_end_with_the_training(size):
    folder, suffix = SIZES[size]
    args = read(f"bridle{suffix}", SSLTask, folder)
    cold, bridle = args.objectives
    turn = args.tokenizer_conf["when"]
    assert (turn["start"], turn["stop"]) == (
        cold["when"]["stop"],
        bridle["when"]["start"],
    )
    hours = 4.3 if size == 5 else 960
    seconds = args.batch_bins * args.accum_grad / 16000
    whole = args.max_epoch * hours * 3600 / seconds
    shares = [x / whole for x in (turn["start"], turn["stop"] - turn["start"])]
    assert shares == pytest.approx([140 / 311, 31 / 311], rel=0.1)


def check_fine_tuning(ssl, asr, task, hours=100.6):
    """Check that settings are those of pretraining, and that a small model trains."""
    for key in ("frontend", "frontend_conf", "normalize", "normalize_conf"):
        assert getattr(ssl, key) == getattr(asr, key), key
    assert (ssl.encoder, ssl.encoder_conf) == (asr.encoder, asr.encoder_conf)
    assert asr.max_epoch == 30 and asr.model_conf["ctc_weight"] == 1.0
    assert len(asr.best_model_criterion) == 1
    assert asr.keep_nbest_models == 5
    # The schedule ends with training; train-clean-100 has 100.6 hours.
    seconds = asr.batch_bins * asr.accum_grad / 16000
    updates = asr.max_epoch * hours * 3600 / seconds
    assert asr.scheduler_conf["max_steps"] == pytest.approx(updates, rel=0.02)
    asr.encoder_conf.update(output_size=16, linear_units=32)
    asr.token_list, asr.token_type = ["<blank>", "<unk>", "a", "<sos/eos>"], "char"
    model = task.build_model(asr).train()
    one = torch.tensor([1])
    loss, _, _ = model(torch.randn(1, 32000), 32000 * one, 2 * one[None], one)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("name", PAPER)
def test_fine_tuning_of_the_paper_fits_its_pretraining(name):
    ssl, asr = read(f"birq_{name}", SSLTask), read(f"asr_{name}", ASRTask)
    # C3 is fine-tuned on AMI, which has 77 hours per microphone.
    check_fine_tuning(ssl, asr, ASRTask, hours=77 if name == "c3" else 100.6)


JOINT = {
    "objectives",
    "masking_conf",
    "supervised_weight",
    "penalty",
    "unlabelled_data_path_and_name_and_type",
    "unlabelled_shape_file",
}


@pytest.mark.parametrize("size", ["c2", "c3"])
def test_joint_training_differs_from_fine_tuning_in_its_objectives_alone(size):
    joint, asr = (
        vars(read(f"{name}_{size}", JointTask)) for name in ("asr_joint", "asr")
    )
    assert {key for key in joint if joint[key] != asr[key]} == {"config"} | JOINT
    best_rq = vars(read(f"best_rq_{size}", SSLTask))
    assert joint["objectives"] == best_rq["objectives"]
    assert joint["masking_conf"] == best_rq["masking_conf"]
    # Exploration, a growing penalty, and finally CTC alone.
    last = joint["scheduler_conf"]["max_steps"] - 1
    supervised, penalty = (
        Schedule(joint["supervised_weight"]),
        Schedule(joint["penalty"]),
    )
    seen = [
        (supervised.at(round(x * last)), penalty.at(round(x * last)))
        for x in (0, 0.29, 0.31, 0.6, 0.89, 0.91, 1)
    ]
    assert seen[:2] == [(0, 1), (0, 1)] and seen[5:] == [(0.005, 0)] * 2
    assert [x for x, _ in seen[2:5]] == [0.005] * 3
    assert 0 < seen[2][1] < seen[3][1] < seen[4][1] <= 0.5


def test_fine_tuning_of_librispeech_fits_its_pretraining():
    ssl = read("birq", SSLTask, "librispeech")
    # ESPnet's own task: nothing of ours is needed.
    check_fine_tuning(ssl, read("asr", StockASRTask, "librispeech"), StockASRTask)


@pytest.mark.parametrize("method", METHODS)
def test_librispeech_is_espnets_conformer(method, tmp_path):
    # Run the whole command without replacements, as birq.sh does before stage 6.
    config = CONF / "librispeech" / f"train_{method}.yaml"
    ssl_train.main(
        ["--config", str(config), "--output_dir", str(tmp_path), "--dry_run", "true"]
        + ["--iterator_type", "none", "--ngpu", "0", "--log_level", "WARNING"]
    )
    written = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert written["encoder_conf"]["num_blocks"] == 12
    rows = parse_objectives(written["objectives"], 12)
    layers = [row.view.layer for row in rows]
    assert layers == ([None] if method == "best_rq" else [None, 8])
    # The estimate was four 40 GB GPUs with 700 s each.
    assert written["batch_bins"] == 4 * 700 * 16000
    assert len(written["best_model_criterion"]) == 1


def test_librispeech_methods_differ_in_objectives_alone():
    settings = [vars(read(name, SSLTask, "librispeech")) for name in METHODS]
    objectives = [one.pop("objectives") for one in settings]
    for one in settings:
        del one["config"]
        assert one == settings[0]
    assert all(a != b for a, b in combinations(objectives, 2))


@pytest.mark.parametrize("method", METHODS)
def test_librispeech_starts(method):
    args = read(method, SSLTask, "librispeech")
    args.encoder_conf.update(output_size=16, linear_units=32)
    model = SSLTask.build_model(args).train()
    speech, lengths = torch.randn(2, 32000), torch.tensor([32000, 20000])
    assert model.unprepared == ([] if method == "birq_paper" else ["anchor"])
    model.prepare([dict(speech=speech, speech_lengths=lengths)])
    loss, stats, _ = model(speech, lengths)
    loss.backward()
    assert torch.isfinite(loss) and stats["loss_anchor"] > 0


@pytest.mark.parametrize(
    "corpus", ["librispeech", "ami", "yodas", "own", "mini_librispeech", "mini_synth"]
)
def test_birq_is_bi_level_and_its_variant_says_that_it_is_not(corpus):
    birq, stopped = (
        vars(read(name, SSLTask, corpus)) for name in ("birq", "birq_stop_gradient")
    )
    assert {k for k in birq if birq[k] != stopped[k]} == {"objectives", "config"}
    rows, others = (
        parse_objectives(one["objectives"], birq["encoder_conf"]["num_blocks"])
        for one in (birq, stopped)
    )
    assert birq["objectives"][0] == stopped["objectives"][0]  # the anchor
    assert (rows[1].gradient, others[1].gradient) == (1.0, 0.0)
    assert rows[1].diversity > 0 and rows[1].head != rows[0].head


def test_all_sizes_have_the_objectives_that_do_not_collapse():
    sizes = [
        vars(read(name, SSLTask, "own"))
        for name in ("birq", "birq_base", "birq_large", "best_rq_large")
    ]
    for conf in sizes[:3]:
        rows = parse_objectives(conf["objectives"], conf["encoder_conf"]["num_blocks"])
        assert (rows[1].gradient, rows[1].diversity, rows[1].head) == (
            1,
            0.3,
            "enhanced",
        )
        assert rows[1].labeller_conf["projection"] == "whitened"
    birq, best_rq = sizes[2:]
    differ = {k for k in birq if birq[k] != best_rq[k]}
    assert differ == {"objectives", "config"}, {
        k: (birq[k], best_rq[k]) for k in differ
    }
