"""Masked prediction of images: scikit-learn's digits, patches as a sequence.

An image of 8 x 8 pixels is a sequence of 16 patches of 2 x 2, an utterance of 16 vectors
of 4 values. Encoders are pretrained by ssl_train without labels, then frozen; a linear
classifier (logistic regression) of their outputs at all patches is compared with one of
the outputs of the untrained encoder, and of the pixels.

    python bench/digits.py --out /tmp/digits

Finished trainings are not repeated. Test images are those of scikit-learn's usual split by
order (the last third, of other writers).
"""

import argparse
import json
from pathlib import Path

import kaldiio
import numpy as np
import torch
import yaml
from scipy.stats import t as student_t
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from espnet2_birq.api import untrained
from espnet2_birq.bin import ssl_train
from espnet2_birq.planning.machine import describe
from espnet2_birq.pretraining.model import BiRQModel
from espnet2_birq.pretraining.views import View
from espnet2_birq.tasks.loading import load_model

SIDE, PATCH = 8, 2
TRAIN = 1198  # images; 599 remain for the test
VALID = 100  # of the training images, for the loss alone
CODES = {"num_codebooks": 2, "codebook_size": 64}
SYSTEMS = {
    "BEST-RQ": {
        "objectives": [
            {
                "name": "anchor",
                "weight": 1.0,
                "labeller_conf": {
                    "num_codebooks": 2,
                    "codebook_size": 64,
                    "projection": "pca_whitened",
                    "codebook_dim": 4,
                },
            }
        ]
    },
    "residual quantizer": {
        "objectives": [
            {
                "name": "rvq",
                "view": "input",
                "labeller": "residual",
                "labeller_conf": CODES,
            }
        ]
    },
    "BRIDLE": {
        "objectives": [
            {
                "name": "cold",
                "view": "input",
                "labeller": "residual",
                "labeller_conf": CODES,
                "when": {"stop": 0.4},
            },
            {
                "name": "bridle",
                "view": "tokenizer",
                "labeller": "residual",
                "labeller_conf": CODES,
                "when": {"start": 0.5},
            },
        ],
        "tokenizer_conf": {
            "layers": 2,
            "size": 16,
            "estimator_layers": 1,
            "weight": 1.0,
            "when": {"start": 0.4, "stop": 0.5},
        },
    },
    "latent prediction": {
        "objectives": [
            {"name": "latent", "view": "teacher layers top 2", "labeller": "latent"}
        ],
        "teacher_conf": {"decay": 0.99},
    },
}
CONFIG = {
    "input_size": PATCH * PATCH,
    "frontend_conf": {"fs": 100},  # patches per second; one patch is 10 ms of the mask
    "normalize": None,
    "masking_conf": {"mask_prob": 0.4, "mask_length_ms": 20, "replacement": "learned"},
    "encoder": "conformer",
    "encoder_conf": {
        "input_layer": "linear",
        "output_size": 64,
        "attention_heads": 4,
        "linear_units": 128,
        "num_blocks": 4,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
        "cnn_module_kernel": 3,
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
    },
    "batch_type": "unsorted",
    "batch_size": 64,
    "num_iters_per_epoch": 85,  # five passes over the training images
    "num_workers": 0,
    "optim": "adamw",
    "optim_conf": {"lr": 0.002, "weight_decay": 0.01},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 50},
    "grad_clip": 5.0,
    "best_model_criterion": [["valid", "total_count", "max"]],
    "keep_nbest_models": 1,
    "num_att_plot": 0,
    "use_tensorboard": False,
    "use_matplotlib": False,
}
MODEL = "valid.total_count.ave.pth"


def patches_of(images: np.ndarray) -> np.ndarray:
    """Cut images (N, 64) into sequences of patches (N, 16, 4), row by row."""
    number = SIDE // PATCH
    cut = images.reshape(-1, number, PATCH, number, PATCH).transpose(0, 1, 3, 2, 4)
    return np.ascontiguousarray(cut.reshape(len(images), number**2, PATCH**2))


