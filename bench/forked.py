"""Run programs of this folder as forks of one process that has imported PyTorch.

A new process spends about ten seconds on importing PyTorch and ESPnet. A fork has them
already, with its own memory and CUDA context. Forks cannot use CUDA if the parent has used
it, as ESPnet's trainer does on import, so import it under ``no_gpu()``.
"""

import contextlib
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path
from subprocess import CompletedProcess

BENCH = Path(__file__).resolve().parent
HIDE = dict(PYTORCH_NVML_BASED_CUDA_CHECK="1", CUDA_VISIBLE_DEVICES="")


@contextlib.contextmanager
def no_gpu():
    """Hide all GPUs, so that PyTorch reports none without calling CUDA."""
    before = {name: os.environ.get(name) for name in HIDE}
    os.environ.update(HIDE)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def preload():
    """Import the programs' modules once."""
    sys.path[:0] = [str(BENCH.parent), str(BENCH)]
    with no_gpu():
        import step  # noqa: F401


def run(words: list[str], seconds: float | None = None) -> CompletedProcess[str]:
    """Run ``[program.py, option, ...]`` in a fork.

    Args:
        words: Program and its options.
        seconds: Time limit, after which the fork is killed with status 124, as by
            timeout(1); None for no limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        streams = [os.path.join(folder, name) for name in ("stdout", "stderr")]
        process = multiprocessing.get_context("fork").Process(
            target=_program, args=(words, *streams)
        )
        process.start()
        process.join(seconds)
        status = process.exitcode
        if status is None:
            process.kill()
            process.join()
            status = 124
        texts = [Path(x).read_text() if os.path.exists(x) else "" for x in streams]
    return CompletedProcess(words, status, *texts)


def _program(words: list[str], out: str, err: str):
    for path, descriptor in ((out, 1), (err, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, descriptor)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    sys.argv = list(words)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
