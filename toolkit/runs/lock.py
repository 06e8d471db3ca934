"""One training at a time in a run folder: a lock that says who holds it, and that a killed holder gives up."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from fptk.core.errors import InputError
from fptk.core.files import parse_json, writing

NAME = ".fptk-run.lock"
"""Name of the lock in a run folder. The operating system holds the lock; the file only carries it."""


class RunLock:
    """The right to write into a run folder, between :meth:`acquire` and :meth:`release`.

    Where the system or the file system has no locks, everyone gets it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock; the folder exists.

        Raises:
            InputError: another process holds it, or the folder cannot be written.
        """
        with writing(self._path):
            while self._descriptor is None:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
                try:
                    self._lock(descriptor)
                    # The holder before may have removed the file between our opening and our locking of it.
                    if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:  # noqa: PTH116
                        self._descriptor = descriptor
                except FileNotFoundError:
                    pass
                finally:
                    if self._descriptor is None:
                        os.close(descriptor)
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": datetime.now(UTC).isoformat()[:19]}
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def _lock(self, descriptor: int) -> None:
        try:
            import fcntl
        except ImportError:
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"run folder {self._folder} is in use by {_holder(descriptor)}; wait for its end, or choose another "
                "--out"
            ) from None
        except OSError:  # a file system without locks
            return

    def release(self) -> None:
        """Give the lock back; without one, do nothing."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    """Who holds the lock, in words."""
    try:
        holder = parse_json(os.pread(descriptor, 1000, 0))
        return f"process {holder['pid']} on {holder['host']} since {holder['started']} UTC"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
