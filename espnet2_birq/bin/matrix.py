"""Run systems x seeds x fine-tuning sets through the recipes' stages, and report."""

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from espnet2_birq.bin.command import make_parser, run
from espnet2_birq.errors import DataError

DESCRIPTION = """\
Run a matrix of experiments through the stages of a recipe and write one report.

The YAML file names the recipe, the systems (changes of a pretraining's configuration;
null: from scratch), the sets to fine-tune on and the test sets. For each system and
seed: pretraining (ssl1/run.sh, stage 7), a probe of the frozen encoder if the file asks
for one, and for each set fine-tuning, decoding and scoring (asr1/run.sh, stages 11 to
13). Everything goes into OUT: ssl/ and asr/ with the experiments, steps/ with a log for
each step, config/, and report.md with its plots.

Repeat the command after an interruption: what is done is not done again, and training
goes on where it stopped. A step whose settings have changed is made again. Systems with
`compute_of: NAME` get as many updates as cost what NAME's cost, in whole epochs; those
with `after: NAME` start from NAME's model, with a new optimizer.

The prepared data is the recipe's own (its dump/): one matrix at a time in a checkout."""

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
    add("spec", type=Path, metavar="YAML", help="the matrix, e.g. bench/matrix.yaml")
    add("--out", type=Path, required=True, metavar="DIR", help="for everything")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    add("--only", nargs="+", metavar="NAME", help="these systems, not all of them")
    add("--jobs", type=int, default=1, help="steps at once, of one CPU thread each")
    add(
        "--gpus", nargs="+", metavar="N", help="CUDA devices, one for each step at once"
    )
    add(
        "--data_options",
        default="",
        help="options of both run.sh that name the data, in one string",
    )
    add(
        "--run_options",
        default="",
        help="further options of both run.sh, in one string (default: --ngpu 1 with "
        "--gpus, else --ngpu 0)",
    )
    add(
        "--phones",
        default="",
        metavar="OPTIONS",
        help="measure phones, too: options of phone_probe, in one string, e.g. "
        '"--data /corpora/LibriSpeech/dev-clean --alignment dev-clean.ctm"',
    )
    add(
        "--report_only",
        action="store_true",
        help="run nothing; report what OUT holds",
    )
    return parser


def command(args: argparse.Namespace) -> None:
    """Run the steps and write the report.

    Raises:
        ConfigError: The matrix is wrong.
        DataError: Steps have failed; all others were run, and the report is written.
    """
    from espnet2_birq.experiments.report import write_report
    from espnet2_birq.experiments.runner import Runner, say
    from espnet2_birq.experiments.spec import read_spec, with_trunks

    spec = read_spec(args.spec)
    runner = Runner(
        spec, args.out, args.data_options, args.run_options, args.gpus, args.phones
    )
    systems = with_trunks(spec, args.only or spec.names)
    failures = []
    if not args.report_only:
        runner.write_configs(args.seeds)
        runner.prepare()

        runs = {}

        def one(system, seed):
            try:
                if system.after is not None:
                    runs[system.after, seed].result()
                runner.run(system, seed)
            except (DataError, OSError) as error:
                failures.append(str(error))
                say(f"error: {error}")

        # Seed by seed: an interrupted run leaves a whole table of the first.
        with ThreadPoolExecutor(len(args.gpus or []) or args.jobs) as pool:
            for seed in args.seeds:
                for system in systems:
                    runs[system.name, seed] = pool.submit(one, system, seed)
        for each in runs.values():
            each.result()  # a fault of this program's own is not to be lost
    report = write_report(runner, args.seeds)
    say(f"report: {report}")
    if failures:
        raise DataError(f"{len(failures)} failed, the first: {failures[0]}")


def main(cmd=None):
    """Run the command; exit status 1 and one line if something failed."""
    run(command, get_parser().parse_args(cmd))


if __name__ == "__main__":
    sys.exit(main())
