"""Worker processes of a command, which end with it."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from espnet2_birq.errors import DataError


@contextmanager
def worker_pool(
    nj: int, method: str, begin: Callable[..., None] | None = None, *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes; at the end, what has not begun is cancelled.

    Args:
        nj: Number of processes.
        method: How to start them: fork or spawn.
        begin: Called first in each of them.
        given: Arguments of `begin`.

    Raises:
        DataError: A process was killed.
    """
    context = multiprocessing.get_context(method)
    pool = ProcessPoolExecutor(nj, context, _begin, (begin, *given))
    try:
        yield pool
    except BrokenProcessPool as error:
        raise DataError(
            "a process was killed, for lack of memory? Give a lower --nj; finished work "
            "is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(begin: Callable[..., None] | None, *given: Any) -> None:
    # Workers of a killed command would do the work in their queue, beside the workers of
    # the next command, and then wait forever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*given)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
