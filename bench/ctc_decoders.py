"""Comparison of this project's CTC search with a word n-gram to other decoders.

    python bench/ctc_decoders.py exp/asr_x/ctc_log_probs_valid.loss.ave/test \\
        --text dump/raw/test/text --tokens data/en_token_list/char/tokens.txt \\
        --lm 4gram.arpa --lm_weight 1.5 --word_score 0

decodes stored log-probabilities (from ctc_decode) one utterance after the other, with each
installed decoder, and prints a table row for each: word error rate and real-time factor on
one core. All use the same weights and beam. pyctcdecode requires numpy<2, which conflicts
with the project's environment; use a small separate environment (without PyTorch):

    uv venv v && uv pip install --python v/bin/python jiwer ufal-flashlight-text \\
        ufal-kenlm ctc-beam-decoder pyctcdecode
"""

import argparse
import importlib.util
import math
import time
from pathlib import Path

from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.evaluation.decode.ngram_search import NgramSearch
from espnet2_birq.evaluation.decode.pipeline import word_error_rate
from espnet2_birq.evaluation.decode.search import Weights, arpa_words, best_path
from espnet2_birq.evaluation.decode.store import block_seconds, read_block


def get_parser():
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("log_probs", type=Path, help="folder written by ctc_decode")
    parser.add_argument("--text", type=Path, required=True, help="references")
    parser.add_argument("--tokens", type=Path, required=True, help="one token per line")
    parser.add_argument("--lm", type=Path, required=True, help="ARPA file")
    parser.add_argument("--lm_weight", type=float, default=1.5, help="of log10 P")
    parser.add_argument("--word_score", type=float, default=0.0)
    parser.add_argument("--beam_size", type=int, default=100)
    return parser


def letters(tokens):
    """Convert tokens for the other decoders: "" is the blank, " " the space."""
    special = {"<blank>": "", "<space>": " ", "<unk>": "\u2047", "<sos/eos>": "\u2048"}
    return [special.get(token, token) for token in tokens]


def decoders(args, tokens):
    """Return a mapping from each installed decoder to its function."""
    labels, words = letters(tokens), list(arpa_words(args.lm))
    weights = Weights(args.lm_weight, args.word_score, args.beam_size)
    search = NgramSearch(args.lm, tokens, words, weights)

    def text(hypothesis):
        return "".join(labels[token] for token in hypothesis.tokens)

    found = {
        "best path, no n-gram": lambda x: text(best_path(x)),
        "this project (flashlight-text)": lambda x: text(search(x)),
    }
    for module in ("pyctcdecode", "ctc_beam_decoder"):
        if importlib.util.find_spec(module):
            decoder = importlib.import_module(module).build_ctcdecoder(
                labels,
                str(args.lm),
                unigrams=[word for word in words if not word.startswith("<")],
                alpha=args.lm_weight / math.log(10),  # for natural logarithms
                beta=args.word_score,
            )
            found[module] = lambda x, d=decoder: d.decode(x, beam_width=args.beam_size)
    return found


def main():
    """Run the command."""
    args = get_parser().parse_args()
    tokens = args.tokens.read_text(encoding="utf-8").split()
    refs = read_scp(args.text, allow_empty_values=True)
    paths = sorted(args.log_probs.glob("*.npz"))
    seconds, _ = block_seconds(paths)
    print("| decoder | WER % | real-time factor |\n|---|---|---|")
    for name, decode in decoders(args, tokens).items():
        texts, spent = {}, 0.0
        for block in map(read_block, paths):
            for utterance, log_probs in zip(block.names, block.log_probs):
                start = time.perf_counter()
                texts[utterance] = decode(log_probs)
                spent += time.perf_counter() - start
        rate = word_error_rate({x: refs[x] for x in texts}, texts)
        print(f"| {name} | {rate:.2f} | {spent / seconds:.4f} |", flush=True)


if __name__ == "__main__":
    main()
