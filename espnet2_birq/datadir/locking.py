"""Locks against other processes that write the same files."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_held: set[int] = set()


def _let_go() -> None:
    """Close the locks in a forked process, which may outlive its killed parent."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def locked(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Lock a file against other processes, of this machine or, on most NFS, of others.

    Args:
        path: File to lock; made if missing.
        waiting: Called if it must be waited for; may raise instead.

    Yields:
        Its descriptor. Commands that inherit it keep the lock until they end, so that
        what a killed matrix has started is not started again beside it. Forked worker
        processes do not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            # A file system without locks: as before, nobody else may be at work.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield descriptor
    finally:
        _held.discard(descriptor)
        os.close(descriptor)
