"""CTC with a word n-gram: this project's search beside other decoders.

    python bench/ctc_decoders.py exp/asr_x/ctc_log_probs_valid.loss.ave/test \\
        --text dump/raw/test/text --tokens data/en_token_list/char/tokens.txt \\
        --lm 4gram.arpa --lm_weight 1.5 --word_score 0

decodes stored log-probabilities (of ctc_decode) one utterance after the other, with all
of these decoders that are installed, and prints a row of a table for each: word error
rate and real-time factor on one core. All have the same weights and beam. pyctcdecode
wants numpy<2, so that the project's environment cannot have it by its rules; a small
environment of its own is enough (no PyTorch):

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
    parser.add_argument("log_probs", type=Path, help="folder that ctc_decode has kept")
    parser.add_argument("--text", type=Path, required=True, help="what was said")
    parser.add_argument("--tokens", type=Path, required=True, help="a token in a line")
    parser.add_argument("--lm", type=Path, required=True, help="ARPA file")
    parser.add_argument("--lm_weight", type=float, default=1.5, help="of log10 P")
    parser.add_argument("--word_score", type=float, default=0.0)
    parser.add_argument("--beam_size", type=int, default=100)
    return parser


def letters(tokens):
    """Tokens as the other decoders want them: "" the blank, " " the space."""
    special = {"<blank>": "", "<space>": " ", "<unk>": "\u2047", "<sos/eos>": "\u2048"}
    return [special.get(token, token) for token in tokens]


def decoders(args, tokens):
    """Name to function from log-probabilities to text, of those installed."""
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
                alpha=args.lm_weight / math.log(10),  # theirs is of the natural log
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