def write_data(folder: Path, images: np.ndarray) -> None:
    """Write sequences as ESPnet reads features: archives, lists, shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {f"digit{n:04}": x for n, x in enumerate(patches_of(images))}
    kaldiio.save_ark(f"{folder}/feats.ark", found, scp=f"{folder}/feats.scp")
    lines = [f"{name} {','.join(map(str, x.shape))}\n" for name, x in found.items()]
    (folder / "speech_shape").write_text("".join(lines))


def in_updates(conf, updates: int):
    """Convert shares of the training in `when` to updates."""
    if isinstance(conf, list):
        return [in_updates(one, updates) for one in conf]
    if not isinstance(conf, dict):
        return conf
    return {
        key: (
            {name: round(share * updates) for name, share in value.items()}
            if key == "when"
            else in_updates(value, updates)
        )
        for key, value in conf.items()
    }


def pretrain(folder: Path, system: str, seed: int, updates: int) -> Path:
    """Pretrain an encoder with ssl_train, unless already done; return its model."""
    out = folder / f"{system.replace(' ', '_')}_{seed}"
    if not (out / MODEL).is_file():
        epochs = round(updates / CONFIG["num_iters_per_epoch"])
        own = in_updates(SYSTEMS[system], updates)
        out.mkdir(parents=True, exist_ok=True)
        config = out / "train.yaml"
        settings = {**CONFIG, **own, "seed": seed, "max_epoch": epochs}
        config.write_text(yaml.safe_dump(settings))
        options = ["--config", str(config), "--output_dir", str(out), "--ngpu", "0"]
        for kind in ("train", "valid"):
            data = folder / kind
            options += [f"--{kind}_data_path_and_name_and_type"]
            options += [f"{data}/feats.scp,speech,kaldi_ark"]
            options += [f"--{kind}_shape_file", f"{data}/speech_shape"]
        ssl_train.main([*options, "--resume", "true", "--log_level", "WARNING"])
    return out / MODEL


@torch.no_grad()
def outputs(model: BiRQModel, images: np.ndarray, layer: int) -> np.ndarray:
    """Compute a layer's outputs at all patches, concatenated: (N, 16 E)."""
    xs = torch.from_numpy(patches_of(images))
    lengths = torch.full((len(xs),), xs.size(1))
    vectors, _ = model.vectors(xs, lengths, View("layer", layer))
    return vectors.flatten(1).numpy()


def accuracy(train: np.ndarray, test: np.ndarray, digits, number: int, seed: int):
    """Fit a linear classifier to some training images; return its test accuracy in %."""
    labels, wanted = digits.target[:TRAIN], digits.target[TRAIN:]
    chosen = np.random.default_rng(seed).permutation(TRAIN)[:number]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(train[chosen], labels[chosen])
    return 100 * float((probe.predict(test) == wanted).mean())


def interval(values: list[float]) -> str:
    """Format mean and 95 % interval (Student's t) over seeds."""
    mean, number = float(np.mean(values)), len(values)
    half = student_t.ppf(0.975, number - 1) * np.std(values, ddof=1) / number**0.5
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"


def main(argv=None) -> None:
    """Pretrain, measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of trainings")
    parser.add_argument("--seeds", type=int, default=5, help="at least 2 (5)")
    parser.add_argument(
        "--updates",
        type=int,
        default=680,
        help="of pretraining, a multiple of 85 (680)",
    )
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[50, 200, TRAIN],
        help="labelled images",
    )
    parser.add_argument("--layer", type=int, default=3, help="measured, of 4 (3)")
    parser.add_argument("--only", nargs="+", choices=SYSTEMS, default=[*SYSTEMS])
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    digits = load_digits()
    pixels = digits.data.astype(np.float32)
    images = (pixels - pixels[:TRAIN].mean()) / pixels[:TRAIN].std()
    write_data(args.out / "train", images[: TRAIN - VALID])
    write_data(args.out / "valid", images[TRAIN - VALID : TRAIN])
    found: dict[str, dict[int, list[float]]] = {}

    def measure(system: str, seed: int, vectors: np.ndarray) -> None:
        for number in args.images:
            value = accuracy(vectors[:TRAIN], vectors[TRAIN:], digits, number, seed)
            found.setdefault(system, {}).setdefault(number, []).append(value)

    for seed in range(args.seeds):
        measure("pixels", seed, images)
        for system in args.only:
            file = pretrain(args.out, system, seed, args.updates)
            if "untrained encoder" not in found or (
                len(found["untrained encoder"][args.images[0]]) <= seed
            ):
                model = untrained(file, seed)
                measure("untrained encoder", seed, outputs(model, images, args.layer))
            model = load_model(file)
            measure(system, seed, outputs(model, images, args.layer))
    (args.out / "digits.json").write_text(json.dumps(found, indent=1))
    print(
        f"{describe('cpu')['processor']}; accuracy in %, mean and 95 % interval over "
        f"{args.seeds} seeds"
    )
    print("| features | " + " | ".join(f"{n} labelled" for n in args.images) + " |")
    print("|---|" + "---|" * len(args.images))
    rows = dict(found)
    for system in args.only:  # paired: the same images and initial encoder
        for other in ("untrained encoder", "pixels"):
            rows[f"{system} - {other}"] = {
                number: np.subtract(
                    found[system][number], found[other][number]
                ).tolist()
                for number in args.images
            }
    for system, values in rows.items():
        cells = [interval(values[number]) for number in args.images]
        print(f"| {system} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
