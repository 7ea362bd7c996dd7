"""Requests to stop: batch systems send a signal some minutes before they kill.

A training notes the signal, saves its state after the current update, and exits with
status 85, so that whoever started it knows that the same command goes on. (torchrun and
PyTorch Lightning handle SIGUSR1 and SIGTERM likewise.)
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch.multiprocessing import ProcessExitedException

STOPPED = 85  # exit status
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)

_received: list[str] = []


def stop_request() -> str | None:
    """Return the name of the first signal received in listening(), if any."""
    return _received[0] if _received else None


@contextmanager
def listening() -> Iterator[None]:
    """Note the signals in this context instead of dying of them.

    For the process that trains; see relaying() for the one that starts it.
    """
    with _handling(lambda number, _: _received.append(signal.Signals(number).name)):
        try:
            yield
        finally:
            _end_workers()


def exit_of_rank(error: ProcessExitedException) -> int | str:
    """Return what to exit with after a rank has: its status, if it has told why.

    ESPnet's launcher ends the others, within half a minute.
    """
    if error.exit_code >= 0:
        return max(error.exit_code, 1)
    return (
        f"error: rank {error.error_index} was ended by {error.signal_name}, perhaps for "
        "lack of memory; the same command goes on from the last saved state"
    )


@contextmanager
def relaying() -> Iterator[None]:
    """Pass the signals on to the processes started in this context.

    Raises:
        SystemExit: A signal comes when there are none: nothing has to be saved yet.
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
        yield  # where Python allows no handlers
        return
    del _received[:]
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _end_workers() -> None:
    """Kill data-loading workers, whose SIGTERM at Python's exit deferred() holds back."""
    # PyTorch's handler would raise an error for each.
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()
            child.join()
    signal.signal(signal.SIGCHLD, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Hold the signals back in this context, and in processes started in it.

    Batch systems signal all processes of a job. A data-loading worker would die of
    it, and PyTorch raises an error in the main process wherever that may be.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
