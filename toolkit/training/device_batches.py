"""Batches made on the training device of a training set that lies there: the CPU only draws."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from fptk.core.preprocess import PreprocessSpec
from fptk.training.batches import AHEAD, Batch
from fptk.training.device_augment import Layout, WarpedBatch, lay_out, warp_batch
from fptk.training.mixing import Box
from fptk.training.positions import Positions, Step
from fptk.training.resident import Resident


class DeviceBatches:
    """Iterate over the batches of steps ``start`` to the training's end.

    Args:
        positions: what each step is made of.
        pixels: the training set.
        spec: whose mean fills what lies outside a photograph.
    """

    def __init__(self, positions: Positions, pixels: Resident, spec: PreprocessSpec) -> None:
        self._positions, self._pixels, self._spec = positions, pixels, spec

    def iterate(self, start: int) -> Generator[Batch]:
        """Yield the batch of each step from ``start`` on; a thread draws for the steps ahead."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="draws")
        pending: deque[Future[tuple[Step, Layout]]] = deque()
        upcoming = iter(range(start, self._positions.total_steps))
        try:
            while True:
                while len(pending) < AHEAD and (number := next(upcoming, None)) is not None:
                    pending.append(pool.submit(self._drawn, number))
                if not pending:
                    return
                yield self._made(*pending.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _drawn(self, number: int) -> tuple[Step, Layout]:
        """What step ``number`` is made of; its own images come first, then their partners."""
        step = self._positions.step(number)
        picks = [place.own for place in step.places]
        picks += [place.partner for place in step.places if place.partner is not None]
        return step, lay_out(self._pixels, picks, step.size)

    def _made(self, step: Step, layout: Layout) -> Batch:
        warped = warp_batch(self._pixels, layout, self._spec)
        own, others = warped.split(len(step.places))
        if step.share < 1:
            images = (step.share * own.images.float() + (1 - step.share) * others.images).round().to(torch.uint8)
            return Batch(step.number, images, own.masks, own.color, others.masks, step.share)
        _paste(own, others, {at: place.box for at, place in enumerate(step.places) if place.box is not None})
        return Batch(step.number, own.images, own.masks, own.color)


def _paste(own: WarpedBatch, others: WarpedBatch, boxes: dict[int, Box]) -> None:
    """CutMix in place: into each image of ``own`` that has a box goes that part of the next of ``others``."""
    for number, (at, (top, bottom, left, right)) in enumerate(boxes.items()):
        for target, source in ((own.images, others.images), (own.masks, others.masks)):
            target[at, top:bottom, left:right] = source[number, top:bottom, left:right]
