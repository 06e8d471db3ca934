"""What threads work out ahead of the caller, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(work: Callable[[int], T], count: int, workers: int) -> Iterator[T]:
    """Yield ``work(0)`` to ``work(count - 1)``, worked out a few ahead of the caller and never all at once.

    Args:
        work: called from several threads; what it raises comes when its turn comes.
        count: of its arguments.
        workers: threads; 0 for none, each is then worked out when it is asked for.
    """
    if not workers:
        yield from map(work, range(count))
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="ahead") as pool:
        pending: deque[Future[T]] = deque()
        try:
            for index in range(count):
                pending.append(pool.submit(work, index))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
