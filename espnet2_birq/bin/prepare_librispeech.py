"""Prepare LibriSpeech as Kaldi data directories."""

import argparse
from collections.abc import Sequence

from espnet2_birq.bin.command import add_shared_options, make_parser, run, wanted_rate
from espnet2_birq.corpora.librispeech import prepare_librispeech

DESCRIPTION = """\
Prepare LibriSpeech, or mini LibriSpeech, as Kaldi data directories.

Every part becomes a directory DEST/<set> with wav.scp, text, utt2spk, spk2utt and
spk2gender, where <set> is the part's name with "_" for "-". As in ESPnet, train_960
combines the three training parts and dev the two dev parts, if all are present. As
in Kaldi, a "speaker" is a reader in a chapter.

Every audio file is opened: an empty or truncated file or a wrong rate is an error that
names it. Skipped utterances (without audio or transcript) are in DEST/<set>/skipped,
with reasons. The summary describes each set, and the unused rest of the corpus."""

EPILOG = """\
examples:
  # All available parts: data/dev_clean, data/train_clean_100, ..., data/train_960
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data

  # Check what is available (a minute for the 960 hours)
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data \\
      --skip_bad --dry_run

  # Two parts. The last 4 readers of dev-clean are held out: 2 of them are
  # data/dev_clean_valid, 2 are data/dev_clean_test, the other readers are
  # data/dev_clean_train. data/train joins these with the whole of train-clean-100.
  python -m espnet2_birq.bin.prepare_librispeech --librispeech /corpora --dest data \\
      --parts train-clean-100 dev-clean --split dev-clean:4 \\
      --combine train=train_clean_100+dev_clean_train"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("prepare_librispeech", DESCRIPTION, EPILOG)
    parser.add_argument(
        "--librispeech",
        required=True,
        metavar="DIR",
        help="folder LibriSpeech/, or its parent",
    )
    add_shared_options(parser, "--dest")
    parser.add_argument(
        "--parts",
        nargs="+",
        metavar="PART",
        help="parts to prepare (default: all found)",
    )
    parser.add_argument(
        "--split",
        action="append",
        default=[],
        type=_split,
        metavar="PART:N",
        help="hold out PART's last N readers: N/2 in <set>_valid, N/2 in <set>_test, "
        "the others in <set>_train; may be repeated",
    )
    parser.add_argument(
        "--combine",
        action="append",
        default=[],
        type=_combination,
        metavar="NAME=SET+SET...",
        help="also write a set NAME that combines these sets; may be repeated",
    )
    parser.add_argument(
        "--need",
        nargs="+",
        default=[],
        metavar="SET",
        help="fail, before anything is written, if one of these sets would not be made, "
        "or, without --skip_bad, be partial; other sets in DEST are your own",
    )
    add_shared_options(parser, "--fs", "--resample", "--skip_bad", "--nj", "--dry_run")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command."""
    sets = args.parts, args.split, args.combine
    prepare_librispeech(
        args.librispeech,
        args.dest,
        *sets,
        need=args.need,
        fs=wanted_rate(args),
        skip_bad=args.skip_bad,
        nj=args.nj,
        dry_run=args.dry_run,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


def _split(value: str) -> tuple[str, int]:
    part, _, number = value.rpartition(":")
    if not part or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{value!r} is not PART:N, as in dev-clean:4")
    return part, int(number)


def _combination(value: str) -> tuple[str, list[str]]:
    name, _, members = value.partition("=")
    if not name or not all(members.split("+")):
        raise argparse.ArgumentTypeError(
            f"{value!r} is not NAME=SET+SET, as in train=train_clean_5+dev_clean_2"
        )
    return name, members.split("+")


if __name__ == "__main__":
    main()
