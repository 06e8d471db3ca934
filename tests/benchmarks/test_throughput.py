"""Throughput: requests run at the same time, engines take turns, and only the time with all in flight counts."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from fptk.benchmarks.latency import LatencyPlan
from fptk.benchmarks.throughput import (
    Concurrency,
    RequestPool,
    Spans,
    ThreadedPool,
    steady_state,
    throughput_in_turns,
)
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

SPEC = PreprocessSpec(size=(32, 64))
IMAGE = np.zeros((10, 10, 3), np.uint8)
SECOND = 1_000_000_000


class Noted(RequestPool):
    """Notes what it is asked for; each of its requests takes a second, two at a time."""

    def __init__(self, name: str, diary: list[tuple[str, int]]) -> None:
        super().__init__(SPEC, Concurrency(requests=2, streams=2, threads=2))
        self.name, self.diary = name, diary
        self.shapes: set[tuple[int, ...]] = set()

    def run(self, images: UInt8Array, count: int) -> Spans:
        self.diary.append((self.name, count))
        self.shapes.add(images.shape)
        begins = SECOND * (np.arange(count) // 2)
        return np.stack([begins, begins + SECOND], axis=1)


class Together(Session):
    """Answers only when so many threads call it at the same time."""

    def __init__(self, threads: int) -> None:
        super().__init__("together", SPEC)
        self.barrier = threading.Barrier(threads)
        self.closed = False

    def _infer(self, images: UInt8Array) -> UInt8Array:
        self.barrier.wait(timeout=30)
        return np.zeros(images.shape[:3], np.uint8)

    def close(self) -> None:
        self.closed = True


def test_only_the_time_counts_in_which_all_requests_are_in_flight() -> None:
    """Two streams, a request a second each; the first two take five seconds, the last ones run alone for nine."""
    ends = np.array([5, 5, 6, 6, 7, 7, 8, 8, 17, 17]) * SECOND
    begins = np.array([0, 0, 5, 5, 6, 6, 7, 7, 8, 8]) * SECOND
    order = np.random.default_rng(0).permutation(len(ends))
    spans, rate = steady_state(np.stack([begins, ends], axis=1)[order], flying=2)
    assert rate == pytest.approx(2)
    assert spans[:, 1].tolist() == (np.array([6, 6, 7, 7, 8, 8]) * SECOND).tolist()
    assert (spans[:, 1] - spans[:, 0] == SECOND).all()


def test_engines_take_turns_and_each_is_kept_full(heard: Any) -> None:
    diary: list[tuple[str, int]] = []
    pools = [Noted(name, diary) for name in "ab"]
    plan = LatencyPlan(rounds=2, calls=3, warmup=1)
    results = throughput_in_turns(pools, IMAGE, plan, 4, heard)
    assert diary == [("a", 2), ("b", 2)] + [("a", 10), ("b", 10)] * 2
    assert heard.counted == [("timing, in turns", 2, True, [1, 2])]
    for pool, result in zip(pools, results, strict=True):
        assert pool.shapes == {(4, 32, 64, 3)}
        assert result.rates.tolist() == [8, 8], "two requests of four images a second"
        assert result.fps == 8
        assert result.latency.milliseconds.tolist() == [1000] * 12
        assert result.concurrency == pool.concurrency


def test_nothing_is_measured_of_no_engine(heard: Any) -> None:
    assert throughput_in_turns([], IMAGE, LatencyPlan(), 1, heard) == []
    assert heard.counted == []


def test_a_session_is_called_by_all_threads_at_the_same_time() -> None:
    session = Together(3)
    with ThreadedPool(session, 3) as pool:
        assert pool.concurrency == Concurrency(requests=3, streams=3, threads=3)
        spans = pool.run(np.zeros((1, 32, 64, 3), np.uint8), 9)
        assert spans.shape == (9, 2)
        assert (spans[:, 0] < spans[:, 1]).all()
    assert session.closed


def test_requests_at_once_give_more_images_a_second_than_one_after_another() -> None:
    class Sleeper(Session):
        def _infer(self, images: UInt8Array) -> UInt8Array:
            time.sleep(0.02)
            return np.zeros(images.shape[:3], np.uint8)

    with ThreadedPool(Sleeper("sleeper", SPEC), 4) as pool:
        (result,) = throughput_in_turns([pool], IMAGE, LatencyPlan(rounds=3, calls=2, warmup=0))
    assert 1.5 / 0.02 < result.fps <= 4 / 0.02
    assert result.latency.percentile(50) >= 20


def test_an_engine_that_fails_in_a_thread_is_the_users_error() -> None:
    class Broken(Session):
        def _infer(self, images: UInt8Array) -> UInt8Array:
            raise InputError("the engine is damaged")

    with ThreadedPool(Broken("broken", SPEC), 2) as pool, pytest.raises(InputError, match="is damaged"):
        pool.run(np.zeros((1, 32, 64, 3), np.uint8), 4)
