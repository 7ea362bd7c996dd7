"""Options that depend on the pretrained model and on the data; for finetune.sh."""

import argparse
from pathlib import Path
from typing import Optional, Sequence

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.encoder.handoff import copy_statistics, init_param
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.finetuning import count_updates

DESCRIPTION = """\
Print the option of ESPnet's asr_train that WHAT asks for. OPTIONS are the other options
of asr_train; first of all, --config FILE.

  init_param   --ssl_model FILE is needed. FILE:encoder:encoder and, if the ASR encoder
               has fewer layers, the names of those at the top that are not loaded.
  normalize    --ssl_model FILE is needed. With a model pretrained with global_mvn,
               "--normalize global_mvn --normalize_conf stats_file=STATS", where STATS
               (--stats) gets a copy of the statistics of pretraining; else nothing.
  schedule     With the scheduler tristagelr, "--scheduler_conf max_steps=N" where N is
               the number of all updates, so that warm-up, hold and annealing fill the
               training whatever the data, the batches and the number of GPUs (--gpus)
               are. With another scheduler, or where OPTIONS set max_steps, nothing.
               Exit status 1 if an epoch has fewer batches than accum_grad."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.finetune_options schedule --gpus 8 -- \\
      --config conf/train_asr.yaml \\
      --train_shape_file exp/asr_stats_raw_en_char/train/speech_shape \\
      --train_shape_file exp/asr_stats_raw_en_char/train/text_shape.char"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("finetune_options", DESCRIPTION, EPILOG)
    parser.add_argument(
        "what", metavar="WHAT", choices=("init_param", "normalize", "schedule")
    )
    parser.add_argument(
        "--ssl_model", type=Path, metavar="FILE", help="pretrained model"
    )
    parser.add_argument(
        "--stats", type=Path, metavar="STATS", help="feats_stats.npz to write"
    )
    parser.add_argument(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="how many train together (default: %(default)s)",
    )
    parser.add_argument("options", nargs="+", metavar="OPTIONS", help="after a --")
    return parser


def finetune_options(args: argparse.Namespace) -> None:
    """Run the command.

    Args:
        args: What get_parser() parsed.

    Raises:
        ConfigError: The pretrained model does not fit, or updates cannot be counted.
    """
    options = [*args.options, "--output_dir", "unused"]
    asr_args = ASRTask.get_parser().parse_args(options)
    if args.what == "init_param":
        print(init_param(args.ssl_model, asr_args))
    elif args.what == "normalize":
        if copy_statistics(args.ssl_model, args.stats):
            print(f"--normalize global_mvn --normalize_conf stats_file={args.stats}")
    else:
        updates = count_updates(asr_args, args.gpus)
        if asr_args.scheduler != "tristagelr" or "max_steps=" in " ".join(options):
            return
        if updates is None:
            raise ConfigError(
                "the scheduler tristagelr has to be told the number of updates, which "
                f"is not known beforehand with iterator_type {asr_args.iterator_type}, "
                f"batch_type {asr_args.batch_type}; give --asr_args '--scheduler_conf "
                "max_steps=N'"
            )
        print(f"--scheduler_conf max_steps={updates}")


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.what != "schedule" and args.ssl_model is None:
        parser.error(f"{args.what} requires --ssl_model")
    if args.what == "normalize" and args.stats is None:
        parser.error("normalize requires --stats")
    run(finetune_options, args)


if __name__ == "__main__":
    main()
