"""Batches read, warped and stacked by threads of the CPU, ahead of the step that needs them.

What a batch is made of is a function of seed and step alone: see :mod:`fptk.training.positions`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.host import usable_cores
from fptk.core.preprocess import PreprocessSpec
from fptk.training.augment import Warped, warp
from fptk.training.mixing import Mixed, blend, paste
from fptk.training.positions import Pick, Place, Positions, Step

AHEAD = 3
"""Batches prepared in advance."""


class Batch(NamedTuple):
    """This process's part of one step's images, on the CPU or on the training device."""

    step: int
    """Global step it belongs to."""
    images: Tensor
    """uint8 (B, H, W, 3)."""
    masks: Tensor
    """uint8 (B, H, W)."""
    color: Tensor
    """float32 (B, 3, 4), see :func:`fptk.training.augment.color_matrix`."""
    partners: Tensor | None = None
    """uint8 (B, H, W), labels of the images that MixUp blended in; None where the step is not blended."""
    share: float = 1.0
    """Share of ``masks`` in the loss, against ``partners``."""

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``; from pinned memory, nothing waits for the copy."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """The batch in pinned memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        partners = None if self.partners is None else change(self.partners)
        images, masks, color = (change(tensor) for tensor in (self.images, self.masks, self.color))
        return self._replace(images=images, masks=masks, color=color, partners=partners)


class DecodedCache:
    """Samples of a data set, kept decoded (uint8) up to a limit; safe to read from several threads.

    Args:
        dataset: where they come from.
        limit_bytes: memory for pixels; what does not fit is decoded each time.
    """

    def __init__(self, dataset: FaceParsingDataset, limit_bytes: int) -> None:
        self._dataset = dataset
        self.classes = dataset.classes
        self._samples: dict[int, Sample] = {}
        self._room = limit_bytes
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Sample:
        """The sample at ``index``."""
        sample = self._samples.get(index)
        if sample is None:
            sample = self._dataset[index]
            size = sample.image.nbytes + sample.mask.nbytes
            with self._lock:
                if index not in self._samples and size <= self._room:
                    self._samples[index] = sample
                    self._room -= size
        return sample


class Batches:
    """Iterate over the batches of steps ``start`` to the training's end.

    Args:
        positions: what each step is made of.
        read: the decoded sample at an index; called from several threads.
        spec: whose mean fills what lies outside a photograph.
        workers: threads.
        pinned: put the batches into pinned memory, from which a GPU copies without making the step wait.
    """

    def __init__(
        self,
        positions: Positions,
        read: DecodedCache,
        spec: PreprocessSpec,
        workers: int = 1,
        *,
        pinned: bool = False,
    ) -> None:
        self._positions, self._read, self._spec = positions, read, spec
        self._workers, self._pinned = workers, pinned

    def warped(self, pick: Pick, size: tuple[int, int]) -> Warped:
        """One image with its augmentation, at ``size``."""
        return warp(self._read(pick.image), pick.drawn, size, self._spec, self._read.classes)

    def mixed(self, place: Place, size: tuple[int, int], share: float) -> Mixed:
        """One position's image, blended with its partner or with a part of it pasted in.

        Args:
            place: image and partner.
            size: height and width of the result.
            share: of the step's MixUp; 1 for none.
        """
        own = self.warped(place.own, size)
        if place.partner is None:
            return Mixed(own, own.mask)
        other = self.warped(place.partner, size)
        return blend(own, other, share) if place.box is None else paste(own, other, place.box)

    def iterate(self, start: int) -> Generator[Batch]:
        """Yield the batch of each step from ``start`` on.

        Raises:
            InputError: an image or mask is damaged.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="batches")
        pending: deque[tuple[Step, list[Future[Mixed]]]] = deque()
        upcoming = iter(range(start, self._positions.total_steps))
        try:
            while True:
                while len(pending) < AHEAD and (number := next(upcoming, None)) is not None:
                    step = self._positions.step(number)
                    futures = [pool.submit(self.mixed, place, step.size, step.share) for place in step.places]
                    pending.append((step, futures))
                if not pending:
                    return
                step, futures = pending.popleft()
                batch = _stack(step, [future.result() for future in futures])
                yield batch.pinned() if self._pinned else batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers(world: int) -> int:
    """Threads for one of ``world`` processes on this machine: one per two cores, at most 8."""
    return max(1, min(8, usable_cores() // 2 // world))


def _stack(step: Step, samples: list[Mixed]) -> Batch:
    columns = zip(*(each.sample for each in samples), strict=True)
    images, masks, color = (torch.from_numpy(np.stack(parts)) for parts in columns)
    partners = torch.from_numpy(np.stack([each.partner for each in samples])) if step.share < 1 else None
    return Batch(step.number, images, masks, color, partners, step.share)
