"""Inference that spends more time for better labels: averaged views of an image, and borders drawn after its edges.

Both wrap a network as a network, so a :class:`fptk.models.TorchSession` runs them like any other; an engine, whose
output is labels, cannot be wrapped. Nothing here is used unless ``fptk eval --tta`` or ``--refine`` asks for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.preprocess import SIZE_MULTIPLE
from fptk.core.session import Session
from fptk.models.checkpoint import load_checkpoint
from fptk.models.torch_session import TorchSession

VIEWS = ("flip", "scale")
"""What can be averaged: the mirrored image, and the image at :data:`SCALES`; both together make all combinations."""

SCALES = (0.75, 1.25)
"""Sizes of the ``scale`` view relative to the network's own, each to the nearest multiple of 32."""

RADIUS = 4
"""Half a window of the guided filter, in pixels."""

EPSILON = 1e-3
"""Of the guided filter: variance of the guide, of values scaled to 0-1, below which a window counts as flat."""


class AveragedViews(nn.Module):
    """The mean of a network's softmax probabilities over views of the image.

    Args:
        network: normalised float32 (N, 3, H, W) to logits (N, C, H, W), for any H and W that are multiples of 32.
        views: names of :data:`VIEWS`; none for the plain image alone.
        classes: what its channels mean.
    """

    def __init__(self, network: nn.Module, views: Sequence[str] = (), classes: ClassSet = CELEBAMASK) -> None:
        super().__init__()
        self.network = network
        self.flips = (False, True) if "flip" in views else (False,)
        self.scales = (1.0, *SCALES) if "scale" in views else (1.0,)
        self.register_buffer("swap", torch.tensor(classes.swap_table()[: len(classes)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities, float32 (N, C, H, W), of normalised float32 (N, 3, H, W)."""
        total = x.new_zeros(())
        for scale in self.scales:
            resized = _resized(x, _scaled(x.shape[2:], scale))
            for flip in self.flips:
                total = total + self._view(resized, flip, x.shape[2:])
        return total / (len(self.scales) * len(self.flips))

    def _view(self, x: Tensor, flip: bool, size: torch.Size) -> Tensor:
        """Probabilities of one view, as they lie in the image itself; a mirrored left eye is a right one."""
        p: Tensor = self.network(x.flip(3) if flip else x).softmax(dim=1)
        if flip:
            p = p.flip(3)[:, self.get_buffer("swap")]
        return _resized(p, tuple(size))


class GuidedBorders(nn.Module):
    """Probabilities smoothed by a guided filter, whose edges are those of the image's grey values.

    He, Sun, Tang: Guided Image Filtering (TPAMI 2013), equations 5, 6 and 8: within each window the result is a linear
    function ``a I + b`` of the guide I. It is written out here because it is six box means; a dense CRF would be
    ``pydensecrf``, which the package index has no ready-built package of.

    Args:
        probabilities: such as :class:`AveragedViews`.
        mean: of the normalisation that its input went through.
        std: likewise.
        radius: see :data:`RADIUS`.
        epsilon: see :data:`EPSILON`.
    """

    def __init__(
        self,
        probabilities: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        radius: int = RADIUS,
        epsilon: float = EPSILON,
    ) -> None:
        super().__init__()
        self.probabilities = probabilities
        self.radius, self.epsilon = radius, epsilon
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Smoothed probabilities, float32 (N, C, H, W); they add up to 1, and may leave 0-1 a little at edges."""
        guide = (x * self.get_buffer("std") + self.get_buffer("mean")).mean(dim=1, keepdim=True)
        return guided_filter(guide, self.probabilities(x), self.radius, self.epsilon)


def guided_filter(guide: Tensor, p: Tensor, radius: int, epsilon: float) -> Tensor:
    """Filter each channel of ``p``, float (N, C, H, W), by ``guide``, float (N, 1, H, W), over square windows.

    Windows are cut at the border of the image.
    """
    side = 2 * radius + 1

    def mean(values: Tensor) -> Tensor:
        # Along one side and then the other: the same mean, also of a window that is cut, for less.
        rows = nn.functional.avg_pool2d(values, (1, side), 1, (0, radius), count_include_pad=False)
        return nn.functional.avg_pool2d(rows, (side, 1), 1, (radius, 0), count_include_pad=False)

    mean_guide, mean_p = mean(guide), mean(p)
    slope = (mean(guide * p) - mean_guide * mean_p) / (mean(guide * guide) - mean_guide**2 + epsilon)
    return mean(slope) * guide + mean(mean_p - slope * mean_guide)


def augmented_session(
    weights: Path, views: Sequence[str], refine: str | None = None, threads: int | None = None
) -> Session:
    """The network of a checkpoint with averaged views, and with refined borders where asked for.

    Args:
        weights: checkpoint.
        views: names of :data:`VIEWS`.
        refine: ``guided``, or None.
        threads: CPU threads during a call; None for torch's own setting.

    Raises:
        InputError: the checkpoint is not usable.
    """
    network, card = load_checkpoint(weights)
    spec = card.preprocess
    wrapped: nn.Module = AveragedViews(network, views, card.class_set)
    if refine:
        wrapped = GuidedBorders(wrapped, spec.mean, spec.std)
    name = " + ".join(["pytorch fp32", *views, *([refine] if refine else [])])
    return TorchSession(wrapped.eval(), spec, name, threads=threads, classes=card.class_set)


class TimedSession(Session):
    """A session that remembers how long each of its calls took.

    Args:
        inner: the session; closed together with this one.
    """

    def __init__(self, inner: Session) -> None:
        super().__init__(inner.name, inner.spec, inner.classes)
        self._inner = inner
        self.seconds: list[float] = []
        """One entry a call."""

    @property
    def milliseconds(self) -> float:
        """Median of the calls, in which a slow first one does not show."""
        return 1000 * statistics.median(self.seconds)

    def _infer(self, images: UInt8Array) -> UInt8Array:
        started = time.perf_counter()
        labels = self._inner(images)
        self.seconds.append(time.perf_counter() - started)
        return labels

    def close(self) -> None:
        """Close the session inside."""
        self._inner.close()


def _scaled(size: torch.Size, scale: float) -> tuple[int, ...]:
    return tuple(max(1, round(scale * side / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in size)


def _resized(values: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear, with averaging where it shrinks; unchanged where the size is right already."""
    if tuple(values.shape[2:]) == size:
        return values
    return nn.functional.interpolate(values, size, mode="bilinear", align_corners=False, antialias=True)
