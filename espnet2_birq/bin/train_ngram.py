"""Estimate a word n-gram from transcripts; see --help."""

import argparse
import gzip
import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import kenlm

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.datadir.kaldi import read_scp
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.evaluation.decode.ngram import (
    Model,
    arpa_lines,
    estimate,
    mix,
    perplexity,
    read_arpa,
    tune_weights,
)
from espnet2_birq.evaluation.decode.store import write_whole

DESCRIPTION = """\
Estimate a word n-gram from transcripts and write it as an ARPA file, for ctc_decode.

Text is a data directory (its file `text`), or a file with a sentence in each line,
which may be gzipped. The estimate is interpolated modified Kneser-Ney smoothing, by
KenLM's lmplz where it is on the PATH, else by this package: the same, but in memory,
for a few million words. With --interpolate, other texts' n-grams or ARPA files are
mixed with it, by weights that make the --dev text likeliest. Give a development set
there, no test set."""

EPILOG = """\
examples:
  python -m espnet2_birq.bin.train_ngram --text data/ihm_train --dev data/ihm_dev \\
      --out exp/ngram/ami.arpa
  python -m espnet2_birq.bin.train_ngram --text data/ihm_train --dev data/ihm_dev \\
      --interpolate 3-gram.pruned.1e-7.arpa.gz --out exp/ngram/ami_libri.arpa"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("train_ngram", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="what the n-gram is estimated from, all together",
    )
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    parser.add_argument(
        "--order",
        type=int,
        default=4,
        choices=range(1, 7),
        metavar="N",
        help="words in the longest n-grams, 1 to 6 (default: %(default)s)",
    )
    parser.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[0, 0, 1],
        metavar="COUNT",
        help="n-grams that occur no more often are left out, for one word, two, three "
        "and so on; the last holds for all longer ones (default: 0 0 1)",
    )
    parser.add_argument(
        "--interpolate",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="ARPA files or texts, each of which is mixed with the n-gram",
    )
    parser.add_argument(
        "--dev",
        type=Path,
        metavar="PATH",
        help="text of a development set: perplexities are told, and mixture weights "
        "tuned on it",
    )
    return parser


def read_sentences(path: Path) -> list[list[str]]:
    """Read a text: a data directory, or a file that may be gzipped."""
    if path.is_dir():
        texts = read_scp(path / "text", allow_empty_values=True).values()
        return [text.split() for text in texts]
    if not path.is_file():
        raise DataError(f"{path}: no such file or data directory")
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as stream:
            return [line.split() for line in stream]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8; convert it with iconv") from error


def run_lmplz(program: str, args: argparse.Namespace, arpa: Path) -> None:
    """Estimate with KenLM's lmplz; the same n-gram as by estimate()."""
    command = [program, "-o", str(args.order), "--discount_fallback"]
    command += ["--prune", *map(str, args.prune[: args.order]), "--arpa", str(arpa)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        for path in args.text:
            for words in read_sentences(path):
                print(*words, file=process.stdin)
        process.stdin.close()
        if process.wait():
            raise DataError(f"{program} ended with status {process.returncode}")


def load(path: Path, args: argparse.Namespace) -> Model:
    """Read an ARPA file, or estimate from a text."""
    if path.is_dir() or ".arpa" not in path.suffixes:
        return estimate(read_sentences(path), args.order, args.prune)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as stream:
        return read_arpa(stream, str(path))


def mix_all(args: argparse.Namespace, first: Model) -> Model:
    """Mix the n-gram with those of --interpolate."""
    dev = read_sentences(args.dev)
    models = [first, *(load(path, args) for path in args.interpolate)]
    weights = tune_weights(models, dev)
    names = ["--text", *map(str, args.interpolate)]
    for name, model, weight in zip(names, models, weights):
        value, unknown = perplexity(model, dev)
        logging.info(
            f"{name}: weight {weight:.3f}, perplexity of {args.dev} {value:.1f} with "
            f"{unknown} unknown words"
        )
    return mix(models, weights)


def tell_perplexity(path: Path, dev: Path) -> None:
    """Log the perplexity of a text, computed by KenLM, and its unknown words."""
    model = kenlm.Model(str(path))
    total, events, unknown = 0.0, 0, 0
    for words in read_sentences(dev):
        for score, _, is_unknown in model.full_scores(" ".join(words)):
            total, events, unknown = total + score, events + 1, unknown + is_unknown
    logging.info(
        f"{path}: perplexity of {dev} {10 ** (-total / events):.1f}, {unknown} of its "
        f"{events} words and sentence ends are unknown"
    )


def train(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.interpolate and args.dev is None:
        raise ConfigError("--interpolate wants --dev, to tune the mixture on")
    if args.prune != sorted(args.prune) or args.prune[0]:
        raise ConfigError("--prune begins with 0 and never falls, as 0 0 1")
    if ".arpa" not in args.out.suffixes or args.out.suffix == ".gz":
        raise ConfigError(f"--out {args.out}: give a name that ends in .arpa")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    model = None
    if program := shutil.which("lmplz"):
        logging.info(f"estimating with {program}")
        part = args.out.with_name("lmplz." + args.out.name)
        run_lmplz(program, args, part)
        if args.interpolate:
            model = load(part, args)
            part.unlink()
        else:
            part.replace(args.out)
    else:
        sentences = [words for path in args.text for words in read_sentences(path)]
        total = sum(map(len, sentences))
        logging.info(f"{len(sentences)} sentences, {total} words")
        model = estimate(sentences, args.order, args.prune)
    if args.interpolate:
        model = mix_all(args, model)
    if model is not None:
        write_whole(args.out, "".join(line + "\n" for line in arpa_lines(model)))
    if args.dev:
        tell_perplexity(args.out, args.dev)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    run(train, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
