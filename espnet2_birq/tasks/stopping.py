"""Requests to stop: Ctrl-C, or the signal of a batch system minutes before it kills a job.

Training notes the signal, saves its state after the current update, and exits with
status 85, which tells the caller that the same command will resume it. (torchrun and
PyTorch Lightning handle SIGUSR1 and SIGTERM similarly.)
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch.multiprocessing import ProcessExitedException

STOPPED = 85  # exit status
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
REPEATED = 1.0  # seconds after which Ctrl-C is another one, not the same passed on

_received: list[tuple[str, float]] = []  # names of signals, and when they came


def stop_request() -> str | None:
    """Return the name of the first signal received in listening(), if any."""
    return _received[0][0] if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Note the signals in this context instead of being killed by them.

    For the process that trains; see relaying() for the one that starts it.

    Raises:
        SystemExit: Ctrl-C was pressed again: the user does not want to wait.
    """

    def note(number, _):
        now = time.monotonic()
        if number == signal.SIGINT and _received and now - _received[0][1] > REPEATED:
            raise SystemExit(128 + number)
        _received.append((signal.Signals(number).name, now))

    with _handling(note):
        try:
            yield
        finally:
            _end_workers()


def exit_of_rank(error: ProcessExitedException) -> int | str:
    """Return the exit status of a rank, or a message if a signal killed it silently.

    ESPnet's launcher ends the other ranks within half a minute.
    """
    if error.exit_code >= 0:
        return max(error.exit_code, 1)
    return (
        f"error: rank {error.error_index} was ended by {error.signal_name}, perhaps for "
        "lack of memory; the same command resumes from the last saved state"
    )


@contextmanager
def relaying() -> Iterator[None]:
    """Pass the signals on to the processes started in this context.

    Raises:
        SystemExit: A signal arrived before any process was started: nothing to save yet.
    """

    def relay(number, _):
        children = multiprocessing.active_children()
        if not children:
            raise SystemExit(STOPPED)
        for child in children:
            if child.pid is not None:
                os.kill(child.pid, number)

    with _handling(relay):
        yield


@contextmanager
def _handling(handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # Python allows no signal handlers here
        return
    del _received[:]
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _end_workers() -> None:
    """Kill data-loading workers: deferred() blocks the SIGTERM they would get at exit."""
    # PyTorch's handler would raise an error for each of them.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
    signal.signal(signal.SIGCHLD, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Block the signals in this context, and in processes started in it.

    Batch systems signal all processes of a job. This would kill the data-loading workers,
    and PyTorch would then raise an error at an arbitrary point of the main process.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
