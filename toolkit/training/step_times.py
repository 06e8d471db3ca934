"""Where a step's time goes: ``fptk train --profile``.

On a GPU the host only orders work, so the parts of a step are bounded by events of the device. Each part's time runs
from the end of the part before to its own end there: where the device waits for the host, that is in it. How much of
the time the GPU really works says torch's profiler, over a few steps of its own.
"""

from __future__ import annotations

import time
from typing import Any

import torch

_PROFILED = 10
"""Steps of which torch's profiler sums up the kernels; its own work slows them, so they are not counted."""


class StepTimes:
    """Collects the times of the parts of steps; one that is off does nothing.

    Args:
        device: where the training runs.
        on: whether anybody asked.
    """

    def __init__(self, device: torch.device, on: bool) -> None:
        self.on = on
        self._device = device
        self._gpu = device.type == "cuda"
        self._skipped = 10 if self._gpu else 2  # first steps fetch, choose and compile kernels
        self._seen = 0
        self._images = 0
        self._parts: list[str] = []
        self._marks: list[Any] = []
        self._counted: list[list[Any]] = []
        self._profiler: torch.profiler.profile | None = None
        self._profile_began = 0.0
        self._busy: float | None = None

    def begin(self) -> None:
        """A step begins: what came since the last one is not a step's."""
        if not self.on:
            return
        if self._gpu and self._seen == self._skipped and self._profiler is None:
            self._start_profiler()
        if self._gpu and self._seen == self._skipped + _PROFILED and self._busy is None:
            self._stop_profiler()
        self._parts, self._marks = [], [self._now()]

    def mark(self, part: str) -> None:
        """The work of ``part``, since the mark before, is done or, on a GPU, ordered."""
        if self.on:
            self._parts.append(part)
            self._marks.append(self._now())

    def end(self, images: int) -> None:
        """The step is over, and saw so many images."""
        if not self.on:
            return
        self._seen += 1
        if self._seen > self._skipped + (_PROFILED if self._gpu else 0):
            self._counted.append(self._marks)
            self._images += images

    def lines(self) -> list[str]:
        """A table for people; empty where it was off, one line where too few steps came."""
        if not self.on:
            return []
        if not self._counted:
            return [f"no profile: {self._seen} steps were too few, the first ones are not counted"]
        if self._gpu:
            torch.cuda.synchronize(self._device)
        steps, times = len(self._counted), self.seconds()
        total = sum(times.values())
        rate = f"{self._images / total:.1f} images/s over {steps} steps"
        return [
            f"{'part of a step':<16}{'ms':>9}{'share':>8}",
            *(f"{part:<16}{1e3 * each / steps:>9.2f}{each / total:>8.1%}" for part, each in times.items()),
            rate if self._busy is None else f"{rate}; the GPU works {self._busy:.0%} of the time",
        ]

    def seconds(self) -> dict[str, float]:
        """Seconds of each part over all counted steps, in the order in which they come."""
        sums = dict.fromkeys(self._parts, 0.0)  # a part comes several times where a batch is accumulated
        for marks in self._counted:
            for part, before, after in zip(self._parts, marks[:-1], marks[1:], strict=True):
                sums[part] += self._between(before, after)
        return sums

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        return float(before.elapsed_time(after)) / 1e3 if self._gpu else float(after - before)

    def _start_profiler(self) -> None:
        torch.cuda.synchronize(self._device)
        self._profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True)
        self._profiler.start()
        self._profile_began = time.perf_counter()

    def _stop_profiler(self) -> None:
        assert self._profiler is not None
        torch.cuda.synchronize(self._device)
        wall = time.perf_counter() - self._profile_began
        self._profiler.stop()
        kernels = sum(event.self_device_time_total for event in self._profiler.key_averages())
        self._busy = kernels / 1e6 / wall
