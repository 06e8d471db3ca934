"""Throughput of several engines on one machine: many requests at once, measured in interleaved rounds.

A server cares how many images a second leave it, not how long one of them takes. So each engine gets as many requests
as it can work on at once, and a new one as soon as one is done. The engines take turns as for latency.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from fptk.benchmarks.latency import Latency, LatencyPlan, in_turns
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Closing, Session

Mode = Literal["latency", "throughput"]
"""What is timed: one call after another, or many requests at once."""

Spans = npt.NDArray[np.int64]
"""Nanoseconds of ``time.perf_counter_ns``, shape (requests, 2): begin and end of each request."""


@dataclass(frozen=True)
class Concurrency:
    """How an engine works on several requests at once."""

    requests: int
    """Requests that are in flight at any time."""
    streams: int
    """Requests that compute at the same time; the others wait for their turn."""
    threads: int
    """CPU threads of all streams together."""


class RequestPool(Closing, ABC):
    """An engine that is loaded for several requests at once. It owns its memory until it is closed."""

    def __init__(self, spec: PreprocessSpec, concurrency: Concurrency) -> None:
        self.spec = spec
        """Preprocessing that the images must have gone through."""
        self.concurrency = concurrency

    @abstractmethod
    def run(self, images: UInt8Array, count: int) -> Spans:
        """Answer ``count`` requests, ``concurrency.requests`` of them at any time, and wait for the last.

        Args:
            images: uint8 (N, H, W, 3) RGB, C-contiguous, the same for each request; (H, W) = ``spec.size``.
            count: at least 1.

        Returns:
            int64 (count, 2), begin and end of each request in any order.

        Raises:
            InputError: the engine failed.
        """


class ThreadedPool(RequestPool):
    """A session that several threads of this process call at the same time.

    Args:
        session: takes calls from several threads, and computes each in the thread that calls; closed with the pool.
        threads: how many.
    """

    def __init__(self, session: Session, threads: int) -> None:
        super().__init__(session.spec, Concurrency(requests=threads, streams=threads, threads=threads))
        self._session = session
        self._threads = ThreadPoolExecutor(threads, "request")

    def run(self, images: UInt8Array, count: int) -> Spans:
        tickets = itertools.count()  # its next() is one step of the interpreter, so that no ticket is given twice
        spans = np.empty((count, 2), np.int64)

        def work() -> None:
            while (ticket := next(tickets)) < count:
                begin = time.perf_counter_ns()
                self._session(images)
                spans[ticket] = begin, time.perf_counter_ns()

        for worker in [self._threads.submit(work) for _ in range(self.concurrency.requests)]:
            worker.result()
        return spans

    def close(self) -> None:
        self._threads.shutdown()
        self._session.close()


@dataclass(frozen=True)
class Throughput:
    """Figures of one engine.

    Attributes:
        rates: float64 (rounds,), images a second of each turn.
        latency: of the single requests, which share the processor with each other.
        concurrency: what was in flight.
    """

    rates: npt.NDArray[np.float64]
    latency: Latency
    concurrency: Concurrency

    @property
    def fps(self) -> float:
        """Images a second in the median turn; one hiccup of the machine would decide a mean."""
        return float(np.median(self.rates))


def throughput_in_turns(
    pools: Sequence[RequestPool],
    image: UInt8Array,
    plan: LatencyPlan,
    batch: int = 1,
    listener: Listener = SILENT,
) -> list[Throughput]:
    """Measure engines against each other, each with as many requests at once as it takes.

    Args:
        pools: loaded engines; there may be none.
        image: uint8 (H, W, 3) RGB photograph of any size; preprocessing is done here, once, and not timed.
        plan: rounds; ``calls`` and ``warmup`` count requests for each one that is in flight.
        batch: copies of the image in one request.
        listener: is told how many rounds are done.

    Returns:
        The figures of each engine, in order.

    Raises:
        InputError: an engine failed.
    """
    if not pools:
        return []
    for pool in pools:
        if plan.warmup:
            pool.run(_images(pool, image, batch), plan.warmup * pool.concurrency.requests)
    turns = in_turns([_turn(pool, _images(pool, image, batch), plan.calls) for pool in pools], plan.rounds, listener)
    results = []
    for pool, taken in zip(pools, turns, strict=True):
        spans = np.concatenate([steady for steady, _ in taken])
        milliseconds = (spans[:, 1] - spans[:, 0]) / 1e6
        rates = batch * np.array([rate for _, rate in taken])
        results.append(Throughput(rates, Latency(milliseconds, batch), pool.concurrency))
    return results


def _images(pool: RequestPool, image: UInt8Array, batch: int) -> UInt8Array:
    return np.repeat(pool.spec.apply(image)[None], batch, axis=0)


def _turn(pool: RequestPool, images: UInt8Array, calls: int) -> Callable[[], tuple[Spans, float]]:
    """A turn of one engine, ready to be called: the requests that count, and how many of them end in a second."""
    flying = pool.concurrency.requests

    def turn() -> tuple[Spans, float]:
        return steady_state(pool.run(images, (calls + 2) * flying), flying)

    return turn


def steady_state(spans: Spans, flying: int) -> tuple[Spans, float]:
    """What happened while all requests were in flight.

    The first ``flying`` requests that end belong to the start: they began together, on cold caches. When the last
    ``flying`` are left, none follows, and the engine runs empty. Between the two, the engine is always full.

    Args:
        spans: int64 (more than 2 x flying, 2), as :meth:`RequestPool.run` returns.
        flying: requests in flight.

    Returns:
        The spans between, in the order of their ends, and requests a second.
    """
    spans = spans[np.argsort(spans[:, 1], kind="stable")]
    steady = spans[flying:-flying]
    return steady, 1e9 * len(steady) / float(steady[-1, 1] - spans[flying - 1, 1])
