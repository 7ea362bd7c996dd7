"""Run systems x seeds x fine-tuning sets through a recipe's stages, and report."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.options import count, output_folder, whole_number

DESCRIPTION = """\
Run a matrix of experiments through the stages of a recipe and write one report.

The YAML file lists the recipe, the systems (changes to a pretraining configuration;
null: from scratch), the sets to fine-tune on and the test sets. For each system and
seed: pretraining (ssl1/run.sh, stage 7), a probe of the frozen encoder if
configured, and for each set fine-tuning, decoding and scoring (asr1/run.sh, stages 11 to
13). Everything is written to OUT: ssl/ and asr/ with the experiments, steps/ with a log
per step, config/, and report.md with its plots.

Rerun the command after an interruption: it skips finished steps and resumes
training. Steps with changed settings or inputs are redone; until then, the report leaves
out their results and names them. Changes of the code itself are not noticed. Systems with
`compute_of: NAME` train for the compute of NAME, in whole epochs; those with
`after: NAME` start from NAME's model, with a new optimizer.

Several such commands may share OUT, also from several machines, to divide systems or
seeds (--only, --seeds): each step is run by one of them, and the others wait for its end.
The recipe's prepared data (its dump/) is used: matrices of other data need another
checkout."""

EPILOG = """\
examples:
  python -m espnet2_birq.bin.matrix bench/matrix.yaml --out exp/matrix --jobs 2 \\
      --data_options "--librispeech /corpora --train train-clean-100 --dev dev-clean"
  python -m espnet2_birq.bin.matrix bench/matrix.yaml --out exp/matrix --gpus 0 1 2 3
  python -m espnet2_birq.bin.matrix bench/matrix.yaml --out exp/matrix --report_only"""


def get_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = make_parser("matrix", DESCRIPTION, EPILOG)
    add = parser.add_argument
    add(
        "spec",
        type=Path,
        metavar="YAML",
        help="description of the matrix, e.g. bench/matrix.yaml",
    )
    add("--out", type=output_folder, required=True, metavar="DIR", help="output folder")
    add(
        "--seeds",
        type=whole_number,
        nargs="+",
        default=[0, 1, 2],
        help="random seeds of each system (default: 0 1 2)",
    )
    add("--only", nargs="+", metavar="NAME", help="run only these systems")
    add(
        "--jobs",
        type=count,
        help="number of steps run in parallel, with one CPU thread each; without --gpus "
        "(default: 1)",
    )
    add("--gpus", nargs="+", metavar="N", help="CUDA devices, one per parallel step")
    add(
        "--data_options",
        default="",
        help="data options of both run.sh, in one string; folders in it are relative to "
        "the recipe's ssl1 and asr1, so give absolute ones",
    )
    add(
        "--run_options",
        default="",
        help="further options of both run.sh, in one string, which override --ngpu 1 (with "
        "--gpus) or --ngpu 0 --num_threads 1; none that change the training",
    )
    add(
        "--phones",
        default="",
        metavar="OPTIONS",
        help="also run phone_probe, with these options in one string, in which folders are "
        "relative to where this command runs, e.g. "
        '"--data /corpora/LibriSpeech/dev-clean --alignment dev-clean.ctm"',
    )
    add(
        "--report_only",
        action="store_true",
        help="run nothing; report the contents of OUT, which may have been copied here "
        "without the recipe's data",
    )
    return parser


def matrix(args: argparse.Namespace) -> None:
    """Run the command."""
    from espnet2_birq.experiments.matrix import run_matrix

    run_matrix(
        args.spec,
        args.out,
        args.seeds,
        args.only,
        jobs=args.jobs,
        gpus=args.gpus,
        data_options=args.data_options,
        run_options=args.run_options,
        phones=args.phones,
        report_only=args.report_only,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; exit with status 1 and one line on stderr on failure."""
    run(matrix, get_parser().parse_args(argv))


if __name__ == "__main__":
    main()
