"""One function over many files, on all cores."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from fptk.core.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

WORTH_A_PROCESS = 32
"""Files below which starting another interpreter takes longer than the work it saves."""


def parallel_map(function: Callable[[T], R], items: Sequence[T], jobs: int | None = None) -> Iterator[R]:
    """Yield ``function(item)`` of every item, in order.

    Args:
        function: a module-level function, because processes are spawned: forking beside the thread of a progress bar
            can dead-lock.
        items: its arguments; they and the results must pickle.
        jobs: processes; None for one per core, or fewer where there is little to do; 1 stays in this process.

    Raises:
        InputError: a worker was killed from outside. What ``function`` raises comes through as it is.
    """
    jobs = default_jobs(len(items)) if jobs is None else min(jobs, len(items))
    if jobs <= 1:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_begin_worker)
    try:
        with _ctrl_c_blocked():  # workers inherit that until they ignore it themselves
            results = pool.map(function, items, chunksize=max(1, min(16, len(items) // (4 * jobs))))
        yield from results
    except BrokenProcessPool as error:
        raise InputError("a worker process was killed, probably for want of memory; use fewer --jobs") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_worker() -> None:
    """Leave Ctrl-C to the calling process, which then cancels what hasn't begun, and end when it's killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def default_jobs(count: int) -> int:
    """Processes for ``count`` files: at most one per core that this process may use."""
    from fptk.core.host import usable_cores

    return max(1, min(usable_cores(), count // WORTH_A_PROCESS))
