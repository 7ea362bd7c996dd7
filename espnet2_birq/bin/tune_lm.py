"""Tune the weights of a word n-gram on a development set; see --help."""

import argparse
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.command import (
    add_lm_options,
    add_network_options,
    load_recogniser,
    load_search,
    log_probs_of,
)
from espnet2_birq.evaluation.decode.pipeline import search_store, word_error_rate
from espnet2_birq.evaluation.decode.search import Weights
from espnet2_birq.evaluation.decode.store import Results, write_whole
from espnet2_birq.evaluation.decode.tuning import table, tune

DESCRIPTION = """\
Tune the weights with which ctc_decode uses a word n-gram: lm_weight and word_score with
the fewest word errors on a development set. Tune on that set only, and never on one
that error rates are reported of: a set with "test" or "eval" in its name, as test_clean
or ihm_eval, is refused.

The network runs once (its log-probabilities are kept, and ctc_decode uses the same);
then each pair of weights is a search through the set. From the defaults, steps are made
while they help, then smaller ones; all that was tried is printed as a table. What is
done is kept in OUT.work, so that a killed command goes on where it was."""

EPILOG = """\
example, in a recipe's folder:
  python -m espnet2_birq.bin.tune_lm --model exp/asr_birq/valid.loss.ave.pth \\
      --dev dump/raw/dev --lm 4-gram.arpa.gz --out exp/asr_birq/4-gram.yaml"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("tune_lm", DESCRIPTION, EPILOG)
    add_network_options(parser)
    parser.add_argument(
        "--dev",
        type=Path,
        required=True,
        metavar="DIR",
        help="data directory of the development set, with text",
    )
    add_lm_options(parser, required=True)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="YAML file to write, for ctc_decode --weights",
    )
    add_shared_options(parser, "--nj")
    return parser


def tune_on(args: argparse.Namespace) -> None:
    """Run the command."""
    if {"test", "eval"} & set(re.split("[-_.]", args.dev.resolve().name.lower())):
        raise ConfigError(
            f"--dev {args.dev}: looks like a test set; tune on a development set"
        )
    texts = read_scp(args.dev / "text", allow_empty_values=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    recogniser = load_recogniser(args)
    store, skipped = log_probs_of(args, recogniser, args.dev)
    if skipped:
        name, reason = min(skipped.items())
        logging.warning(
            f"{args.dev}: {len(skipped)} utterances are left out; the first, {name}: "
            f"{reason}"
        )
    beam = {x: getattr(args, x) for x in ("beam_size", "beam_threshold")}
    start = Weights(**{name: value for name, value in beam.items() if value})
    search, key = load_search(args.lm, args.words, recogniser.tokens, start)
    key = {**json.loads((store.folder / "key.json").read_text()), **key}
    names = store.done()
    if refs := {name: text for name, text in texts.items() if name in names}:
        logging.info(f"{args.dev}: {len(refs)} utterances with text and audio")
    else:
        raise DataError(f"{args.dev}: no utterance has both text and audio")

    def error_rate(weights: Weights) -> float:
        search.weights = weights
        name = f"{weights.lm_weight}_{weights.word_score}.jsonl"
        results = Results(
            args.out.with_name(args.out.name + ".work") / name,
            {**key, **weights._asdict()},
        )
        search_store(search, store, results, args.nj)
        hyps = {x: recogniser.text(y["tokens"])[0] for x, y in results.found.items()}
        rate = word_error_rate(refs, hyps)
        logging.info(
            f"lm_weight {weights.lm_weight} word_score {weights.word_score}: "
            f"WER {rate:.2f} %"
        )
        return rate

    best, tried = tune(error_rate, start)
    values = {"lm": str(args.lm), **best._asdict()}
    if args.words:
        values["words"] = str(args.words)
    values.update(dev=str(args.dev), dev_wer=round(tried[best], 2))
    write_whole(args.out, yaml.safe_dump(values, sort_keys=False))
    print(f"WER % on {args.dev}, the best one bold:\n\n{table(tried, best)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(tune_on, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
