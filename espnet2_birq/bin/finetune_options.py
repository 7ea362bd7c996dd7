"""Options that depend on the pretrained model and on the data; for finetune.sh."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.errors import ConfigError
from espnet2_birq.tasks.asr import ASRTask
from espnet2_birq.tasks.finetuning import count_updates
from espnet2_birq.transfer import copy_statistics, init_param

DESCRIPTION = """\
Print options of ESPnet's asr_train. OPTIONS are its other options; first of all,
--config FILE. WHAT is one of

  init_param   --ssl_model FILE is needed. FILE:encoder:encoder and, if the ASR encoder
               has fewer layers, the names of those at the top that are not loaded.
  training     With the scheduler tristagelr, "--scheduler_conf max_steps=N" where N is
               the number of all updates, so that warm-up, hold and annealing fill the
               training whatever the data, the batches and the number of GPUs (--gpus)
               are; not where OPTIONS set max_steps. With an --ssl_model pretrained with
               global_mvn, "--normalize global_mvn --normalize_conf stats_file=STATS",
               where STATS (--stats) gets a copy of the statistics of pretraining.
               Exit status 1 if an epoch has fewer batches than accum_grad."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.finetune_options training --gpus 8 -- \\
      --config conf/train_asr.yaml \\
      --train_shape_file exp/asr_stats_raw_en_char/train/speech_shape \\
      --train_shape_file exp/asr_stats_raw_en_char/train/text_shape.char"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("finetune_options", DESCRIPTION, EPILOG)
    parser.add_argument("what", metavar="WHAT", choices=("init_param", "training"))
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
        return
    updates = count_updates(asr_args, args.gpus)
    found = []
    if asr_args.scheduler == "tristagelr" and "max_steps=" not in " ".join(options):
        if updates is None:
            raise ConfigError(
                "the scheduler tristagelr has to be told the number of updates, which "
                f"is not known beforehand with iterator_type {asr_args.iterator_type}, "
                f"batch_type {asr_args.batch_type}; give --asr_args '--scheduler_conf "
                "max_steps=N'"
            )
        found.append(f"--scheduler_conf max_steps={updates}")
    if args.ssl_model is not None and copy_statistics(args.ssl_model, args.stats):
        found.append(f"--normalize global_mvn --normalize_conf stats_file={args.stats}")
    print(" ".join(found))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on an error."""
    parser = get_parser()
    args = parser.parse_args(argv)
    if args.what == "init_param" and args.ssl_model is None:
        parser.error("init_param requires --ssl_model")
    if args.what == "training" and args.ssl_model and args.stats is None:
        parser.error("training requires --stats with --ssl_model")
    run(finetune_options, args)


if __name__ == "__main__":
    main()
