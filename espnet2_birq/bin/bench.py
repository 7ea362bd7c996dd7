"""Measure this machine: training steps, reading, the batch that fits, days for a corpus."""

import argparse
from collections.abc import Sequence

from espnet2_birq.bin.command import make_parser, run, warnings_off
from espnet2_birq.bin.options.speech import (
    VALID_HOURS,
    add_speech_options,
    check_speech_options,
)
from espnet2_birq.options import output_file

DESCRIPTION = """\
Measure how fast this machine pretrains, in minutes: the rate of large matrix products,
steps of the configured training and of its objectives of the input alone (BEST-RQ), on
noise, at two lengths; a forward pass as in validation; with --data reading; with
--processes the exchange of gradients. From these it plans the batch that fits and the
time of the corpus. Nothing else should run meanwhile.

--out keeps the rates: `birq plan --machine FILE` plans other configurations by them.

All other options are those of ssl_train: --use_amp true, --encoder_conf num_blocks=12, ...
change the configuration."""
EPILOG = """\
examples:
  python -m espnet2_birq.bin.bench --config conf/train_birq.yaml --hours 960
  python -m espnet2_birq.bin.bench --config conf/tuning/train_birq_c2.yaml \\
      --data dump/raw/train --device cuda --processes 8 --out machine.json"""
POSITIVE = (
    "hours valid_hours utterance_seconds longest_seconds rounds most_seconds threads "
    "processes"
)


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser; all other options are those of ssl_train."""
    parser = make_parser("bench", DESCRIPTION, EPILOG)
    add_speech_options(parser)
    add = parser.add_argument
    add(
        "--device",
        choices=("cpu", "cuda"),
        help="device to measure (default: cuda if available)",
    )
    add("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    add("--rounds", type=int, default=3, help="timed steps of each kind")
    add(
        "--most_seconds",
        type=float,
        metavar="S",
        help="limit on the seconds of speech in a timed batch (default: 40 on a CPU, 640 on a "
        "GPU); smaller batches than the configured one are less efficient on a GPU",
    )
    add(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="number of GPUs of this machine that exchange gradients",
    )
    add(
        "--out",
        type=output_file,
        metavar="JSON",
        help="file to write the measured rates to, for plan --machine",
    )
    return parser


def bench(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.planning.bench import bench_machine

    check_speech_options(args, POSITIVE)
    args.valid_hours = args.valid_hours or VALID_HOURS
    with warnings_off():
        for line in bench_machine(args, args.rest):
            print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    own, rest = get_parser().parse_known_args(argv)
    run(bench, argparse.Namespace(**vars(own), rest=rest))


if __name__ == "__main__":
    main()
