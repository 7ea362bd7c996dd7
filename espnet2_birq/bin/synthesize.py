"""Synthesise the demo corpus as Kaldi data directories."""

import argparse
from collections.abc import Sequence

from espnet2_birq.bin.command import add_shared_options, make_parser, run
from espnet2_birq.corpora.demo import make_corpus
from espnet2_birq.options import positive, whole_number

DESCRIPTION = """\
Synthesise a demo corpus with eSpeak NG: sentences from a small English grammar, in
many voices, with noise. Nothing is downloaded.

Writes the Kaldi data directories DEST/pretrain (unlabelled: without text),
DEST/train, DEST/valid and DEST/test, and the audio (FLAC, 16 kHz) to AUDIO. The voices
of pretrain and train are the same; valid and test have others. Sets share no
sentences. The result depends only on the lengths and the seed. Rerunning with the
same options does nothing."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.synthesize --dest data --audio downloads/audio"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("synthesize", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--dest", required=True, help="output directory (recipes use data)"
    )
    parser.add_argument(
        "--audio",
        required=True,
        help="folder for the audio, written to wav.scp as given "
        "(recipes use downloads/audio)",
    )
    for name, minutes in (
        ("unlabelled", 30.0),
        ("labelled", 5.0),
        ("valid", 1.5),
        ("test", 4.0),
    ):
        parser.add_argument(
            f"--{name}-minutes",
            type=positive,
            default=minutes,
            metavar="M",
            help=f"minutes of speech in the set {name}",
        )
    parser.add_argument("--seed", type=whole_number, default=0, help="random seed")
    add_shared_options(parser, "--nj")
    return parser


def synthesize(args: argparse.Namespace) -> None:
    """Run the command."""
    minutes = {
        "test": args.test_minutes,
        "valid": args.valid_minutes,
        "train": args.labelled_minutes,
        "pretrain": args.unlabelled_minutes,
    }
    make_corpus(args.dest, args.audio, minutes, args.seed, args.nj)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(synthesize, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
