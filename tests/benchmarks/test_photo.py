"""The way of a photograph: each stage has its own time, and the sessions take turns."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from fptk.benchmarks import photo as module
from fptk.benchmarks.latency import LatencyPlan
from fptk.benchmarks.photo import enlarged, split_in_turns
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

SPEC = PreprocessSpec(size=(32, 64))
PHOTO = np.zeros((90, 120, 3), np.uint8)


class Sleeper(Session):
    """Takes a known time and writes its name and batch into a shared diary."""

    def __init__(self, name: str, seconds: float, diary: list[tuple[str, int]]) -> None:
        super().__init__(name, SPEC)
        self.seconds, self.diary = seconds, diary

    def _infer(self, images: UInt8Array) -> UInt8Array:
        self.diary.append((self.name, len(images)))
        time.sleep(self.seconds)
        return np.zeros(images.shape[:3], np.uint8)


def test_sessions_take_turns_of_one_call_to_warm_up_and_one_that_counts(heard: Any) -> None:
    diary: list[tuple[str, int]] = []
    sessions = [Sleeper(name, 0, diary) for name in "ab"]
    split_in_turns(sessions, PHOTO, LatencyPlan(rounds=2, calls=7), batch=3, listener=heard)
    assert diary == ([("a", 3)] * 2 + [("b", 3)] * 2) * 2
    assert [(total, still) for _, total, still, _ in heard.counted] == [(2, True)]


def test_each_stage_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages that sleep 10, 20 and 40 ms are told apart."""
    sizes: list[tuple[int, ...]] = []

    def slow(labels: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        sizes.append(size)
        time.sleep(0.04)
        return labels

    class SlowSpec(PreprocessSpec):
        def apply(self, image: UInt8Array) -> UInt8Array:
            time.sleep(0.01)
            return super().apply(image)

    monkeypatch.setattr(module, "resize_labels", slow)
    session = Sleeper("a", 0.02, [])
    session.spec = SlowSpec(size=SPEC.size)
    (split,) = split_in_turns([session], PHOTO, LatencyPlan(rounds=3))
    assert 10 <= split.preprocess_ms < split.infer_ms < split.postprocess_ms < split.whole_ms
    assert split.infer_ms >= 20
    assert split.postprocess_ms >= 40
    assert set(sizes) == {PHOTO.shape[:2]}


def test_without_transfers_a_device_is_timed_by_its_own_clock() -> None:
    class OnDevice(Sleeper):
        def compute_ms(self) -> float:
            return 0.25

    session = OnDevice("gpu", 0.005, [])
    (own,) = split_in_turns([session], PHOTO, LatencyPlan(rounds=2), transfers=False)
    (whole,) = split_in_turns([session], PHOTO, LatencyPlan(rounds=2))
    assert own.infer_ms == 0.25
    assert whole.infer_ms >= 5


def test_a_small_image_becomes_a_photograph() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    photo = enlarged(image, (40, 20))
    assert (photo.shape, photo.dtype) == ((20, 40, 3), np.uint8)
    assert photo.std() > 10, "it shows what the small one shows"
