"""A tiny random ASR model, and synthetic audio for it."""

import numpy as np
import soundfile
import torch
import yaml

from espnet2_birq.tasks.asr import ASRTask

TOKENS = ["<blank>", "<unk>", "<space>", *"AEST", "<sos/eos>"]
SAMPLES = [16000, 4000, 40000, 9000, 2500, 24000, 800, 12345]
CONFIG = dict(
    frontend_conf=dict(fs="16k", n_fft=512, win_length=400, hop_length=160, n_mels=40),
    normalize="utterance_mvn",
    encoder="conformer",
    encoder_conf=dict(
        output_size=16,
        attention_heads=2,
        linear_units=32,
        num_blocks=2,
        macaron_style=True,
        rel_pos_type="latest",
        pos_enc_layer_type="rel_pos",
        selfattention_layer_type="rel_selfattn",
        use_cnn_module=True,
        cnn_module_kernel=7,
    ),
    decoder=None,
    model_conf=dict(ctc_weight=1.0),
    token_type="char",
    token_list=TOKENS,
)


def make_model(folder, seed=0, **encoder_conf):
    """Write a random model that outputs many labels, with BatchNorm statistics."""
    folder.mkdir(parents=True, exist_ok=True)
    parser = ASRTask.get_parser()
    args = parser.parse_args(["--output_dir", str(folder)])
    for key, value in CONFIG.items():
        setattr(args, key, value)
    args.encoder_conf = {**CONFIG["encoder_conf"], **encoder_conf}
    torch.manual_seed(seed)
    model = ASRTask.build_model(args)
    for parameter in model.ctc.parameters():
        torch.nn.init.normal_(parameter)
    model.train().encoder(torch.randn(2, 60, 40), torch.tensor([60, 50]))
    torch.save(model.state_dict(), folder / "model.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args)))
    return folder / "model.pth"


def make_data(folder, samples=SAMPLES, text=True):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    scp, lines = [], []
    for number, length in enumerate(samples):
        path = folder / f"{number}.wav"
        # A random walk is neither silent nor stationary.
        wave = np.cumsum(generator.normal(size=length)) * 0.01
        soundfile.write(path, np.sin(wave) * generator.uniform(0.1, 0.9), 16000)
        scp.append(f"utt{number} {path}\n")
        lines.append(f"utt{number} SEAT TEA\n")
    (folder / "wav.scp").write_text("".join(sorted(scp)))
    if text:
        (folder / "text").write_text("".join(sorted(lines)))
    return folder
