"""Decode stored log-probabilities in parallel, and write the texts."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from espnet2_birq.datadir.files import write_whole
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.datadir.workers import worker_pool
from espnet2_birq.errors import DataError
from espnet2_birq.evaluation.decode.search import Hypothesis
from espnet2_birq.evaluation.decode.store import (
    LogProbs,
    Results,
    block_seconds,
    read_block,
)
from espnet2_birq.evaluation.wer.alignment import count_errors
from espnet2_birq.evaluation.wer.transcripts import fold_case

Search = Callable[[np.ndarray], Hypothesis]

# State inherited by forked workers, so that an n-gram is loaded only once.
_search: Search
_done: set[str] = set()


def _search_block(path: Path) -> dict[str, dict]:
    block = read_block(path)
    found = {}
    for name, log_probs in zip(block.names, block.log_probs):
        if name not in _done:
            start = time.perf_counter()
            tokens, score = _search(log_probs)
            spent = round(time.perf_counter() - start, 6)
            found[name] = dict(tokens=tokens, score=score, seconds=spent)
    return found


def _search_blocks(paths: Sequence[Path], nj: int) -> Iterator[dict[str, dict]]:
    if nj == 1:
        yield from map(_search_block, paths)
        return
    # Forked, not spawned: see above. The workers never touch a GPU.
    with worker_pool(nj, "fork") as pool:
        waiting = [pool.submit(_search_block, path) for path in paths]
        for future in as_completed(waiting):
            yield future.result()


def search_store(search: Search, store: LogProbs, results: Results, nj: int) -> None:
    """Decode those utterances of a store that have no result yet.

    Args:
        search: Function from log-probabilities (T, V) to a hypothesis.
        store: Log-probabilities.
        results: Results, to which new ones are added block by block.
        nj: Number of processes.

    Raises:
        DataError: A process was killed.
    """
    global _search, _done
    left = len(store.done() - results.found.keys())
    if not left:
        return
    _search, _done = search, set(results.found)
    with tqdm(total=left, desc="search", unit="utt", disable=None) as bar:
        for found in _search_blocks(store.blocks(), nj):
            if found:
                results.add(found)
            bar.update(len(found))


def word_error_rate(refs: Mapping[str, str], hyps: Mapping[str, str]) -> float:
    """Compute the word error rate of all `refs` in percent, as bin/score does.

    Raises:
        DataError: The references have no words.
    """
    if not any(refs.values()):
        raise DataError("the transcripts have no word: there is no error rate")
    counts = count_errors(
        [fold_case(text) for text in refs.values()],
        [fold_case(hyps.get(name, "")) for name in refs],
    )
    return float(100 * counts[:, 1:].sum() / counts[:, :3].sum())


def write_output(
    folder: Path,
    names: Sequence[str],
    results: Results,
    skipped: Mapping[str, str],
    to_text: Callable[[Sequence[int]], tuple[str, list[str]]],
) -> dict[str, str]:
    """Write the files of asr.sh's stage 12: text, token, token_int, score.

    Each has a line per utterance, empty for skipped ones; the reasons for these are in
    the file `skipped`.

    Args:
        folder: <asr_exp>/<tag>/<set>.
        names: All utterances of the set, in the order of its wav.scp.
        results: Results of utterances that were not skipped.
        skipped: Reasons for skipping utterances, by name.
        to_text: Function from token ids to text and tokens.

    Returns:
        Text by name.

    Raises:
        DataError: An utterance is neither skipped nor has a result.
    """
    lines: dict[str, list[str]] = {x: [] for x in ("token", "token_int", "score")}
    texts = {}
    for name in names:
        found: dict = dict(tokens=[], score=0.0)
        if name not in skipped:  # an older store may contain it
            if name not in results.found:
                raise DataError(
                    f"{results.path}: lacks {name}; were its log-probabilities removed "
                    "meanwhile? Run the command again"
                )
            found = results.found[name]
        texts[name], tokens = to_text(found["tokens"])
        lines["token"].append(f"{name} {' '.join(tokens)}")
        lines["token_int"].append(f"{name} {' '.join(map(str, found['tokens']))}")
        lines["score"].append(f"{name} {found['score']}")
    lines["skipped"] = [f"{name} {reason}" for name, reason in sorted(skipped.items())]
    lines["text"] = [f"{name} {text}" for name, text in texts.items()]
    for kind, content in lines.items():
        write_whole(folder / kind, "".join(line + "\n" for line in content))
    return texts


def finish_set(
    data: Path, folder: Path, store: LogProbs, results: Results, skipped, to_text
) -> dict:
    """Write the output of a set; log its figures and write them to decode.json.

    Args:
        data: Data directory; with `text`, the word error rate is computed.
        folder: <asr_exp>/<tag>/<set>.
        store: Log-probabilities.
        results: Results of the search.
        skipped: Reasons for skipping utterances, by name.
        to_text: Function from token ids to text and tokens.

    Returns:
        The figures.

    Raises:
        DataError: As in write_output().
    """
    names = list(read_scp(data / "wav.scp"))
    texts = write_output(folder, names, results, skipped, to_text)
    seconds, network = block_seconds(store.blocks())
    search = sum(found["seconds"] for found in results.found.values())
    empty = [name for name, text in texts.items() if not text and name not in skipped]
    figures = dict(
        utterances=len(texts),
        skipped=len(skipped),
        empty=len(empty),
        hours=round(seconds / 3600, 3),
        network_rtf=round(network / seconds, 5),
        search_rtf_per_core=round(search / seconds, 5),
    )
    if (data / "text").exists():
        refs = _references(data / "text", texts)
        if any(refs.values()):  # otherwise the rate is undefined
            figures["wer"] = round(word_error_rate(refs, texts), 2)
    write_whole(folder / "decode.json", json.dumps(figures, indent=1) + "\n")
    logging.info(f"{folder}: " + ", ".join(f"{k} {v}" for k, v in figures.items()))
    if skipped:
        logging.warning(
            f"{folder}/skipped: {len(skipped)} utterances have empty lines; the first: "
            + " ".join(next(iter(sorted(skipped.items()))))
        )
    return figures


def _references(path: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Return the references of decoded utterances, telling how many are of others."""
    refs = read_scp(path, allow_empty_values=True)
    others = [name for name in refs if name not in texts]
    if others:
        logging.warning(
            f"{path}: {len(others)} utterances are not in wav.scp, so they are not "
            f"scored; the first: {others[0]}"
        )
    return {name: ref for name, ref in refs.items() if name in texts}
