"""Run and report a matrix of experiments: systems x seeds x fine-tuning sets."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from espnet2_birq.datadir.locking import locked
from espnet2_birq.errors import ConfigError, DataError
from espnet2_birq.experiments.report import write_report
from espnet2_birq.experiments.runner import Runner, say
from espnet2_birq.experiments.spec import System, read_spec, with_trunks


def run_matrix(
    spec: Path,
    out: Path,
    seeds: Sequence[int] = (0, 1, 2),
    only: Sequence[str] | None = None,
    *,
    jobs: int | None = None,
    gpus: Sequence[str] | None = None,
    data_options: str = "",
    run_options: str = "",
    phones: str = "",
    report_only: bool = False,
) -> None:
    """Run the unfinished steps of a matrix, and write its report.

    Args:
        spec: YAML file of the matrix.
        out: Output folder.
        seeds: Seeds of each system.
        only: Names of systems; None: all.
        jobs: Number of parallel steps, without `gpus`; default: 1.
        gpus: CUDA devices, each for one step at a time.
        data_options: Data options of both run.sh.
        run_options: Further options of both run.sh.
        phones: Options of phone_probe; empty: do not run it.
        report_only: Whether to only write the report.

    Raises:
        ConfigError: Invalid matrix or options.
        DataError: Steps have failed; all others were run, and the report is written.
    """
    if gpus and jobs is not None:
        raise ConfigError("--jobs: with --gpus, a step runs on each; leave out --jobs")
    matrix = read_spec(spec)
    names = list(gpus) if gpus else None
    runner = Runner(matrix, out, data_options, run_options, names, phones, report_only)
    systems = with_trunks(matrix, list(only or matrix.names))
    failures: list[str] = []
    if not report_only:
        runner.configs.write(list(seeds))
        runner.prepare()
        failures = _run_all(runner, systems, seeds, len(gpus or []) or jobs or 1)
    with locked(runner.out / "report.lock"):  # other matrices may have the same folder
        report = write_report(runner, list(seeds))
    say(f"report: {report}")
    if failures:
        raise DataError(f"{len(failures)} failed, the first: {failures[0]}")


def _run_all(
    runner: Runner, systems: Sequence[System], seeds: Sequence[int], workers: int
) -> list[str]:
    """Run all systems with all seeds; return failures."""
    failures: list[str] = []
    runs: dict[tuple[str, int], Future[None]] = {}

    def one(system: System, seed: int) -> None:
        try:
            if system.after is not None:
                runs[system.after, seed].result()
            runner.run(system, seed)
        except (DataError, OSError) as error:
            failures.append(str(error))
            say(f"error: {error}")

    # Seed by seed, so that an interrupted run has a complete table of the first seed.
    with ThreadPoolExecutor(workers) as pool:
        for seed in seeds:
            for system in systems:
                runs[system.name, seed] = pool.submit(one, system, seed)
    for each in runs.values():
        each.result()  # re-raise unexpected exceptions of worker threads
    return failures
