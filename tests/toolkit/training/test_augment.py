"""Geometry, labels and colour of the augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fptk.core.classes import CELEBAMASK, CLASS_INDEX
from fptk.core.dataset import Sample
from fptk.core.preprocess import PreprocessSpec
from fptk.recipes.schema import AugmentSection
from fptk.training.augment import Draw, color_matrix, draw, focus_center, normalized, warp

SPEC = PreprocessSpec(size=(64, 64))


def asymmetric_face(size: int = 64) -> Sample:
    """A left and a right eye, brow and ear of different shapes, as the subject's left stands right in the image."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (size, size, 3), np.uint8)
    mask = np.ones((size, size), np.uint8)
    for row, (left, right) in enumerate(CELEBAMASK.swap_pairs):
        mask[8 + 16 * row : 12 + 16 * row, 40:60] = left
        mask[8 + 16 * row : 16 + 16 * row, 6:14] = right
    return Sample(image, mask, "face")


def test_identity_changes_nothing() -> None:
    face = asymmetric_face()
    warped = warp(face, Draw(), (64, 64), SPEC, CELEBAMASK)
    np.testing.assert_array_equal(warped.image, face.image)
    np.testing.assert_array_equal(warped.mask, face.mask)
    np.testing.assert_allclose(warped.color, np.eye(3, 4), atol=1e-6)


def test_flip_mirrors_and_swaps_left_and_right() -> None:
    face = asymmetric_face()
    warped = warp(face, Draw(flip=True), (64, 64), SPEC, CELEBAMASK)
    np.testing.assert_array_equal(warped.image, face.image[:, ::-1])
    for left, right in CELEBAMASK.swap_pairs:
        np.testing.assert_array_equal(warped.mask == left, (face.mask == right)[:, ::-1])
        np.testing.assert_array_equal(warped.mask == right, (face.mask == left)[:, ::-1])
    assert (warped.mask == CLASS_INDEX["skin"]).sum() == (face.mask == CLASS_INDEX["skin"]).sum()


def test_unswapped_flip_keeps_the_labels() -> None:
    face = asymmetric_face()
    warped = warp(face, Draw(flip=True, swap_labels=False), (64, 64), SPEC, CELEBAMASK)
    np.testing.assert_array_equal(warped.mask, face.mask[:, ::-1])


@pytest.mark.parametrize("flip", [False, True])
def test_rotation_turns_counter_clockwise_in_the_final_picture(flip: bool) -> None:
    mask = np.zeros((65, 65), np.uint8)
    mask[30:35, 55:60] = 13  # right of the centre
    image = np.repeat((mask * 15)[..., None], 3, axis=2)
    warped = warp(
        Sample(image, mask[:, ::-1] if flip else mask, "dot"), Draw(flip=flip, degrees=90), (65, 65), SPEC, CELEBAMASK
    )
    rows, columns = np.nonzero(warped.mask)
    assert rows.mean() == pytest.approx(7, abs=1)  # above the centre
    assert columns.mean() == pytest.approx(32, abs=1)


def test_zoom_and_shift_move_the_face_as_documented() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[28:36, 28:36] = 2
    image = np.zeros((64, 64, 3), np.uint8)
    larger = warp(Sample(image, mask, "dot"), Draw(zoom=2.0), (64, 64), SPEC, CELEBAMASK).mask
    assert (larger == 2).sum() == 4 * (mask == 2).sum()
    moved = warp(Sample(image, mask, "dot"), Draw(shift=(0.25, 0.125)), (64, 64), SPEC, CELEBAMASK).mask
    np.testing.assert_array_equal(moved[36:44, 44:52], 2)


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (96, 128)])
def test_image_and_mask_stay_together_at_every_size(size: tuple[int, int]) -> None:
    """The image is drawn from the mask: after any warp it must still show the same regions."""
    mask = asymmetric_face(128).mask
    image = np.repeat((mask * 12)[..., None], 3, axis=2)
    drawn = Draw(flip=True, swap_labels=False, degrees=11, zoom=0.8, shift=(0.05, -0.04))
    warped = warp(
        Sample(image, mask, "face"), drawn, size, PreprocessSpec(size=(32, 32), mean=(0.0, 0.0, 0.0)), CELEBAMASK
    )
    assert warped.mask.shape == size
    agreement = np.abs(warped.image[..., 0].astype(int) - warped.mask.astype(int) * 12) <= 6
    assert agreement.mean() > 0.8


