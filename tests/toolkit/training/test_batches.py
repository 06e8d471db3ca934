"""The stream of batches: order, independence of threads and processes, the cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import Sample
from fptk.core.errors import InputError
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.recipes import Recipe
from fptk.training.augment import Warped
from fptk.training.batches import Batch, Batches, DecodedCache
from fptk.training.class_balance import class_pixels, measure_all, repeat_factors, sqrt_median_frequency
from fptk.training.mixing import blend, cutmix_box, mixup_share, paste
from fptk.training.positions import Order, Positions
from fptk.training.schedule import make_plan


class Counting:
    """Counts how often each face is drawn."""

    name = "counting"

    classes = CELEBAMASK

    def __init__(self, count: int) -> None:
        self._faces = SyntheticFaces(count, size=(32, 32))
        self.reads = np.zeros(count, int)

    def __len__(self) -> int:
        return len(self._faces)

    def __getitem__(self, index: int) -> Sample:
        self.reads[index] += 1
        return self._faces[index]

    def content_hash(self, index: int) -> str:
        return self._faces.content_hash(index)


def make_batches(recipe: Recipe, rank: int = 0, world: int = 1, cache: int = 1 << 30) -> tuple[Batches, Counting]:
    faces = Counting(12)
    positions = Positions(recipe, make_plan(recipe, 12), Order(12, recipe.seed), rank, world)
    return Batches(positions, DecodedCache(faces, cache), recipe.spec, recipe.data.workers or 1), faces


def same(one: Batch, other: Batch) -> bool:
    """Equal pixel by pixel."""
    tensors = [torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, torch.Tensor)]
    return len(tensors) >= 3 and all(tensors) and one.share == other.share


def test_epoch_holds_each_image_once_in_an_order_of_its_own() -> None:
    order = Order(50, seed=1)
    first, second = ([order[epoch * 50 + place] for place in range(50)] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first == [Order(50, seed=1)[place] for place in range(50)]
    assert first != [Order(50, seed=2)[place] for place in range(50)]


def test_rare_images_are_drawn_in_proportion() -> None:
    factors = np.ones(100)
    factors[:10] = 3.0
    order = Order(100, 0, factors)
    counts = np.bincount([order[position] for position in range(100 * 30)], minlength=100)
    assert counts[:10].mean() / counts[10:].mean() == pytest.approx(3, rel=0.1)
    assert counts.min() > 0


def test_repeat_factor_follows_the_rarest_class_in_the_image() -> None:
    pixels = np.zeros((100, 19), np.int64)
    pixels[:, 0] = 10
    pixels[:4, 14] = 1
    factors = repeat_factors(pixels, 0.5)
    assert factors[0] == pytest.approx(np.sqrt(0.5 / 0.04))
    assert factors[50] == 1.0


def test_weights_of_frequent_classes_are_below_one() -> None:
    pixels = np.zeros((1, 19), np.int64)
    pixels[0, :3] = (900, 90, 10)
    weights = sqrt_median_frequency(pixels)
    np.testing.assert_allclose(weights[:4], [np.sqrt(0.1), 1.0, 3.0, 1.0])


def test_class_pixels_counts_masks() -> None:
    faces = SyntheticFaces(3, size=(32, 32))
    pixels = class_pixels(measure_all(faces, faces.__getitem__, workers=2))
    np.testing.assert_array_equal(pixels[1], np.bincount(faces[1].mask.ravel(), minlength=19))


def test_batches_depend_on_the_step_alone(tiny_recipe: Recipe) -> None:
    whole = list(make_batches(tiny_recipe)[0].iterate(0))
    tail = list(make_batches(tiny_recipe.with_overrides(["data.workers=3"]))[0].iterate(4))
    assert [batch.step for batch in whole] == list(range(6))
    assert [batch.step for batch in tail] == [4, 5]
    for one, other in zip(whole[4:], tail, strict=True):
        assert same(one, other)


MIXED = ["mix={cutmix: 0.5, mixup: 0.4}", "data.multiscale=[0.5, 2]", "augment={crop: 0.5, crop_on_class: 0.5}"]


def test_mixing_sizes_and_crops_depend_on_the_step_and_not_on_threads_or_processes(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.with_overrides([*MIXED, "data.size=64", "optim.epochs=4"])
    whole = list(make_batches(recipe)[0].iterate(0))
    tail = list(make_batches(recipe.with_overrides(["data.workers=3"]))[0].iterate(7))
    halves = [list(make_batches(recipe, rank, 2)[0].iterate(7)) for rank in (0, 1)]
    assert {batch.partners is None for batch in whole} == {True, False}
    assert {tuple(batch.images.shape[1:3]) for batch in whole} > {(64, 64)}
    for step, (batch, again, one, two) in enumerate(zip(whole[7:], tail, *halves, strict=True)):
        assert same(batch, again), step
        assert torch.equal(torch.cat([one.masks, two.masks]), batch.masks)
        assert torch.equal(torch.cat([one.images, two.images]), batch.images)
        assert one.share == two.share == batch.share


def test_mixup_shares_are_drawn_as_often_as_asked(tiny_recipe: Recipe) -> None:
    recipe = tiny_recipe.with_overrides(["mix={mixup: 0.25, mixup_alpha: 0.4}"])
    drawn = np.array([mixup_share(recipe, step) for step in range(2000)])
    assert (drawn < 1).mean() == pytest.approx(0.25, abs=0.03)
    assert drawn.min() >= 0.5
    assert mixup_share(tiny_recipe, 3) == 1.0


def face_of(value: int, label: int) -> Warped:
    """One colour and one label, 40x60."""
    return Warped(
        np.full((40, 60, 3), value, np.uint8), np.full((40, 60), label, np.uint8), np.eye(3, 4, dtype=np.float32)
    )


def test_blend_shares_the_pixels_and_keeps_both_labels() -> None:
    mixed = blend(face_of(200, 1), face_of(100, 13), 0.7)
    assert np.unique(mixed.sample.image).tolist() == [170]
    assert np.unique(mixed.sample.mask).tolist() == [1]
    assert np.unique(mixed.partner).tolist() == [13]


def test_paste_moves_pixels_and_labels_together() -> None:
    areas = []
    for seed in range(300):
        own, other = face_of(200, 1), face_of(100, 13)
        mixed = paste(own, other, cutmix_box((40, 60), np.random.default_rng(seed), 1.0)).sample
        np.testing.assert_array_equal(mixed.image[..., 0] == 100, mixed.mask == 13)
        assert (own.mask == 1).all()
        areas.append((mixed.mask == 13).mean())
    assert 0 <= min(areas) < 0.05
    assert max(areas) > 0.7  # of the mean of 1/2, what falls outside is cut off
    assert 0.2 < np.mean(areas) < 0.5


def test_an_image_is_augmented_differently_in_each_epoch(tiny_recipe: Recipe) -> None:
    batches, _ = make_batches(tiny_recipe)
    order = Order(12, tiny_recipe.seed)
    positions = Positions(tiny_recipe, make_plan(tiny_recipe, 12), order)
    places = [positions.place(at, (32, 32), 1.0) for at in range(24) if order[at] == 0]
    first, second = (batches.warped(place.own, (32, 32)) for place in places)
    assert not np.array_equal(first.image, second.image)


def test_processes_share_a_batch_without_overlap(tiny_recipe: Recipe) -> None:
    whole = next(make_batches(tiny_recipe)[0].iterate(1))
    halves = [next(make_batches(tiny_recipe, rank, 2)[0].iterate(1)) for rank in (0, 1)]
    assert torch.equal(torch.cat([half.images for half in halves]), whole.images)
    assert torch.equal(torch.cat([half.masks for half in halves]), whole.masks)


def test_cache_reads_once_what_fits(tiny_recipe: Recipe) -> None:
    batches, faces = make_batches(tiny_recipe)
    list(batches.iterate(0))
    assert set(faces.reads) == {1}
    batches, faces = make_batches(tiny_recipe, cache=5 * 32 * 32 * 4)
    list(batches.iterate(0))
    assert sorted(faces.reads) == [1] * 5 + [2] * 7


def test_damaged_image_surfaces_as_its_own_error(tiny_recipe: Recipe) -> None:
    class Damaged(Counting):
        def __getitem__(self, index: int) -> Sample:
            raise InputError(f"image {index} is damaged")

    positions = Positions(tiny_recipe, make_plan(tiny_recipe, 12), Order(12, 0))
    batches = Batches(positions, DecodedCache(Damaged(12), 0), tiny_recipe.spec)
    with pytest.raises(InputError, match="is damaged"):
        next(batches.iterate(0))
