"""Probe a frozen encoder's layers for text information with a small CTC model.

Hidden states are computed once; a learned weighted sum of layers, a small bidirectional
LSTM and CTC on characters are trained on them and decode the test sets greedily (a small
version of SUPERB's ASR task, arXiv 2105.01051).
"""

import itertools
import json
import logging
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from espnet2_birq.datadir.audio import probe_many, read_wave
from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import read_scp, voice_of
from espnet2_birq.encoders.taps import batch_limit, encode_up_to, encoder_lengths
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.audio_list import read_audio_list
from espnet2_birq.evaluation.decode.search import best_path
from espnet2_birq.evaluation.wer.experiments import score_set
from espnet2_birq.pretraining.model import BiRQModel


@dataclass(frozen=True)
class Settings:
    """Training settings of the probe.

    Attributes:
        max_seconds: Maximum length of training utterances.
        updates: Updates of the layers on top of the encoder.
        batch_frames: Encoder frames per update, including padding.
        hidden: LSTM units in each direction; 0: no LSTM.
        lr: Peak learning rate.
        seed: Seed of initial weights and batch order.
    """

    max_seconds: float = 16.0
    updates: int = 1500
    batch_frames: int = 800
    hidden: int = 64
    lr: float = 5e-3
    seed: int = 0


class Spoken(NamedTuple):
    """Utterance of a data directory."""

    name: str
    file: Path
    text: str


class Utterance(NamedTuple):
    """Features from the frozen encoder, and text."""

    name: str
    file: Path
    feats: torch.Tensor  # (K, T', E) float16, outputs of all layers
    text: str


