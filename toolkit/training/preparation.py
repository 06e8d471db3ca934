"""What a training needs before its first step: batches that fit into memory, the loss, and the measured input."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.core.host import usable_cores
from fptk.core.preprocess import PreprocessSpec
from fptk.core.progress import SILENT, Listener
from fptk.data.statistics import SampleStatistics, StatisticsCache, mean_and_std
from fptk.recipes import Recipe
from fptk.training.batches import AHEAD, Batch, Batches, DecodedCache, default_workers
from fptk.training.class_balance import class_pixels, class_weights, measure_all, repeat_factors
from fptk.training.device_batches import DeviceBatches
from fptk.training.losses import SegmentationLoss
from fptk.training.machine import machine_memory
from fptk.training.positions import Order, Positions
from fptk.training.resident import fits
from fptk.training.resident import load as load_resident
from fptk.training.schedule import Plan

BYTES_A_PIXEL = 4 * (AHEAD + 1) + 12
"""Memory that a training needs for its images alone: the batches prepared ahead as uint8, and one as float32."""


class BatchSource(Protocol):
    """What makes the batches."""

    def iterate(self, start: int) -> Generator[Batch]:
        """Yield the batch of each step from ``start`` on."""
        ...


class Prepared(NamedTuple):
    """Data and loss of one process of a training."""

    batches: BatchSource
    loss: SegmentationLoss
    """On the CPU, with the class weights that the recipe asks for."""
    spec: PreprocessSpec
    """Preprocessing of the network: the recipe's, or with the training images' own mean and deviation."""


def check_batches(recipe: Recipe, plan: Plan, world: int) -> None:
    """Check that ``world`` processes can share each batch, and that its images fit into this machine's memory.

    Raises:
        InputError: a phase's batch does neither.
    """
    memory, scale = machine_memory(), recipe.data.multiscale[1]
    for phase in plan.phases:
        if phase.batch % world:
            raise InputError(f"batch {phase.batch} cannot be divided among {world} processes; choose a multiple")
        height, width = (round(scale * side) for side in phase.size)
        fitting = int(memory / (height * width * BYTES_A_PIXEL)) if memory else phase.batch
        if phase.batch > fitting:
            raise InputError(
                f"{phase.batch} images of {height}x{width} do not fit into this machine's {memory / 1e9:.0f} GB; "
                f"choose a data.batch of at most {fitting}, and far less for the network itself"
            )


def prepare(
    recipe: Recipe,
    plan: Plan,
    train_set: FaceParsingDataset,
    *,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    listener: Listener = SILENT,
) -> Prepared:
    """Batches, loss and preprocessing; looks at all training images where sampling, loss or whitening depends on them.

    Args:
        recipe: what the batches and the loss are.
        plan: sizes and batch sizes of the steps.
        train_set: the training images.
        device: where the training runs.
        rank: number of this process.
        world: number of processes.
        listener: told when all images are looked at.

    Raises:
        InputError: a file of the data is damaged, or the recipe's class weights have no meaning on these images.
    """
    read = DecodedCache(train_set, int(recipe.data.cache_gb * 1e9))
    weighted, rare = recipe.loss.class_weights != "none", recipe.data.sampling == "rare"
    measured = recipe.preprocess.statistics == "measured"
    found: list[SampleStatistics] = []
    if weighted or rare or measured:
        listener.say(f"counting classes and colours of {len(train_set)} training images")
        workers = recipe.data.workers or default_workers(world) + 1
        found = measure_all(train_set, read, workers, StatisticsCache())
    factors: npt.NDArray[np.float64] | None = None
    if rare:
        factors = repeat_factors(class_pixels(found), recipe.data.rare_threshold)
    weights: torch.Tensor | None = None
    if weighted:
        weights = torch.tensor(class_weights(recipe.loss, class_pixels(found)), dtype=torch.float32)
    spec = recipe.spec
    if measured:
        mean, std = mean_and_std(found)
        spec = spec.model_copy(update={"mean": mean, "std": std})
    order = Order(len(train_set), recipe.seed, factors)
    positions = Positions(recipe, plan, order, rank, world)
    loss = SegmentationLoss(recipe.loss, weights, ignores=train_set.classes.ignores)
    if on_device(recipe, read, len(train_set), device):
        workers = recipe.data.workers or max(1, usable_cores() // world)
        pixels = load_resident(read, len(train_set), device, workers, train_set.classes, listener)
        listener.say(f"{len(train_set)} training images lie on {device}, {pixels.bytes / 1e9:.2f} GB")
        return Prepared(DeviceBatches(positions, pixels, spec), loss, spec)
    workers = recipe.data.workers or default_workers(world)
    return Prepared(Batches(positions, read, spec, workers, pinned=device.type == "cuda"), loss, spec)


def on_device(recipe: Recipe, read: DecodedCache, count: int, device: torch.device) -> bool:
    """Whether the decoded training images are to lie on ``device``, as ``data.device`` says."""
    wanted = recipe.data.device
    return device.type == "cuda" and (wanted == "cuda" or (wanted == "auto" and fits(read, count, device)))
