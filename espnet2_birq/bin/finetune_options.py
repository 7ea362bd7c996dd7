"""Options for finetune.sh that depend on the pretrained model and the data."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.options import count

DESCRIPTION = """\
Print options of ESPnet's asr_train. OPTIONS are its other options, in particular
--config FILE (of "model", only this file). WHAT is one of

  init_param   Requires --ssl_model FILE. FILE:encoder:encoder and, if the ASR encoder
               has fewer layers, the names of the excluded top layers.
  training     For the scheduler tristagelr, "--scheduler_conf max_steps=N" with
               the total number of updates, so that warm-up, hold and annealing match
               the training for any data, batches and number of GPUs (--gpus);
               unless OPTIONS set max_steps. For an --ssl_model pretrained with
               global_mvn, "--normalize global_mvn --normalize_conf stats_file=STATS",
               where STATS (--stats) becomes a copy of the statistics of pretraining.
               Exit status 1 if an epoch has fewer batches than accum_grad.
  model        Not an option: the name of the averaged model of the file's
               best_model_criterion, for --inference_asr_model."""

EPILOG = """\
example:
  python -m espnet2_birq.bin.finetune_options training --gpus 8 -- \\
      --config conf/train_asr.yaml \\
      --train_shape_file exp/asr_stats_raw_en_char/train/speech_shape \\
      --train_shape_file exp/asr_stats_raw_en_char/train/text_shape.char"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("finetune_options", DESCRIPTION, EPILOG)
    parser.add_argument(
        "what", metavar="WHAT", choices=("init_param", "training", "model")
    )
    parser.add_argument(
        "--ssl_model",
        type=Path,
        metavar="FILE",
        help="pretrained model, next to its config.yaml",
    )
    parser.add_argument(
        "--stats", type=Path, metavar="STATS", help="feats_stats.npz to write"
    )
    parser.add_argument(
        "--gpus",
        type=count,
        default=1,
        metavar="N",
        help="number of GPUs",
    )
    parser.add_argument(
        "--resumed",
        type=Path,
        metavar="FILE",
        help="config.yaml of the training that goes on",
    )
    parser.add_argument(
        "options",
        nargs="+",
        metavar="OPTIONS",
        help="other options of asr_train, after --",
    )
    return parser


def finetune_options(args: argparse.Namespace) -> None:
    """Run the command."""
    if args.what == "model":
        from espnet2_birq.config import averaged_model

        print(averaged_model(Path(args.options[-1])))
        return
    from espnet2_birq.bin.asr_train import get_parser as asr_parser
    from espnet2_birq.tasks.commands import parse
    from espnet2_birq.transfer import init_param, training_options

    options = [*args.options, "--output_dir", "unused"]
    asr_args = parse(asr_parser(), options)
    if args.what == "init_param":
        print(init_param(args.ssl_model, asr_args))
        return
    given = "max_steps=" in " ".join(options)
    print(
        training_options(
            asr_args, args.gpus, args.ssl_model, args.stats, given, args.resumed
        )
    )


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
