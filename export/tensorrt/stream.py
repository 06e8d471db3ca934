"""The few CUDA calls that running an engine takes, as a small contract; a package does them, tests imitate them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError, TargetUnavailableError


class Event(Protocol):
    """A mark in a stream."""

    def record(self) -> None:
        """Set the mark behind all work enqueued so far."""

    def since(self, start: Event) -> float:
        """Milliseconds of GPU time from ``start`` to this mark; both must have been passed."""


class CudaStream(Protocol):
    """One stream of one GPU with the memory that one engine needs."""

    handle: int
    """``CUstream`` as an integer, for TensorRT."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Makes the GPU's context current in the calling thread; every other call happens inside."""

    def pinned(self, nbytes: int) -> UInt8Array:
        """Page-locked host memory, uint8 (nbytes,). Nobody may touch it once the stream is closed.

        Raises:
            TargetUnavailableError: the host has no such memory left.
        """

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory; freed by :meth:`close`.

        Raises:
            TargetUnavailableError: the GPU has no such memory left.
        """

    def upload(self, address: int, host: UInt8Array) -> None:
        """Enqueue a copy from pinned memory to the device."""

    def download(self, host: UInt8Array, address: int) -> None:
        """Enqueue a copy from the device to pinned memory."""

    def event(self) -> Event:
        """A new mark for timing."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` enqueues as a CUDA graph; the result enqueues the whole graph at once.

        Raises:
            InputError: the work can't be captured.
        """

    def synchronise(self) -> None:
        """Wait for everything enqueued."""

    def close(self) -> None:
        """Free memory, graphs and context."""


def require_graph(status: int, what: str) -> None:
    """Raise where a call of *Graph Management* failed.

    Args:
        status: ``CUresult``; 0 is success.
        what: what the call was to do, as a verb with its object.

    Raises:
        InputError: it failed.
    """
    if status:
        raise InputError(
            f"cannot {what} (CUDA error {status}); this engine runs without CUDA graphs only: "
            "export it with -o cuda_graph=false"
        )


def no_memory(where: str, nbytes: int) -> TargetUnavailableError:
    """The error of an allocation that failed, ``where`` being the GPU or the host."""
    return TargetUnavailableError(
        f"{where} has no {nbytes / 2**20:.1f} MiB of memory left; close other programs, or build a smaller batch"
    )
