"""Write a one-page report on an experiment: curves, codebooks, probes, an utterance.

The page is a single HTML file with its pictures inside, which can be sent. It shows the
state of the training, learning curves, use of the codebooks, phones and text in the
layers (if measured by phone_probe and probe), an utterance with its mask, labels and
predictions, and the configuration. It can also be written while the training runs.

Results are found as phones*.json and probe*/probe.json in EXP, and where a matrix has
them; give others by options.

examples:
  python -m espnet2_birq.bin.report exp/ssl_train_birq_raw
  python -m espnet2_birq.bin.report exp/ssl_train_birq_raw --audio speech.flac \\
      --phones exp/phones.json --probe exp/probe_birq/probe.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.options import output_file


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("report", __doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="EXP", help="pretraining experiment")
    add(
        "--out",
        type=output_file,
        metavar="FILE",
        help="page to write (default: EXP/report.html)",
    )
    add(
        "--phones",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="results of phone_probe",
    )
    add(
        "--probe",
        type=Path,
        nargs="+",
        default=(),
        metavar="FILE",
        help="results of probe",
    )
    add(
        "--audio",
        type=Path,
        metavar="FILE",
        help="recording to show (default: from the validation set)",
    )
    return parser


def report(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.page import write_page

    out = args.out or args.folder / "report.html"
    write_page(args.folder, out, args.phones, args.probe, args.audio)
    print(out)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    run(report, get_parser().parse_args(argv), "report")


if __name__ == "__main__":
    main()
