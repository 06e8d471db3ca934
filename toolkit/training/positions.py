"""The endless stream of training images: what stands at each position, as a function of seed and position alone.

Position p is image ``order(p // N)[p % N]`` of epoch p // N. A step takes the next ``batch`` positions, and each
process a contiguous part of them. What reads and warps the images, on a CPU or on the training device, asks here.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fptk.core.preprocess import SIZE_MULTIPLE
from fptk.recipes import Recipe
from fptk.training.augment import Draw, draw
from fptk.training.mixing import Box, cutmix_box, mixup_share
from fptk.training.schedule import Plan
from fptk.training.seeds import Stream, generator


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


class Pick(NamedTuple):
    """One image of the training set and what is drawn for it."""

    image: int
    """Which of the training set."""
    drawn: Draw
    """Its augmentation."""


class Place(NamedTuple):
    """What one position of the stream is made of."""

    own: Pick
    """The image that stands there."""
    partner: Pick | None = None
    """The image that is blended with it, or cut and pasted into it; None for neither."""
    box: Box | None = None
    """The rectangle of ``partner`` that is pasted; None where it is blended."""


class Step(NamedTuple):
    """This process's part of one step."""

    number: int
    """Global step."""
    size: tuple[int, int]
    """Height and width of its images."""
    share: float
    """Share of the images' own pixels and labels against their partners'; 1 where the step is not blended."""
    places: list[Place]
    """Its images."""


class Positions:
    """The positions of one process, step by step.

    Args:
        recipe: augmentation, mixing, sizes and seed.
        plan: sizes and batch sizes of the steps.
        order: the stream's order.
        rank: number of this process.
        world: number of processes; it divides every phase's batch.
    """

    def __init__(self, recipe: Recipe, plan: Plan, order: Order, rank: int = 0, world: int = 1) -> None:
        self._recipe, self._plan, self._order = recipe, plan, order
        self._rank, self._world = rank, world

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self._plan.total_steps

    def step(self, number: int) -> Step:
        """This process's part of global step ``number``."""
        size, share = self.size_of(number), mixup_share(self._recipe, number)
        return Step(number, size, share, [self.place(at, size, share) for at in self.of_step(number)])

    def size_of(self, step: int) -> tuple[int, int]:
        """Height and width of a step's images: its phase's, or one drawn about it."""
        size, (low, high) = self._plan.phase_of(step).size, self._recipe.data.multiscale
        if low == high == 1:
            return size
        factor = low + (high - low) * generator(self._recipe.seed, Stream.SIZE, step).random()
        height, width = (max(1, round(factor * side / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in size)
        return height, width

    def of_step(self, step: int) -> range:
        """Positions of this process's images in ``step``."""
        phase = self._plan.phase_of(step)
        share = phase.batch // self._world
        first = self._plan.images_before(step) + self._rank * share
        return range(first, first + share)

    def place(self, position: int, size: tuple[int, int], share: float) -> Place:
        """What stands at one position.

        Args:
            position: in the stream.
            size: height and width of the step's images.
            share: of the step's MixUp; 1 for none.
        """
        own, mix = self._pick(position), self._recipe.mix
        if share == 1 and not mix.cutmix:
            return Place(own)
        epoch, place = divmod(position, self._order.count)
        rng = generator(self._recipe.seed, Stream.CUTMIX, epoch, place)
        partner = epoch * self._order.count + int(rng.integers(self._order.count))
        if share < 1:
            return Place(own, self._pick(partner))
        if rng.random() < mix.cutmix:
            return Place(own, self._pick(partner), cutmix_box(size, rng, mix.cutmix_alpha))
        return Place(own)

    def _pick(self, position: int) -> Pick:
        rng = generator(self._recipe.seed, Stream.AUGMENT, *divmod(position, self._order.count))
        return Pick(self._order[position], draw(self._recipe.augment, rng))
