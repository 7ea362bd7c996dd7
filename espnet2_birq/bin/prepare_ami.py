"""Prepare AMI as Kaldi data directories."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import add_shared_options, make_parser, run, wanted_rate
from espnet2_birq.bin.options.ami import add_selection
from espnet2_birq.corpora.ami.prepare import prepare_ami

DESCRIPTION = """\
Prepare the AMI meeting corpus as Kaldi data directories, from the published manual
annotation 1.6.2 and the distributed audio.

Utterances, ids, words and set names are those of Kaldi's and ESPnet's recipes:
DATA_DIR/{ihm,sdm1,mdm8}_{train,dev,eval} with wav.scp, segments, text, utt2spk and
spk2utt, and stm and glm for scoring. A recording that is missing, bad, or ends more
than 15 s before its last utterance is an error; with --skip_bad, utterances that it
does not hold are skipped and counted, so that an excerpt of the corpus can be used. In
each set, words.tsv accounts for all annotated words, statistics.tsv lists speech and
overlapped speech per meeting, skipped lists what was skipped and why.

Microphones: ihm (each participant's headset), sdm1 (first of the array), mdm8 (eight
of the array, beamformed by beamform_ami), mix (sum of the
headsets, Mix-Headset; not among the published benchmarks)."""

EPILOG = """\
examples:
  # Segmentation by the annotation alone, without audio.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --annotations_only --mic ihm data

  # Headsets, two sets.
  python -m espnet2_birq.bin.prepare_ami --annotations downloads/annotations \\
      --audio downloads/amicorpus --mic ihm --sets train,dev data"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("prepare_ami", DESCRIPTION, EPILOG)
    parser.add_argument(
        "dest",
        type=Path,
        metavar="DATA_DIR",
        help="output directory (recipes use data)",
    )
    add_selection(parser)
    parser.add_argument(
        "--audio",
        default="amicorpus",
        metavar="DIR",
        help="folder with the meetings' folders, or its parent if named "
        "amicorpus; for mdm8 the output of beamform_ami",
    )
    parser.add_argument(
        "--annotations_only",
        action="store_true",
        help="do not look for audio; wav.scp has the expected paths",
    )
    add_shared_options(parser, "--fs", "--resample", "--skip_bad", "--nj", "--dry_run")
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
