"""A small model in its folder, and utterances of noise."""

import numpy as np
import pytest
import soundfile
import torch
import yaml
from planted import ENCODER

from espnet2_birq import api
from espnet2_birq.tasks.ssl import SSLTask

FS = 16000
CONFIG = {
    "objectives": [
        {"name": "anchor", "labeller_conf": {"codebook_size": 32, "codebook_dim": 4}}
    ],
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 20, "fs": "16k"},
    "encoder_conf": ENCODER,
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Folder with twelve utterances, wav.scp, and an untrained experiment."""
    top = tmp_path_factory.mktemp("relabelling")
    draw = np.random.default_rng(0)
    with open(top / "wav.scp", "w") as scp, open(top / "shape", "w") as shape:
        for number in range(12):
            samples = 16000 + 1600 * number
            # Similar to vowels: tones that change five times per second
            pitch = draw.integers(200, 3000, 1 + samples // 3200).repeat(3200)
            tone = np.sin(2 * np.pi * np.cumsum(pitch[:samples]) / FS)
            noise = 0.01 * draw.standard_normal(samples)
            soundfile.write(top / f"u{number:02}.wav", 0.1 * tone + noise, FS)
            print(f"u{number:02} {top}/u{number:02}.wav", file=scp)
            print(f"u{number:02} {samples}", file=shape)
    args = SSLTask.get_parser().parse_args(["--output_dir", "-"])
    vars(args).update(CONFIG)
    (top / "exp").mkdir()
    (top / "exp" / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    model = api.untrained(top / "exp" / "config.yaml")
    torch.save(model.state_dict(), top / "exp" / "model.pth")
    return top


@pytest.fixture
def wave(folder):
    """Function that returns a model's arguments for one utterance."""

    def read(number):
        samples, _ = soundfile.read(folder / f"u{number:02}.wav", dtype="float32")
        return torch.from_numpy(samples)[None], torch.tensor([len(samples)])

    return read
