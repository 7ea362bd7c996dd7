"""Untrained models, and speech with two tones as synthetic phones."""

from pathlib import Path

import numpy as np
import soundfile
import torch
import yaml

RATE = 16000
TONES = {"AA": 500.0, "IY": 3000.0}  # Hz; silence is faint noise
ENCODER = {
    "output_size": 16,
    "attention_heads": 2,
    "linear_units": 16,
    "num_blocks": 2,
    "rel_pos_type": "latest",
}
CONFORMER = {  # all parts of a conformer
    "output_size": 32,
    "linear_units": 64,
    "num_blocks": 3,
    "attention_heads": 2,
    "rel_pos_type": "latest",
    "pos_enc_layer_type": "rel_pos",
    "selfattention_layer_type": "rel_selfattn",
    "use_cnn_module": True,
    "cnn_module_kernel": 7,
    "macaron_style": True,
}
MODEL = {
    "frontend_conf": {
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "n_mels": 20,
        "fs": "16k",
    },
    "normalize": "utterance_mvn",
    "normalize_conf": {"norm_vars": True},
    "encoder": "conformer",
    "encoder_conf": ENCODER,
}
BOOK = {"codebook_size": 16, "codebook_dim": 4}
OBJECTIVES = [
    {"name": "anchor", "labeller_conf": {**BOOK, "num_codebooks": 2}},
    {
        "name": "enhanced",
        "view": "layer 1",
        "head": "enhanced",
        "labeller_conf": {**BOOK, "projection": "whitened"},
    },
]


def write_experiment(folder: Path, task, seed=1, **options) -> Path:
    """Write a model and its config.yaml, as a training run leaves them."""
    folder.mkdir(parents=True)
    config = folder / "given.yaml"
    config.write_text(yaml.safe_dump({**MODEL, **options}))
    args = task.get_parser().parse_args(
        ["--config", str(config), "--output_dir", str(folder)]
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(task.build_model(args).state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return folder / "model.pth"


def write_speech(folder: Path, speakers=4, utterances=3, rate=RATE) -> Path:
    """Write a data directory `data`, which is returned, and `phones.tsv`, its alignment."""
    data = folder / "data"
    data.mkdir(parents=True)
    generator = np.random.default_rng(0)
    scp, utt2spk, tsv = [], [], []
    for speaker in range(speakers):
        for number in range(utterances):
            name = f"s{speaker}-u{number}"
            phones = [("SIL", 20)]
            for _ in range(4):
                phone = ("AA", "IY", "SIL")[generator.integers(3)]
                phones.append((phone, int(generator.integers(12, 40))))
            phones += [("AA", 20), ("IY", 20)]
            waves = []
            for phone, frames in phones:
                wave = 0.001 * generator.standard_normal(frames * RATE // 100)
                if phone in TONES:
                    time = np.arange(len(wave)) / RATE
                    wave += 0.1 * np.sin(2 * np.pi * TONES[phone] * time)
                waves.append(wave)
            path = folder / f"{name}.wav"
            soundfile.write(path, np.concatenate(waves), rate)
            scp.append(f"{name} {path}\n")
            utt2spk.append(f"{name} s{speaker}\n")
            row = " ".join(f"{phone}:{frames}" for phone, frames in phones)
            tsv.append(f"{name}\t{row}\n")
    (data / "wav.scp").write_text("".join(scp))
    (data / "utt2spk").write_text("".join(utt2spk))
    (folder / "phones.tsv").write_text("".join(tsv))
    return data
