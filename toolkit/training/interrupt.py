"""Ctrl-C and SIGTERM end a training after the step that is running, with its state saved."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from fptk.core.errors import FptkError
from fptk.training.losses import world_size

ONE_PRESS = 0.5
"""Seconds."""


class TrainingInterruptedError(FptkError):
    """A signal ended the training; its state is saved (exit code 128 + signal, as shells have it)."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interrupt:
    """Context in which the first SIGINT or SIGTERM is only noted; a later one acts as usual.

    What comes within :data:`ONE_PRESS` of the first belongs to it: a terminal sends Ctrl-C to every process of a group,
    and a wrapper among them passes it on once more.

    Outside the main thread, where Python allows no handlers, it notes nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the signal that came, or None."""
        self._previous: dict[int, Any] = {}
        self._came = 0.0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal, self._came = number, time.monotonic()
        elif time.monotonic() - self._came > ONE_PRESS:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any process got: all must leave at the same step, or the others would wait for ever."""
        if world_size() == 1:
            return self.signal
        number = torch.tensor(self.signal or 0, device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number) or None
