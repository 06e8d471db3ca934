"""Batches in a fixed order, read, warped and stacked by threads ahead of the step that needs them.

The training images form one endless stream: position p is image ``order(p // N)[p % N]`` of epoch p // N. A step takes
the next ``batch`` positions, and each process a contiguous part of them. So a batch depends on seed and step alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.host import usable_cores
from fptk.core.preprocess import SIZE_MULTIPLE, PreprocessSpec
from fptk.recipes import Recipe
from fptk.training.augment import Warped, draw, warp
from fptk.training.mixing import Mixed, blend, mixup_share, paste
from fptk.training.schedule import Plan
from fptk.training.seeds import Stream, generator

AHEAD = 3
"""Batches prepared in advance."""


class Batch(NamedTuple):
    """This process's part of one step's images, on the CPU."""

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


class DecodedCache:
    """Samples of a data set, kept decoded (uint8) up to a limit; safe to read from several threads.

    Args:
        dataset: where they come from.
        limit_bytes: memory for pixels; what does not fit is decoded each time.
    """

    def __init__(self, dataset: FaceParsingDataset, limit_bytes: int) -> None:
        self._dataset = dataset
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


class Order:
    """Which image stands at each position of the endless stream.

    Args:
        count: number of training images N.
        seed: the recipe's seed.
        factors: float (N,), relative frequencies of the images; None for each image once an epoch.
    """

    def __init__(self, count: int, seed: int, factors: npt.NDArray[np.float64] | None = None) -> None:
        self.count = count
        self._seed = seed
        self._factors = factors
        self._epoch = lru_cache(maxsize=4)(self._draw_epoch)

    def __getitem__(self, position: int) -> int:
        """Index of the image at ``position`` >= 0."""
        epoch, place = divmod(position, self.count)
        return int(self._epoch(epoch)[place])

    def _draw_epoch(self, epoch: int) -> npt.NDArray[np.int64]:
        """N indices. Systematic sampling: an image of frequency f stands in floor(f) or ceil(f) places."""
        rng = generator(self._seed, Stream.ORDER, epoch)
        if self._factors is None:
            return rng.permutation(self.count)
        ends = np.cumsum(self._factors) / self._factors.sum() * self.count
        picks = np.searchsorted(ends, np.arange(self.count) + rng.random(), side="right")
        return rng.permutation(np.minimum(picks, self.count - 1))


class Batches:
    """Iterate over the batches of steps ``start`` to the plan's end.

    Args:
        recipe: augmentation, seed and threads.
        plan: sizes and batch sizes of the steps.
        read: the decoded sample at an index; called from several threads.
        order: the stream's order.
        rank: number of this process.
        world: number of processes; it divides every phase's batch.
        spec: normalisation, where it is not the recipe's own but a measured one.
    """

    def __init__(
        self,
        recipe: Recipe,
        plan: Plan,
        read: DecodedCache,
        order: Order,
        rank: int = 0,
        world: int = 1,
        spec: PreprocessSpec | None = None,
    ) -> None:
        self._recipe, self._plan, self._read, self._order = recipe, plan, read, order
        self._rank, self._world = rank, world
        self._spec = spec or recipe.spec
        self.workers = recipe.data.workers or default_workers(world)

    def warped(self, position: int, size: tuple[int, int]) -> Warped:
        """The augmented sample at one position of the stream, at ``size``."""
        rng = generator(self._recipe.seed, Stream.AUGMENT, *divmod(position, self._order.count))
        sample = self._read(self._order[position])
        return warp(sample, draw(self._recipe.augment, rng), size, self._spec)

    def mixed(self, position: int, size: tuple[int, int], share: float) -> Mixed:
        """The augmented sample at one position, blended with another or with a part of another pasted in.

        Args:
            position: in the stream.
            size: height and width of the result.
            share: of the step's MixUp; 1 for none.
        """
        own, mix = self.warped(position, size), self._recipe.mix
        epoch, place = divmod(position, self._order.count)
        rng = generator(self._recipe.seed, Stream.CUTMIX, epoch, place)
        partner = epoch * self._order.count + int(rng.integers(self._order.count))
        if share < 1:
            return blend(own, self.warped(partner, size), share)
        if rng.random() < mix.cutmix:
            return paste(own, self.warped(partner, size), rng, mix.cutmix_alpha)
        return Mixed(own, own.mask)

    def size_of(self, step: int) -> tuple[int, int]:
        """Height and width of a step's images: its phase's, or one drawn about it."""
        size, (low, high) = self._plan.phase_of(step).size, self._recipe.data.multiscale
        if low == high == 1:
            return size
        factor = low + (high - low) * generator(self._recipe.seed, Stream.SIZE, step).random()
        height, width = (max(1, round(factor * side / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in size)
        return height, width

    def positions(self, step: int) -> range:
        """Positions of this process's images in ``step``."""
        phase = self._plan.phase_of(step)
        share = phase.batch // self._world
        first = self._plan.images_before(step) + self._rank * share
        return range(first, first + share)

    def iterate(self, start: int) -> Generator[Batch]:
        """Yield the batch of each step from ``start`` on.

        Raises:
            InputError: an image or mask is damaged.
        """
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="batches")
        pending: deque[tuple[int, float, list[Future[Mixed]]]] = deque()
        upcoming = iter(range(start, self._plan.total_steps))
        try:
            while True:
                while len(pending) < AHEAD and (step := next(upcoming, None)) is not None:
                    size, share = self.size_of(step), mixup_share(self._recipe, step)
                    futures = [pool.submit(self.mixed, at, size, share) for at in self.positions(step)]
                    pending.append((step, share, futures))
                if not pending:
                    return
                step, share, futures = pending.popleft()
                yield _stack(step, share, [future.result() for future in futures])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers(world: int) -> int:
    """Threads for one of ``world`` processes on this machine: one per two cores, at most 8."""
    return max(1, min(8, usable_cores() // 2 // world))


def _stack(step: int, share: float, samples: list[Mixed]) -> Batch:
    columns = zip(*(each.sample for each in samples), strict=True)
    images, masks, color = (torch.from_numpy(np.stack(parts)) for parts in columns)
    partners = torch.from_numpy(np.stack([each.partner for each in samples])) if share < 1 else None
    return Batch(step, images, masks, color, partners, share)
