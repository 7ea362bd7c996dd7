#!/usr/bin/env python3
"""How much of the text do the frozen encoder's layers hold? An answer in two minutes.

The layers' outputs on a few hours of transcribed speech are computed once; a learned
weighted sum of them, a small bidirectional LSTM and CTC on characters are trained on it
and decode the test sets greedily (the ASR task of SUPERB, arXiv 2105.01051, in small).
An untrained encoder is the yardstick. With --finetune_updates, all of it is trained on,
the encoder with the rest: what the frozen encoder's head learned makes CTC's slow
beginning unnecessary.

  python -m espnet2_birq.bin.probe --train dump/raw/train --test dump/raw/test \\
      --model exp/ssl_train_birq_raw/valid.total_count.ave.pth --out exp/probe_birq
  python -m espnet2_birq.bin.probe --config exp/ssl_train_birq_raw/config.yaml ...

Data directories have wav.scp and text. Writes OUT/<set>/score_{cer,wer}/{ref,hyp}.trn
and OUT/probe.json: error rates with 95 % intervals, loss, weights of the layers.
"""

import argparse
import json
import logging
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

import torch

from espnet2_birq.api import load, untrained
from espnet2_birq.datadir.audio import probe_many
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.encoders.taps import encode_up_to, encoder_lengths
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.network import read_wave
from espnet2_birq.evaluation.wer.experiments import score_set
from espnet2_birq.options import positive


class Utterance(NamedTuple):
    """Frozen features and text."""

    name: str
    file: Path
    feats: torch.Tensor  # (K, T', E) float16, outputs of all layers
    text: str


class Probe(torch.nn.Module):
    """Weighted sum of layers, BiLSTM, linear layer.

    Args:
        layers: K.
        size: E, the encoder's output size.
        hidden: Units of the LSTM in each direction; 0: no LSTM.
        tokens: Output classes, the blank among them.
    """

    def __init__(self, layers: int, size: int, hidden: int, tokens: int):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(layers))
        self.lstm = None
        if hidden > 0:
            self.lstm = torch.nn.LSTM(
                size, hidden, bidirectional=True, batch_first=True
            )
        self.output = torch.nn.Linear(2 * hidden or size, tokens)

    def forward(self, feats: torch.Tensor) -> torch.Tensor:
        """Log-probabilities (B, T', tokens) of features (B, K, T', E)."""
        # Layers have scales of their own; without this the largest would win.
        feats = torch.nn.functional.layer_norm(feats, feats.shape[-1:])
        hs = torch.einsum("k,bkte->bte", self.weights.softmax(dim=0), feats)
        if self.lstm is not None:
            hs, _ = self.lstm(hs)
        return self.output(hs).log_softmax(dim=-1)


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="pretrained model, in its folder")
    source.add_argument(
        "--config",
        type=Path,
        help="configuration of a pretraining: an untrained encoder",
    )
    parser.add_argument("--train", type=Path, required=True, help="data directory")
    parser.add_argument("--test", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--max_seconds", type=positive, default=16.0, help="of training"
    )
    parser.add_argument("--updates", type=int, default=1500)
    parser.add_argument("--batch_frames", type=int, default=800, help="an update")
    parser.add_argument(
        "--hidden",
        type=int,
        default=64,
        help="LSTM units a direction; 0: the sum of layers goes straight to CTC",
    )
    parser.add_argument(
        "--lr", type=positive, default=5e-3, help="highest learning rate"
    )
    parser.add_argument("--finetune_updates", type=int, default=0, help="0: none")
    parser.add_argument("--finetune_lr", type=positive, default=1e-3, help="highest")
    parser.add_argument("--seed", type=int, default=0)
    return parser


@torch.no_grad()
def extract(
    model, folder: Path, rate: int, max_seconds: float = 1e9
) -> list[Utterance]:
    """Run the encoder over a data directory, utterances of like lengths at once.

    Raises:
        DataError: Audio is bad, or features are not finite in half precision.
    """
    texts = read_scp(folder / "text", allow_empty_values=True)
    files = read_scp(folder / "wav.scp")
    # Paths of a dump are relative to its recipe.
    recipe = folder.resolve().parents[2]
    files = {name: recipe / file for name, file in files.items()}
    infos = probe_many([str(file) for file in files.values()], rate)
    lengths = {name: info.seconds for name, info in zip(files, infos)}
    names = sorted(texts.keys() & files.keys(), key=lengths.get)
    names = [name for name in names if lengths[name] <= max_seconds]
    if not names:
        raise DataError(f"{folder}: no utterance with text and up to {max_seconds} s")
    found = []
    for start in range(0, len(names), 8):
        batch = names[start : start + 8]
        hs, frames = encode(model, [files[name] for name in batch])
        for name, feats, length in zip(batch, hs.half(), frames.tolist()):
            feats = feats[:, :length].clone()
            if not feats.isfinite().all():
                raise DataError(f"{files[name]}: features are NaN or beyond float16")
            found.append(Utterance(name, files[name], feats, texts[name]))
    return found