class Probe(torch.nn.Module):
    """Weighted sum of layers, an LSTM in each direction, linear layer.

    Args:
        layers: K, number of layers.
        size: E, the encoder's output size.
        hidden: LSTM units in each direction; 0: no LSTM.
        tokens: Output classes, including the blank.
    """

    def __init__(self, layers: int, size: int, hidden: int, tokens: int):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(layers))
        self.lstms = None
        if hidden > 0:
            # A bidirectional LSTM would read the padding, or take six times as long on a CPU
            # (packed sequences).
            self.lstms = torch.nn.ModuleList(
                torch.nn.LSTM(size, hidden, batch_first=True) for _ in range(2)
            )
        self.output = torch.nn.Linear(2 * hidden or size, tokens)

    def forward(self, feats: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Compute log-probabilities (B, T', tokens) of features (B, K, T', E).

        Those of an utterance do not depend on its padding.
        """
        # Layers differ in scale; without normalisation the largest would dominate.
        feats = torch.nn.functional.layer_norm(feats, feats.shape[-1:])
        hs = torch.einsum("k,bkte->bte", self.weights.softmax(dim=0), feats)
        if self.lstms is not None:
            forth, back = self.lstms
            backwards, _ = back(reverse(hs, lengths))
            hs = torch.cat([forth(hs)[0], reverse(backwards, lengths)], dim=-1)
        return self.output(hs).log_softmax(dim=-1)


def reverse(xs: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Reverse each sequence of (B, T, D) within its length (B,), before its padding."""
    times = torch.arange(xs.size(1))
    mirrored = lengths[:, None] - 1 - times  # (B, T), below 0 on padding
    index = torch.where(mirrored >= 0, mirrored, times)
    return xs.gather(1, index[:, :, None].expand_as(xs))


def find_utterances(
    model, folder: Path, max_seconds: float | None = None
) -> list[Spoken]:
    """List the utterances of a data directory that have a transcript, the shortest first.

    Args:
        model: Model in evaluation mode.
        folder: Data directory.
        max_seconds: Maximum length of training utterances; None: a test set, in which every
            transcript has audio.

    Raises:
        DataError: Bad or missing audio (see also read_audio_list()), an utterance without
            an encoder frame, or no transcript with a word.
    """
    texts = read_scp(folder / "text", allow_empty_values=True)
    files = {name: Path(entry) for name, entry in read_audio_list(folder).items()}
    lost = [name for name in texts if name not in files]
    if lost and max_seconds is None:
        raise DataError(
            f"{folder}/wav.scp: lacks {len(lost)} of {len(texts)} utterances of text, "
            f"{lost[0]} the first; add them, or take them out of text"
        )
    if lost:
        logging.warning(
            f"{folder}/wav.scp: lacks {len(lost)} of {len(texts)} utterances of text, "
            f"{lost[0]} the first: left out of training"
        )
    names = [name for name in texts if name in files]
    infos = probe_many([str(files[name]) for name in names], model.sample_rate)
    lengths = {name: info.seconds for name, info in zip(names, infos)}
    names.sort(key=lengths.__getitem__)
    limit = ""
    if max_seconds is not None:
        limit = f" of up to {max_seconds:g} s"
        kept = [name for name in names if lengths[name] <= max_seconds]
        if len(kept) < len(names):
            logging.info(
                f"{folder}: {len(names) - len(kept)} of {len(names)} utterances are "
                f"longer than --max_seconds {max_seconds:g}: left out"
            )
        names = kept
    if not any(texts[name] for name in names):
        raise DataError(
            f"{folder}/text: no transcript with a word{limit}; give another set"
        )
    spoken = [Spoken(name, files[name], texts[name]) for name in names]
    _check_length(model, spoken[0])
    return spoken


@torch.no_grad()
def _check_length(model, shortest: Spoken) -> None:
    wave = torch.from_numpy(read_wave(str(shortest.file)))
    _, lengths = model._extract_feats(wave[None], torch.tensor([len(wave)]))
    if not int(encoder_lengths(model.encoder, lengths)):
        raise DataError(
            f"{shortest.file}: too short for an encoder frame; leave {shortest.name} out "
            "of its set"
        )


@torch.no_grad()
def extract(model, spoken: list[Spoken]) -> list[Utterance]:
    """Encode utterances, sorted by length, in batches.

    Raises:
        DataError: Bad audio, or features that are not finite in half precision.
    """
    found = []
    for batch in itertools.batched(spoken, batch_limit(model.encoder, 8)):
        hs, frames = encode(model, [one.file for one in batch])
        for one, feats, length in zip(batch, hs.half(), frames.tolist()):
            feats = feats[:, :length].clone()
            if not feats.isfinite().all():
                raise DataError(f"{one.file}: features are NaN or beyond float16")
            found.append(Utterance(one.name, one.file, feats, one.text))
    return found


def encode(model, files: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute hidden states (B, K, T', E) and lengths (B,) of sound files."""
    waves = [torch.from_numpy(read_wave(str(x))) for x in files]
    speech = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
    samples = torch.tensor([len(wave) for wave in waves])
    xs, lengths = model._extract_feats(speech, samples)
    layers = list(range(1, len(model.encoder.encoders) + 1))
    hs = torch.stack(encode_up_to(model.encoder, xs, lengths, layers), dim=1)
    return hs, encoder_lengths(model.encoder, lengths)


def make_batches(utterances: list[Utterance], frames: int) -> list[list[Utterance]]:
    """Make batches of similar lengths with about equal frames, including padding."""
    batches: list[list[Utterance]] = []
    batch: list[Utterance] = []
    for one in sorted(utterances, key=lambda one: one.feats.size(1)):
        if batch and (len(batch) + 1) * one.feats.size(1) > frames:
            batches.append(batch)
            batch = []
        batch.append(one)
    return batches + [batch]


def is_crowded(one: Utterance) -> bool:
    """Whether CTC cannot align a text: a blank must separate equal neighbours."""
    blanks = sum(a == b for a, b in itertools.pairwise(one.text))
    return len(one.text) + blanks > one.feats.size(1)


def pad(batch: list[Utterance]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return padded features (B, K, T', E) and lengths (B,)."""
    rows = [one.feats.transpose(0, 1) for one in batch]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return padded.transpose(1, 2).float(), torch.tensor([len(row) for row in rows])


def train(
    utterances: list[Utterance],
    tokens: dict[str, int],
    probe: Probe,
    settings: Settings,
) -> float:
    """Train a probe with CTC by a one-cycle schedule of the learning rate.

    Args:
        utterances: Training utterances.
        tokens: Output class of each letter.
        probe: Layers on top of the encoder.
        settings: Updates, peak learning rate, and frames per batch.

    Returns:
        Mean loss of the last 100 updates.

    Raises:
        DataError: The loss became NaN or infinite.
    """
    updates = settings.updates
    optimizer = torch.optim.AdamW(probe.parameters(), lr=settings.lr)
    # Of ten updates, a tenth is one, which OneCycleLR cannot rise in: it divides by 0.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        settings.lr,
        total_steps=updates,
        pct_start=0.1 if updates > 10 else 0.0,
    )
    batches = make_batches(utterances, settings.batch_frames)
    order: list[int] = []
    last: list[float] = []
    for update in range(1, updates + 1):
        order = order or torch.randperm(len(batches)).tolist()
        batch = batches[order.pop()]
        feats, lengths = pad(batch)
        targets = [torch.tensor([tokens[c] for c in one.text]) for one in batch]
        loss = torch.nn.functional.ctc_loss(
            probe(feats, lengths).transpose(0, 1),
            torch.cat(targets),
            lengths,
            torch.tensor([len(target) for target in targets]),
            zero_infinity=True,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(probe.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        last = [*last[-99:], loss.item()]
        if update % 100 == 0:
            logging.info(f"update {update}: CTC loss {sum(last) / len(last):.3f}")
    if not math.isfinite(sum(last)):
        raise DataError("the loss became NaN or infinite; give a lower learning rate")
    return sum(last) / len(last)


@torch.no_grad()
def decode(probe: "Fit", utterances: list[Utterance]) -> dict[str, str]:
    """Decode greedily: arg-max letters without repeats and blanks."""
    texts = {}
    for batch in make_batches(utterances, 4000):
        feats, frames = pad(batch)
        for one, scores, length in zip(batch, probe.top(feats, frames), frames):
            tokens = best_path(scores[:length].numpy()).tokens
            texts[one.name] = "".join(probe.letters[token - 1] for token in tokens)
    return texts


def write_trn(
    path: Path, texts: dict[str, str], ids: dict[str, str], kind: str
) -> None:
    """Write a trn file of words or characters.

    Args:
        path: File to write.
        texts: Text of each utterance.
        ids: Id `speaker-utterance` of each utterance, in the order of the file.
        kind: "wer" or "cer".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for name, trn_id in ids.items():
            tokens = texts[name].split()
            if kind == "cer":
                tokens = " <space> ".join(" ".join(word) for word in tokens).split()
            print(*tokens, f"({trn_id})", file=stream)


def trn_ids(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return an id `speaker-utterance` for each utterance, as in trn files of asr.sh.

    Intervals are over speakers. Without utt2spk, an utterance is its own speaker.
    """
    path = folder / "utt2spk"
    speakers = read_scp(path) if path.is_file() else {}
    return {name: f"{speakers.get(name, name)}-{name}" for name in sorted(names)}


def probe(
    model: BiRQModel,
    train_set: Path | None,
    test_sets: list[Path],
    out: Path,
    settings: Settings = Settings(),
) -> dict:
    """Train a probe on the frozen encoder, decode test sets and score them.

    Args:
        model: Model in evaluation mode.
        train_set: Data directory with wav.scp, text and, if speakers are known, utt2spk, as
            in dump/raw. None: each test set is its own, in halves; see decode_halves().
        test_sets: Test sets of the same format.
        out: Folder for <set>/score_{cer,wer}/{ref,hyp}.trn and probe.json.
        settings: Training settings.

    Returns:
        Content of probe.json: error rates with 95 % intervals, loss, layer weights.

    Raises:
        DataError: A test set is missing, two have the same name, a set is bad (see
            find_utterances()), or NaN loss.
    """
    test_sets = _checked(test_sets, out)
    start = time.monotonic()
    torch.manual_seed(settings.seed)
    # Check all sets now, not after the training.
    tests = [(folder, find_utterances(model, folder)) for folder in test_sets]
    fits: list[Fit] = []
    if train_set is not None:
        listed = find_utterances(model, train_set, settings.max_seconds)
        utterances = extract(model, listed)
        logging.info(f"{len(utterances)} utterances, {time.monotonic() - start:.0f} s")
        fits.append(fit(utterances, settings))
    else:
        short = [trainable(model, *test, settings.max_seconds) for test in tests]
    result: dict = dict(train_loss=0.0, cer={}, wer={})
    for number, (folder, listed) in enumerate(tests):
        utterances = extract(model, listed)
        if train_set is not None:
            texts = decode(fits[0], utterances)
        else:
            pair = decode_halves(folder, utterances, short[number], settings)
            fits += pair[0]
            texts = pair[1]
        _score(out / folder.name, folder, utterances, texts, result)
    shares = torch.stack([x.top.weights.softmax(dim=0) for x in fits]).mean(dim=0)
    result["train_loss"] = round(sum(x.loss for x in fits) / len(fits), 4)
    result["layer_weights"] = [round(share, 3) for share in shares.tolist()]
    result["seconds"] = round(time.monotonic() - start)
    write_whole(out / "probe.json", json.dumps(result, indent=1) + "\n")
    return result


def _checked(test_sets: list[Path], out: Path) -> list[Path]:
    # Results have the name of the set, which "." and ".." are not.
    test_sets = [Path(os.path.abspath(folder)) for folder in test_sets]
    for number, folder in enumerate(test_sets):
        for name in ("wav.scp", "text"):
            if not (folder / name).is_file():
                raise DataError(f"{folder / name}: no such file; give another --test")
        if folder.name in {x.name for x in test_sets[:number]}:
            raise DataError(
                f"{folder}: results of two test sets would be in {out / folder.name}; give "
                "one by a link of another name"
            )
    return test_sets


class Fit(NamedTuple):
    """A trained probe."""

    top: Probe
    letters: str
    loss: float


def fit(utterances: list[Utterance], settings: Settings) -> Fit:
    """Train a probe on what the frozen encoder made; errors are those of train()."""
    letters = "".join(sorted(set("".join(one.text for one in utterances))))
    tokens = {letter: number for number, letter in enumerate(letters, start=1)}
    if crowded := [one.name for one in utterances if is_crowded(one)]:
        logging.warning(
            f"{len(crowded)} of {len(utterances)} utterances, {crowded[0]} the first: more "
            "letters than CTC can align with the frames; nothing is learned from them"
        )
    torch.manual_seed(settings.seed)
    layers, _, size = utterances[0].feats.shape
    top = Probe(layers, size, settings.hidden, len(tokens) + 1)
    loss = train(utterances, tokens, top, settings)
    return Fit(top.eval(), letters, loss)


def halves(folder: Path, names: Iterable[str]) -> tuple[set[str], set[str]]:
    """Divide utterances by their voices: every other one of the sorted voices.

    Those of LibriSpeech are its readers: its speakers are chapters.
    """
    speaker = {
        name: voice_of(x.removesuffix(f"-{name}"))
        for name, x in trn_ids(folder, names).items()
    }
    odd = set(sorted(set(speaker.values()))[1::2])
    second = {name for name, x in speaker.items() if x in odd}
    return speaker.keys() - second, second


def trainable(
    model: BiRQModel, folder: Path, listed: list[Spoken], max_seconds: float
) -> list[set[str]]:
    """Return the utterances to train on of each half of a set's speakers.

    Raises:
        DataError: A half has no transcript with a word; or as of find_utterances().
    """
    texts = {x.name: x.text for x in find_utterances(model, folder, max_seconds)}
    both = [half & texts.keys() for half in halves(folder, [x.name for x in listed])]
    if not all(any(texts[name] for name in half) for half in both):
        raise DataError(
            f"{folder}: has no two speakers with transcripts, as --halves needs; give "
            "another set, or --train"
        )
    return both


def decode_halves(
    folder: Path,
    utterances: list[Utterance],
    short: list[set[str]],
    settings: Settings,
) -> tuple[list[Fit], dict[str, str]]:
    """Decode each half of a set's speakers by a probe that was trained on the other half.

    If the encoder was pretrained on the probe's training set, its outputs for that set
    are not like those for other speech. The more often it has seen the set, the more the
    probe learns from the difference.

    Args:
        folder: Data directory of the utterances.
        utterances: All utterances.
        short: Utterances to train on, of each half.
        settings: Training settings.

    Returns:
        Both probes, and the texts.
    """
    fits: list[Fit] = []
    texts: dict[str, str] = {}
    for half, others in zip(halves(folder, [x.name for x in utterances]), short[::-1]):
        fits.append(fit([x for x in utterances if x.name in others], settings))
        texts |= decode(fits[-1], [one for one in utterances if one.name in half])
    return fits, texts


def _score(
    out: Path,
    folder: Path,
    utterances: list[Utterance],
    texts: dict[str, str],
    result: dict,
) -> None:
    """Write the texts of a test set, and add their error rates to the result."""
    refs = {one.name: one.text for one in utterances}
    ids = trn_ids(folder, refs)
    for kind in ("cer", "wer"):
        write_trn(out / f"score_{kind}" / "ref.trn", refs, ids, kind)
        write_trn(out / f"score_{kind}" / "hyp.trn", texts, ids, kind)
        result[kind][folder.name] = score_set(out, kind, False)
    logging.info(f"{folder.name}: CER {result['cer'][folder.name]['percent']:.1f} %")
