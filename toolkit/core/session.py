"""The contract that every engine fulfils: label maps from images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import numpy as np

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec


class Closing:
    """What holds an engine: a ``with`` block closes it at its end."""

    def close(self) -> None:
        """Free what the engine holds. Calling it twice is allowed; most engines free themselves with their object."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class Session(Closing, ABC):
    """A loaded network that turns images into label maps.

    ``labels = session(images)``: images uint8 (N, H, W, 3) RGB of the spec's size, labels uint8 (N, H, W) with values
    below the number of ``classes``. The call checks its input and its output; a backend overrides :meth:`_infer` and
    :meth:`close` only. A session is a context manager and owns the engine's memory until it is closed.
    """

    def __init__(self, name: str, spec: PreprocessSpec, classes: ClassSet = CELEBAMASK) -> None:
        self.name = name
        """What a table calls this session, e.g. ``onnx int8``."""
        self.spec = spec
        """Preprocessing that the images must have gone through."""
        self.classes = classes
        """What the labels mean; who loads an engine of another list sets it, since not every file says it."""

    def __call__(self, images: UInt8Array) -> UInt8Array:
        """Label maps of a batch.

        Args:
            images: uint8 (N, H, W, 3) RGB, C-contiguous, (H, W) = ``spec.size``.

        Returns:
            uint8 (N, H, W).

        Raises:
            ValueError: shape or dtype differ (a bug of the caller, not of the user).
            InputError: the engine gave something else than labels of these images.
        """
        expected = (*self.spec.size, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"{self.name}: expected uint8 images of shape (N, {expected[0]}, {expected[1]}, 3), "
                f"got {images.dtype} {images.shape}"
            )
        labels = self._infer(np.ascontiguousarray(images))
        if labels.dtype != np.uint8 or labels.shape != images.shape[:3]:
            raise InputError(
                f"{self.name} gave {labels.dtype} {labels.shape} for images of {images.shape}; expected uint8 "
                f"{images.shape[:3]}: this is no segmentation engine of fptk, export it again"
            )
        highest = int(labels.max(initial=0))
        if highest >= len(self.classes):
            raise InputError(f"{self.name} gave label {highest}, and it has {self.classes.words}: export it again")
        return labels

    @abstractmethod
    def _infer(self, images: UInt8Array) -> UInt8Array:
        """Run the engine on a checked batch."""

    def compute_ms(self) -> float | None:
        """Milliseconds that the device computed in the last call, copies to and from it left out.

        ``None`` for an engine that works in the host's own memory: there is nothing to leave out.
        """
        return None
