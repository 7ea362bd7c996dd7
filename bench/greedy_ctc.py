"""Decode sets greedily with a CTC model, in batches: one process, seconds a set.

The likeliest code of each frame, repeats and blanks removed. espnet2.bin.asr_inference
with beam_size 1 and ctc_weight 1 (conf/*/decode_asr.yaml) is a prefix search and finds
other texts: CER 61.9 and 60.5 % there, 59.7 and 61.1 % here, on the model "from scratch"
of the README's first result. Batches change nothing there: 24 of 24 texts are the same
one by one.

Example:
    python bench/greedy_ctc.py --asr_model exp/asr/valid.loss.ave.pth \\
        --out exp/asr/decode_greedy dump/raw/test dump/raw/test_other
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

import soundfile
import torch
from espnet2.tasks.asr import ASRTask

BATCH = 8  # utterances


def get_parser() -> argparse.ArgumentParser:
    """Parser of this command."""
    parser = argparse.ArgumentParser(
        description="Decode data directories greedily with a CTC model of ESPnet. "
        "Writes OUT/<set>/text and ref.trn, hyp.trn in OUT/<set>/score_{cer,wer}, as "
        "asr.sh does."
    )
    parser.add_argument("--asr_model", type=Path, required=True, metavar="FILE.pth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("sets", nargs="+", type=Path, help="with wav.scp and text")
    return parser


def read_table(path: Path) -> Dict[str, str]:
    """Read a Kaldi file: utterance id to the rest of its line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    return {pair[0]: pair[1] if len(pair) > 1 else "" for pair in pairs}


def decode(
    model, token_list: List[str], files: Dict[str, str]
) -> Iterator[Tuple[str, str]]:
    """Decode sound files, the shortest first.

    Args:
        model: ASR model with a CTC head.
        token_list: Its tokens; characters and <space>.
        files: Utterance id to its sound file.

    Yields:
        Utterance id and text.
    """
    ids = sorted(files, key=lambda utt_id: soundfile.info(files[utt_id]).frames)
    for start in range(0, len(ids), BATCH):
        batch = ids[start : start + BATCH]
        waves = [soundfile.read(files[utt_id], dtype="float32")[0] for utt_id in batch]
        lengths = torch.tensor([len(wave) for wave in waves])
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(wave) for wave in waves], batch_first=True
        )
        with torch.no_grad():
            encoded, frames = model.encode(padded, lengths)  # (B, T', E), (B,)
            best = model.ctc.argmax(encoded)  # (B, T')
        for utt_id, codes, length in zip(batch, best, frames):
            codes = torch.unique_consecutive(codes[:length]).tolist()
            tokens = [token_list[code] for code in codes if code != model.blank_id]
            yield utt_id, "".join(tokens).replace("<space>", " ")


def write_trn(path: Path, text: Dict[str, str], order: List[str], kind: str) -> None:
    """Write a trn file of words or characters.

    Args:
        path: The file.
        text: Utterance id to text.
        order: The ids in the order of writing.
        kind: "wer" or "cer".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for utt_id in order:
            words = text[utt_id].split()
            if kind == "cer":
                words = " <space> ".join(" ".join(word) for word in words).split()
            print(*words, f"({utt_id}-{utt_id})", file=stream)


def main(cmd=None):
    """Run the command."""
    args = get_parser().parse_args(cmd)
    logging.disable(logging.WARNING)
    if not args.asr_model.is_file():
        sys.exit(f"greedy_ctc: error: {args.asr_model}: no such file")
    model, conf = ASRTask.build_model_from_file(
        args.asr_model.parent / "config.yaml", args.asr_model, "cpu"
    )
    model.eval()
    for folder in args.sets:
        refs = read_table(folder / "text")
        hyps = dict(decode(model, conf.token_list, read_table(folder / "wav.scp")))
        out = args.out / folder.name
        for kind in ("cer", "wer"):
            write_trn(out / f"score_{kind}" / "ref.trn", refs, sorted(refs), kind)
            write_trn(out / f"score_{kind}" / "hyp.trn", hyps, sorted(refs), kind)
        lines = [f"{utt_id} {hyps[utt_id]}".rstrip() for utt_id in sorted(refs)]
        (out / "text").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