def test_outside_of_the_photograph_is_background_of_the_mean_color() -> None:
    white = Sample(np.full((64, 64, 3), 255, np.uint8), np.ones((64, 64), np.uint8), "white")
    warped = warp(white, Draw(zoom=0.5), (64, 64), SPEC, CELEBAMASK)
    assert warped.mask[0, 0] == 0
    pixels = normalized(torch.tensor(warped.image)[None], torch.eye(3, 4)[None], SPEC)
    assert float(pixels[0, :, 0, 0].abs().max()) < 0.01


def test_color_matrix_equals_the_steps_one_by_one() -> None:
    rgb = np.array([200.0, 40.0, 90.0])
    drawn = Draw(brightness=0.9, contrast=1.2, saturation=0.5)
    bright = rgb * 0.9
    contrasted = (bright - 0.9 * 100) * 1.2 + 0.9 * 100
    gray = contrasted @ [0.299, 0.587, 0.114]
    expected = gray + 0.5 * (contrasted - gray)
    matrix = color_matrix(drawn, 100.0)
    np.testing.assert_allclose(matrix[:, :3] @ rgb + matrix[:, 3], expected, rtol=1e-5)


def test_normalized_equals_the_session_formula_and_clips() -> None:
    rng = np.random.default_rng(1)
    images = torch.from_numpy(rng.integers(0, 256, (2, 4, 5, 3), np.uint8))
    mean, std = torch.tensor(SPEC.mean), torch.tensor(SPEC.std)
    plain = normalized(images, torch.eye(3, 4).repeat(2, 1, 1), SPEC)
    expected = ((images / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(plain, expected, rtol=1e-4, atol=1e-5)
    brighter = normalized(images, 3 * torch.eye(3, 4).repeat(2, 1, 1), SPEC)
    clipped = (((images * 3.0).clamp(max=255) / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(brighter, clipped, rtol=1e-4, atol=1e-5)


def test_draws_cover_their_ranges_and_no_more() -> None:
    section = AugmentSection(scale=(0.5, 2.0), translate=0.1)
    draws = [draw(section, np.random.default_rng(seed)) for seed in range(400)]
    assert 150 < sum(each.flip for each in draws) < 250
    zooms = np.array([each.zoom for each in draws])
    assert 0.5 <= zooms.min() < 0.55
    assert 1.8 < zooms.max() <= 2.0
    assert 13 < max(abs(each.degrees) for each in draws) <= 15
    assert max(abs(each.shift[0]) for each in draws) <= 0.1
    assert 0.8 <= min(each.brightness for each in draws) < 0.85
    assert 0.9 <= min(each.saturation for each in draws) < 0.92


def test_switching_the_flip_off_moves_no_other_draw() -> None:
    with_flip = draw(AugmentSection(), np.random.default_rng(5))
    without = draw(AugmentSection(flip="none"), np.random.default_rng(5))
    assert (with_flip.degrees, with_flip.zoom, with_flip.contrast) == (without.degrees, without.zoom, without.contrast)
    assert not without.flip


def test_crop_shows_a_part_of_the_photograph_enlarged() -> None:
    face = asymmetric_face()
    drawn = Draw(zoom=2.0, crop=0.5, center=(0.75, 0.25))
    warped = warp(face, drawn, (64, 64), SPEC, CELEBAMASK)
    np.testing.assert_array_equal(warped.mask, face.mask[:32, 32:].repeat(2, 0).repeat(2, 1))
    flipped = warp(
        face, Draw(zoom=2.0, crop=0.5, center=(0.75, 0.25), flip=True, swap_labels=False), (64, 64), SPEC, CELEBAMASK
    )
    np.testing.assert_array_equal(flipped.mask, warped.mask[:, ::-1])


def test_crops_never_show_the_outside() -> None:
    section = AugmentSection(flip="none", rotate_deg=0, scale=(1, 1), crop=0.4, crop_on_class=0.5)
    white = Sample(np.full((64, 64, 3), 255, np.uint8), asymmetric_face().mask, "white")
    draws = [draw(section, np.random.default_rng(seed)) for seed in range(100)]
    assert min(each.crop for each in draws) < 0.45
    assert max(each.crop for each in draws) > 0.95
    assert 30 < sum(each.focus is not None for each in draws) < 70
    for each in draws:
        assert warp(white, each, (64, 64), SPEC, CELEBAMASK).image.min() == 255


def test_focus_is_on_every_class_as_often() -> None:
    mask = np.ones((64, 64), np.uint8)
    mask[10, 20] = 16
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        x, y = focus_center(mask, Draw(crop=0.1, focus=(rng.random(), rng.random())), 19)
        found.append(mask[int(y * 64), int(x * 64)] == 16)
    assert 0.4 < np.mean(found) < 0.6
    assert focus_center(mask, Draw(crop=0.5, focus=(0.99, 0.5)), 19) == (pytest.approx(20.5 / 64), 0.25)


def test_exposure_is_in_stops_and_sharpness_blur_and_noise_in_their_units() -> None:
    section = AugmentSection(brightness=0, exposure=1.0, sharpness=0.5, blur=2.0, noise=0.1)
    draws = [draw(section, np.random.default_rng(seed)) for seed in range(300)]
    for values, low, high in (
        ([each.brightness for each in draws], 0.5, 2.0),
        ([each.sharpness for each in draws], 0.5, 1.5),
        ([each.blur for each in draws], 0.0, 2.0),
        ([each.noise for each in draws], 0.0, 0.1),
    ):
        assert low <= min(values) < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < max(values) <= high


def test_noise_has_the_drawn_deviation_and_depends_on_its_seed() -> None:
    gray = Sample(np.full((64, 64, 3), 128, np.uint8), np.zeros((64, 64), np.uint8), "grey")
    one, again, other = (
        warp(gray, Draw(noise=0.05, noise_seed=seed), (64, 64), SPEC, CELEBAMASK).image for seed in (1, 1, 2)
    )
    assert one.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert one.mean() == pytest.approx(128, abs=1)
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.5


def test_blur_takes_detail_and_sharpness_adds_it_or_takes_it() -> None:
    face = asymmetric_face()
    detail = {
        name: float(np.abs(np.diff(warp(face, drawn, (64, 64), SPEC, CELEBAMASK).image.astype(int), axis=1)).mean())
        for name, drawn in {
            "plain": Draw(),
            "blurred": Draw(blur=1.5),
            "sharp": Draw(sharpness=1.5),
            "soft": Draw(sharpness=0.5),
        }.items()
    }
    assert detail["blurred"] < detail["soft"] < detail["plain"] < detail["sharp"]


def test_new_draws_move_no_older_one() -> None:
    old = draw(AugmentSection(), np.random.default_rng(5))
    new = draw(AugmentSection(crop=0.5, exposure=1, blur=2, noise=0.2), np.random.default_rng(5))
    coin, *unit = np.random.default_rng(5).random(8)
    assert (old.flip, old.degrees) == (bool(coin < 0.5), 15 * (2 * unit[0] - 1))
    assert (old.degrees, old.contrast, old.flip) == (new.degrees, new.contrast, new.flip)
    assert (old.crop, old.center, old.focus, old.blur, old.noise, old.sharpness) == (1, (0.5, 0.5), None, 0, 0, 1)