def encode(model, files: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of all layers (B, K, T', E) and frames (B,) of some sound files."""
    waves = [torch.from_numpy(read_wave(str(x))) for x in files]
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    samples = torch.tensor([len(wave) for wave in waves])
    xs, lengths = model._extract_feats(speech, samples)
    layers = list(range(1, len(model.encoder.encoders) + 1))
    hs = torch.stack(encode_up_to(model.encoder, xs, lengths, layers), dim=1)
    return hs, encoder_lengths(model.encoder, lengths)


def make_batches(utterances: list[Utterance], frames: int) -> list[list[Utterance]]:
    """Batches of about as many frames, padding included, of like lengths."""
    batches, batch = [], []
    for one in sorted(utterances, key=lambda one: one.feats.size(1)):
        if batch and (len(batch) + 1) * one.feats.size(1) > frames:
            batches.append(batch)
            batch = []
        batch.append(one)
    return batches + [batch]


def pad(batch: list[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (B, K, T', E) and frames (B,)."""
    rows = [one.feats.transpose(0, 1) for one in batch]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded.transpose(1, 2).float(), torch.tensor([len(row) for row in rows])


def train(utterances, tokens, probe, feats_of, parameters, updates, lr, frames):
    """Train with CTC; returns the mean loss of the last 100 updates.

    Args:
        utterances: What to train on.
        tokens: Letter to output class.
        probe: The layers on top of the encoder.
        feats_of: Makes features (B, K, T', E) and frames (B,) of some utterances.
        parameters: What is trained.
        updates: How many.
        lr: Highest learning rate, of one cycle.
        frames: Of a batch.
    """
    parameters = list(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, lr, total_steps=updates, pct_start=0.1
    )
    batches, order, last = make_batches(utterances, frames), [], []
    for update in range(1, updates + 1):
        order = order or torch.randperm(len(batches)).tolist()
        batch = batches[order.pop()]
        feats, lengths = feats_of(batch)
        targets = [torch.tensor([tokens[c] for c in one.text]) for one in batch]
        loss = torch.nn.functional.ctc_loss(
            probe(feats).transpose(0, 1),
            torch.cat(targets),
            lengths,
            torch.tensor([len(target) for target in targets]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        schedule.step()
        last = [*last[-99:], loss.item()]
        if update % 100 == 0:
            logging.info(f"update {update}: CTC loss {sum(last) / len(last):.3f}")
    if not math.isfinite(sum(last)):
        raise DataError("the loss became NaN or infinite; give a lower learning rate")
    return sum(last) / len(last)


@torch.no_grad()
def decode(probe: Probe, utterances: list[Utterance], letters: str) -> dict[str, str]:
    """Likeliest letters, repeats and blanks removed."""
    texts = {}
    for batch in make_batches(utterances, 4000):
        feats, frames = pad(batch)
        for one, codes, length in zip(batch, probe(feats).argmax(dim=-1), frames):
            codes = torch.unique_consecutive(codes[:length]).tolist()
            texts[one.name] = "".join(letters[c - 1] for c in codes if c > 0)
    return texts


def write_trn(path: Path, texts: dict[str, str], names: list[str], kind: str) -> None:
    """Write a trn file of words or characters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for name in names:
            tokens = texts[name].split()
            if kind == "cer":
                tokens = " <space> ".join(" ".join(word) for word in tokens).split()
            print(*tokens, f"({name}-{name})", file=stream)


def run(args: argparse.Namespace) -> dict:
    """Extract, train, decode and score."""
    start = time.monotonic()
    model = load(args.model) if args.model else untrained(args.config, args.seed)
    torch.manual_seed(args.seed)
    rate = model.sample_rate
    utterances = extract(model, args.train, rate, args.max_seconds)
    logging.info(f"{len(utterances)} utterances, {time.monotonic() - start:.0f} s")
    letters = "".join(sorted(set("".join(one.text for one in utterances))))
    tokens = {letter: number for number, letter in enumerate(letters, start=1)}
    torch.manual_seed(args.seed)
    layers, _, size = utterances[0].feats.shape
    probe = Probe(layers, size, args.hidden, len(tokens) + 1)
    common = (utterances, tokens, probe)
    budget = (args.updates, args.lr, args.batch_frames)
    loss = train(*common, pad, probe.parameters(), *budget)
    if args.finetune_updates:
        every = [*probe.parameters(), *model.encoder.parameters()]
        budget = (args.finetune_updates, args.finetune_lr, args.batch_frames)
        loss = train(
            *common,
            lambda batch: encode(model, [x.file for x in batch]),
            every,
            *budget,
        )
    result = dict(train_loss=round(loss, 4), cer={}, wer={})
    for folder in args.test:
        utterances = extract(model, folder, rate)
        texts = decode(probe.eval(), utterances, letters)
        refs = {one.name: one.text for one in utterances}
        for kind in ("cer", "wer"):
            out = args.out / folder.name / f"score_{kind}"
            write_trn(out / "ref.trn", refs, sorted(refs), kind)
            write_trn(out / "hyp.trn", texts, sorted(refs), kind)
            result[kind][folder.name] = score_set(out.parent, kind, False)
        logging.info(
            f"{folder.name}: CER {result['cer'][folder.name]['percent']:.1f} %"
        )
    shares = probe.weights.softmax(dim=0).tolist()
    result["layer_weights"] = [round(share, 3) for share in shares]
    result["seconds"] = round(time.monotonic() - start)
    part = args.out / "probe.json.part"
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.rename(args.out / "probe.json")
    return result


def main(cmd=None):
    """Run the command."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args = get_parser().parse_args(cmd)
    try:
        run(args)
    except (ConfigError, DataError, OSError) as error:
        sys.exit(f"probe: error: {error}")


if __name__ == "__main__":
    main()
