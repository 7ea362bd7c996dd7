"""Log-probabilities of an ESPnet model's CTC head, in padded batches.

Results do not depend on the batch: most of ESPnet's encoders mask padding, the others
get one utterance at a time, and the end of every utterance is reflected for the STFT as if
the utterance were alone.
"""

import logging
import time
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from tqdm import tqdm

from espnet2_birq.checkpoint import check_model_file
from espnet2_birq.config import find_config, read_asr_config, sampling_rate
from espnet2_birq.datadir.audio import ARK_ENTRY, probe_apart, read_wave
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.stream import map_parallel
from espnet2_birq.encoders.frontend import mirrored_feats
from espnet2_birq.encoders.taps import batch_limit
from espnet2_birq.errors import ConfigError, DamagedAudioError, DataError
from espnet2_birq.evaluation.decode.store import (
    Block,
    LogProbs,
    file_hash,
    reserved,
)
from espnet2_birq.tasks.asr import ASRTask

READERS = 4  # threads that read audio ahead
NAN_OUTPUT = "the model's output has NaN; did its training diverge?"
ALONE_SECONDS = (
    0.2  # shorter utterances run alone, since one that is too short fails its batch
)


class Recogniser:
    """CTC head of an ESPnet ASR model.

    Args:
        model_file: Parameters, next to their config.yaml. Paths in that file, e.g. of the
            BPE model, are relative to the working directory, as in ESPnet.
        device: "cpu" or "cuda".

    Raises:
        DataError: The model file is incomplete, or the BPE model is missing.
        ConfigError: The model or its configuration is missing, the model has no CTC
            head, or its token type is unsupported.
    """

    def __init__(self, model_file: Path, device: str):
        read_asr_config(model_file)
        config = find_config(model_file)
        check_model_file(model_file)
        self.key = {"model": file_hash(model_file), "config": file_hash(config)}
        self.device = device
        self.model, self.args = ASRTask.build_model_from_file(
            config, model_file, device
        )
        self.model.eval()
        if getattr(self.model, "ctc", None) is None:
            raise ConfigError(f"{config}: the model has no CTC head (ctc_weight: 0)")
        if self.args.token_type not in ("char", "bpe"):
            raise ConfigError(
                f"{config}: token_type {self.args.token_type}: only char and bpe can "
                "be decoded here; use ESPnet's asr_inference"
            )
        if self.args.token_type == "bpe" and not Path(self.args.bpemodel).is_file():
            raise DataError(
                f"{self.args.bpemodel}: no such BPE model; run this in the recipe's "
                "folder"
            )
        self.model._extract_feats = types.MethodType(_extract_feats, self.model)
        self.tokens = list(self.model.token_list)
        self._converter = TokenIDConverter(self.tokens)
        self._tokenizer = build_tokenizer(
            token_type=self.args.token_type, bpemodel=self.args.bpemodel
        )
        self.sample_rate = sampling_rate(getattr(self.args, "frontend_conf", None))

    def text(self, numbers: Sequence[int]) -> tuple[str, list[str]]:
        """Convert token ids to text and tokens."""
        tokens = self._converter.ids2tokens(numbers)
        return self._tokenizer.tokens2text(tokens), tokens

    @torch.no_grad()
    def log_probs(self, waves: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute (T, V) natural log-probabilities for each waveform (N,).

        Batches that exceed the GPU's memory are halved.

        Raises:
            TooShortUttError: The longest waveform is too short for the input layer.
        """
        if len(waves) > batch_limit(self.model.encoder, len(waves)):
            return [found for wave in waves for found in self.log_probs([wave])]
        speech = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(wave) for wave in waves], batch_first=True
        )
        lengths = torch.tensor([len(wave) for wave in waves], device=self.device)
        try:
            hs, frames = self.model.encode(speech.to(self.device), lengths)
            hs = hs[0] if isinstance(hs, tuple) else hs  # intermediate CTC
            log_probs = self.model.ctc.log_softmax(hs).float().cpu().numpy()
        except torch.OutOfMemoryError:
            if len(waves) == 1:
                raise
        else:
            return [one[:t].copy() for one, t in zip(log_probs, frames.tolist())]
        # Outside of the except block, whose traceback would keep the memory in use.
        torch.cuda.empty_cache()
        half = len(waves) // 2
        return self.log_probs(waves[:half]) + self.log_probs(waves[half:])


def _extract_feats(model, speech, lengths):
    # Replaces ESPnetASRModel's method, which sees padding at an utterance's end.
    if model.frontend is None:
        return speech, lengths
    feats, lengths = mirrored_feats(model.frontend, speech, lengths)
    return feats[:, : lengths.max()], lengths


class Utterance(NamedTuple):
    """An utterance to decode.

    Attributes:
        name: Unique id.
        entry: Audio file, or file.ark:offset.
        seconds: Duration in seconds.
    """

    name: str
    entry: str
    seconds: float


def find_utterances(folder: Path, rate: int) -> tuple[list[Utterance], dict[str, str]]:
    """Probe all audio of a data directory.

    Args:
        folder: Data directory with wav.scp, without segments.
        rate: Sample rate of the model in Hz.

    Returns:
        Valid utterances, and the reasons for excluding all others, by name.

    Raises:
        DataError: wav.scp is invalid, or there are segments.
    """
    if (folder / "segments").exists():
        raise DataError(
            f"{folder}/segments: audio must be cut into utterances; give what asr.sh "
            f"--stage 3 has written, as dump/raw/{folder.name}"
        )
    entries = read_scp(folder / "wav.scp")
    infos, bad = probe_apart(entries.values(), rate, READERS, fatal=())
    good = [
        Utterance(name, entry, infos[entry].seconds)
        for name, entry in entries.items()
        if entry in infos
    ]
    return good, {name: bad[entry] for name, entry in entries.items() if entry in bad}


def audio_of(one: Utterance) -> str:
    """Return a fingerprint of an utterance's audio."""
    match = ARK_ENTRY.match(one.entry)
    changed = Path(match[1] if match else one.entry).stat().st_mtime_ns
    return f"{one.seconds} {changed}"


def make_batches(
    utterances: Sequence[Utterance], seconds: float
) -> Iterator[list[Utterance]]:
    """Yield batches of similar durations, limited to `seconds` including padding."""
    batch: list[Utterance] = []
    for one in sorted(utterances, key=lambda one: (one.seconds, one.name)):
        full = (len(batch) + 1) * one.seconds > seconds
        if batch and (full or batch[0].seconds < ALONE_SECONDS):
            yield batch
            batch = []
        batch.append(one)
    if batch:
        yield batch


def compute_log_probs(
    recogniser: Recogniser,
    folder: Path,
    store_folder: Path,
    batch_seconds: float,
) -> tuple[LogProbs, dict[str, str]]:
    """Compute missing log-probabilities of a data directory.

    Args:
        recogniser: The model.
        folder: Data directory.
        store_folder: Folder of the stored log-probabilities.
        batch_seconds: Seconds of audio per batch, including padding.

    Returns:
        The store, and the reasons for utterances without log-probabilities, by name.

    Raises:
        DataError: See find_utterances(); or no utterance remains.
    """
    utterances, skipped = find_utterances(folder, recogniser.sample_rate)
    key = {**recogniser.key, "wav.scp": file_hash(folder / "wav.scp")}
    audio_now = {one.name: audio_of(one) for one in utterances}
    with reserved(store_folder):
        store = LogProbs(store_folder, key, audio_now)
        done = store.done()
        todo = [one for one in utterances if one.name not in done]
        if done:
            logging.info(
                f"{folder}: {len(done)} utterances are done, {len(todo)} are left"
            )
        bar = tqdm(
            total=len(todo), desc=f"network {folder.name}", unit="utt", disable=None
        )
        with bar:
            for batch, read in _read_batches(list(make_batches(todo, batch_seconds))):
                block, bad = _compute_block(recogniser, batch, read, audio_now)
                skipped.update(bad)
                if block is not None:
                    store.add(block)
                bar.update(len(batch))
    if not store.blocks():
        name, reason = next(iter(skipped.items()))
        raise DataError(
            f"{folder}: no utterance can be recognised; the first, {name}: {reason}"
        )
    return store, skipped


def _read_batches(
    batches: Sequence[list[Utterance]],
) -> Iterator[tuple[list[Utterance], list[np.ndarray | str]]]:
    """Yield batches with their waveforms, or why one cannot be decoded."""
    waves = map_parallel(_read, (one for batch in batches for one in batch), READERS)
    for batch in batches:
        yield batch, [next(waves) for _ in batch]


def _read(one: Utterance) -> np.ndarray | str:
    try:
        return read_wave(one.entry)
    except DamagedAudioError as error:  # in its middle: its ends were probed
        return str(error)


def _compute_block(
    recogniser: Recogniser,
    batch: Sequence[Utterance],
    read: Sequence[np.ndarray | str],
    audio_now: Mapping[str, str],
) -> tuple[Block | None, dict[str, str]]:
    """Compute a block, None if it is empty, and the reasons for its other utterances."""
    bad = {one.name: x for one, x in zip(batch, read) if isinstance(x, str)}
    batch = [one for one in batch if one.name not in bad]
    if not batch:
        return None, bad
    start = time.monotonic()
    try:
        log_probs = recogniser.log_probs([x for x in read if not isinstance(x, str)])
    except TooShortUttError as error:
        return None, bad | {one.name: f"too short: {error}" for one in batch}
    spent = time.monotonic() - start
    # The audio is finite (see find_utterances()), so NaN comes from the model.
    good = {
        one.name: matrix
        for one, matrix in zip(batch, log_probs)
        if not np.isnan(matrix).any()
    }
    bad |= {one.name: NAN_OUTPUT for one in batch if one.name not in good}
    if not good:
        return None, bad
    seconds = sum(one.seconds for one in batch)
    found = [audio_now[name] for name in good]
    return Block(list(good), list(good.values()), seconds, spent, found), bad
