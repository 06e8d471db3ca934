"""Calibration images as quantizers and builders read them: one after the other, as often as they like."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fptk.calibration.range_cache import RangeCache
from fptk.core.dataset import UInt8Array
from fptk.core.progress import Listener, track

ImageStream = Callable[[], Iterable[UInt8Array]]
"""Starts a fresh pass over preprocessed images, uint8 (1, H, W, 3) RGB each, that holds no more than one of them."""


def counted(images: ImageStream, what: str, total: int, listener: Listener) -> ImageStream:
    """The same passes, each with a counter of its own.

    Whatever reads the images, ranges, SmoothQuant or NNCF, is counted this way and needs no listener itself.

    Args:
        images: starts a pass.
        what: description of a pass, a few words.
        total: images of one pass.
        listener: who is told.
    """
    return lambda: track(listener, images(), what, total)


@dataclass(frozen=True)
class CalibrationStream:
    """The calibration set as a builder reads it."""

    images: ImageStream
    labelled: Callable[[], Iterable[tuple[UInt8Array, UInt8Array]]]
    """Starts a pass over pairs of image, uint8 (1, H, W, 3), and truth, uint8 (H, W)."""
    sha256: str
    """Hash of the list."""
    preprocess_sha256: str
    """Hash of the preprocessing spec."""
    cache: Path
    """Folder where measured ranges may be kept between builds."""

    def ranges(self) -> RangeCache:
        """The cache for ranges measured on these images."""
        return RangeCache(self.cache, self.sha256, self.preprocess_sha256)
