"""Prepare AMI as Kaldi data directories."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run, wanted_rate
from espnet2_birq.bin.options.ami import add_selection
from espnet2_birq.corpora.ami.prepare import prepare_ami

DESCRIPTION = """\
Prepare the AMI meeting corpus as Kaldi data directories, from its manual annotation
1.6.2 as it is published and its audio as it is distributed.

Utterances, their ids, words and set names are those of Kaldi's and ESPnet's recipes:
DATA_DIR/{ihm,sdm1,mdm8}_{train,dev,eval} with wav.scp, segments, text, utt2spk and
spk2utt, and stm and glm for scoring. Recordings that are not there, and utterances that
end after their recording, are skipped and counted. In each set, words.tsv tells what
became of all words of the annotation, statistics.tsv how much is said in each meeting
and how much of it at the same time, skipped what was left out and why.

Microphones: ihm (each participant's headset), sdm1 (the first of the array), mdm8 (the
array's eight, which espnet2_birq.bin.beamform_ami makes one), mix (the sum of the
headsets, Mix-Headset; not among the published benchmarks)."""

EPILOG = """\
examples:
  # What would be cut, by the annotation alone: no audio is needed.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --annotations-only --mic ihm data

  # Headsets, two sets.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --audio downloads/amicorpus --mic ihm --sets train,dev data"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("prepare_ami", DESCRIPTION, EPILOG)
    parser.add_argument(
        "dest", type=Path, metavar="DATA_DIR", help="where to write; data in a recipe"
    )
    add_selection(parser)
    parser.add_argument(
        "--audio",
        default="amicorpus",
        metavar="DIR",
        help="the folder of the meetings' folders, or the one that holds it as "
        "amicorpus; for mdm8 the one that beamform_ami wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--annotations-only",
        action="store_true",
        help="do not look for audio; wav.scp tells where it would be",
    )
    add_shared_options(parser, "--fs", "--resample", "--skip-bad", "--nj", "--dry-run")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Run the command."""
    prepare_ami(
        args.annotations,
        args.audio,
        args.dest,
        args.mic,
        args.sets,
        args.partition,
        annotations_only=args.annotations_only,
        fs=wanted_rate(args),
        skip_bad=args.skip_bad,
        nj=args.nj,
        dry_run=args.dry_run,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(prepare, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
