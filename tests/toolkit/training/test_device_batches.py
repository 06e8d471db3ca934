"""Batches made on the training device are those of the CPU. The device here is torch's CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import Sample
from fptk.core.preprocess import PreprocessSpec
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.recipes import Recipe
from fptk.training.augment import Draw, warp
from fptk.training.batches import Batches, DecodedCache
from fptk.training.device_augment import lay_out, warp_batch
from fptk.training.device_batches import DeviceBatches
from fptk.training.positions import Order, Pick, Positions
from fptk.training.resident import Resident, load
from fptk.training.schedule import make_plan

SPEC = PreprocessSpec(size=(64, 64))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def faces() -> list[Sample]:
    """Five faces of four sizes; at these no sample falls exactly between two pixels, where rounding would decide."""
    sizes = [(96, 96), (96, 96), (72, 100), (151, 90), (200, 300)]
    return [SyntheticFaces(1, seed=seed, size=size)[0] for seed, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def pixels(faces: list[Sample]) -> Resident:
    return load(faces.__getitem__, len(faces), CPU, workers=2, classes=CELEBAMASK)


def border(mask: np.ndarray) -> np.ndarray:
    """Pixels whose right, left, upper or lower neighbour has another label."""
    found = np.zeros(mask.shape, bool)
    for axis in (0, 1):
        for shift in (1, -1):
            found |= np.roll(mask, shift, axis) != mask
    return found


DRAWS = {
    "nothing": Draw(),
    "flip": Draw(flip=True),
    "unswapped flip": Draw(flip=True, swap_labels=False, degrees=5),
    "rotation and zoom": Draw(degrees=-13, zoom=1.3, shift=(0.1, -0.05)),
    "zoom out": Draw(degrees=170, zoom=0.4),
    "crop": Draw(zoom=1 / 0.5, crop=0.5, center=(0.3, 0.7)),
    "crop on a class": Draw(zoom=1 / 0.61, crop=0.61, focus=(0.93, 0.4)),
    "color": Draw(brightness=1.2, contrast=0.8, saturation=0.7),
    "sharper": Draw(sharpness=1.8, degrees=3),
    "smoother": Draw(sharpness=0.3),
    "blur": Draw(blur=2.3),
    "slight blur": Draw(blur=0.4),
}


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
@pytest.mark.parametrize("name", DRAWS)
def test_one_warp_is_the_cpus(faces: list[Sample], pixels: Resident, name: str, size: tuple[int, int]) -> None:
    drawn = DRAWS[name]
    layout = lay_out(pixels, [Pick(index, drawn) for index in range(len(faces))], size)
    batch = warp_batch(pixels, layout, SPEC)
    for index, face in enumerate(faces):
        want = warp(face, drawn, size, SPEC, CELEBAMASK)
        differs = batch.masks[index].numpy() != want.mask
        assert differs.mean() < 0.001
        assert not (differs & ~border(want.mask)).any()
        levels = np.abs(batch.images[index].numpy().astype(int) - want.image)
        assert np.percentile(levels, 99.9) <= (1 if drawn.sharpness == 1 else 2)  # sharpening enlarges a rounding
        torch.testing.assert_close(batch.color[index], torch.from_numpy(want.color), rtol=1e-3, atol=0.1)


def test_noise_has_the_drawn_strength_and_seed(faces: list[Sample], pixels: Resident) -> None:
    clean, one, same, other = (
        warp_batch(pixels, lay_out(pixels, [Pick(0, drawn)], (96, 96)), SPEC).images[0].float()
        for drawn in (Draw(), Draw(noise=0.1, noise_seed=1), Draw(noise=0.1, noise_seed=1), Draw(noise=0.1))
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    unclipped = (clean > 80) & (clean < 175)
    difference = (one - clean)[unclipped]
    assert unclipped.sum() > 1000
    assert float(difference.std()) == pytest.approx(25.5, rel=0.05)
    assert float(difference.mean()) == pytest.approx(0, abs=1)


MIXED = [
    "mix={cutmix: 0.5, mixup: 0.4}",
    "data.multiscale=[0.5, 2]",
    "data.size=64",
    "augment={crop: 0.5, crop_on_class: 0.5}",
    "optim.epochs=4",
]


@pytest.mark.parametrize("changes", [[], MIXED], ids=["plain", "mixed"])
def test_every_batch_is_the_cpus(tiny_recipe: Recipe, changes: list[str]) -> None:
    recipe = tiny_recipe.with_overrides(changes)
    faces = SyntheticFaces(12, size=(64, 64))
    positions = Positions(recipe, make_plan(recipe, 12), Order(12, recipe.seed))
    there = DeviceBatches(positions, load(faces.__getitem__, 12, CPU, workers=1, classes=CELEBAMASK), recipe.spec)
    here = Batches(positions, DecodedCache(faces, 1 << 30), recipe.spec)
    kinds = set()
    for got, want in zip(there.iterate(1), here.iterate(1), strict=True):
        kinds.add((want.share < 1, any(place.box for place in positions.step(want.step).places)))
        assert (got.step, got.share) == (want.step, want.share)
        assert got.images.shape == want.images.shape
        assert (got.masks != want.masks).float().mean() < 0.002
        assert (got.images.int() - want.images.int()).abs().float().mean() < 0.3
        torch.testing.assert_close(got.color, want.color, rtol=1e-3, atol=0.2)
        assert (got.partners is None) == (want.partners is None)
        if want.partners is not None and got.partners is not None:
            assert (got.partners != want.partners).float().mean() < 0.002
    assert kinds == ({(True, False), (False, True)} if changes else {(False, False)})


def test_a_processes_part_is_its_part_of_the_whole(tiny_recipe: Recipe) -> None:
    faces = SyntheticFaces(12, size=(32, 32))
    pixels = load(faces.__getitem__, 12, CPU, workers=1, classes=CELEBAMASK)
    plan, order = make_plan(tiny_recipe, 12), Order(12, tiny_recipe.seed)
    whole, *halves = (
        next(DeviceBatches(Positions(tiny_recipe, plan, order, *of), pixels, SPEC).iterate(1))
        for of in ((0, 1), (0, 2), (1, 2))
    )
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert torch.equal(torch.cat([half.masks for half in halves]), whole.masks)
