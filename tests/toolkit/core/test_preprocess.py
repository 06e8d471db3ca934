from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from fptk.core.errors import InputError
from fptk.core.masks import read_mask
from fptk.core.preprocess import PreprocessSpec, check_size, read_image, resize_labels

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)


def test_hash_changes_with_each_field():
    variants = [
        PreprocessSpec(),
        PreprocessSpec(size=(512, 256)),
        PreprocessSpec(size=(256, 512)),
        PreprocessSpec(resize="bicubic"),
        PreprocessSpec(mean=(0.5, 0.456, 0.406)),
        PreprocessSpec(std=(0.229, 0.224, 0.2251)),
    ]
    assert len({spec.sha256 for spec in variants}) == len(variants)
    tried = set().union(*({n for n, v in spec if v != getattr(PreprocessSpec(), n)} for spec in variants))
    assert tried == set(PreprocessSpec.model_fields) - {"colour"}, "colour has one value only"


def test_hash_of_the_default_is_that_of_the_artifacts_already_built():
    assert PreprocessSpec().sha256 == "498d59a8c61c1ec2fb2ca6c57f8e974d1a54004b9017d95f415570048b3aeb1b"
    assert PreprocessSpec.model_validate_json(PreprocessSpec().model_dump_json()).sha256 == PreprocessSpec().sha256


@pytest.mark.parametrize(
    "field",
    [
        {"size": (500, 512)},
        {"size": (0, 512)},
        {"std": (0.2, 0.0, 0.2)},
        {"mean": (float("nan"), 0.4, 0.4)},
        {"std": (float("inf"), 0.4, 0.4)},
        {"resize": "area"},
        {"colour": "BGR"},
        {"unknown": 1},
    ],
)
def test_spec_refuses_what_no_engine_can_follow(field):
    with pytest.raises(ValidationError):
        PreprocessSpec(**field)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic", "nearest"])
def test_apply_resizes_to_the_spec(resize):
    spec = PreprocessSpec(size=(32, 64), resize=resize)
    image = spec.apply(PHOTOGRAPH)
    assert (image.shape, image.dtype) == ((32, 64, 3), np.uint8)
    assert np.array_equal(spec.apply(image), image), "an image of the size is left alone"


def test_filters_antialias_when_they_shrink_except_nearest():
    stripes = np.zeros((32, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth = PreprocessSpec(size=(32, 32)).apply(stripes)
    assert abs(smooth.astype(int) - 127).max() <= 6
    assert set(np.unique(PreprocessSpec(size=(32, 32), resize="nearest").apply(stripes))) <= {0, 255}


def test_masks_are_resized_without_mixing_labels():
    mask = np.zeros((10, 10), np.uint8)
    mask[:, 5:] = 18
    for size in ((32, 64), (7, 3)):
        resized = resize_labels(mask, size)
        assert resized.shape == size
        assert set(np.unique(resized)) == {0, 18}
    assert np.array_equal(PreprocessSpec(size=(32, 32)).apply_mask(mask), resize_labels(mask, (32, 32)))


@pytest.mark.parametrize(
    ("size", "nearest"), [((500, 512), "512x512"), ((40, 47), "32x32"), ((48, 49), "64x64"), ((0, -5), "32x32")]
)
def test_size_that_is_no_multiple_of_32_names_the_nearest(size, nearest):
    with pytest.raises(InputError, match=f"fits is {nearest}"):
        check_size(*size)


def test_size_that_fits_is_returned():
    assert check_size(32, 512) == (32, 512)


def test_photograph_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90 degrees clockwise to see it upright
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (40, 24, 3)
    assert np.array_equal(image, np.rot90(PHOTOGRAPH, -1))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(PHOTOGRAPH).convert(mode).save(path)
    image = read_image(path)
    assert (image.shape, image.dtype) == ((24, 40, 3), np.uint8)
    assert image.flags.writeable


@pytest.mark.parametrize("mode", ["P", "L"])
def test_palette_and_gray_masks_give_their_indices(tmp_path, mode):
    labels = np.random.default_rng(1).integers(0, 19, (24, 40), dtype=np.uint8)
    picture = Image.fromarray(labels)
    if mode == "P":
        picture.putpalette(list(range(256)) * 3)
    picture.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert np.array_equal(mask, labels)
    assert mask.dtype == np.uint8
    assert mask.flags.writeable


def failure(read, path: Path) -> str:
    """The one line that ``read(path)`` fails with; it names the file."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_empty_text_and_folder_are_named(tmp_path, read):
    assert "does not exist" in failure(read, tmp_path / "none.png")
    (tmp_path / "empty.png").touch()
    assert "is not an image file" in failure(read, tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("hello")
    assert "is not an image file" in failure(read, tmp_path / "text.png")
    (tmp_path / "folder.png").mkdir()
    assert "cannot be read" in failure(read, tmp_path / "folder.png")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_truncated_photograph_is_named(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PHOTOGRAPH).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    failure(read_image, path)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
def test_random_damage_is_an_input_error_or_an_image(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PHOTOGRAPH).save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, min(300, len(whole)), 4):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            assert read_image(path).shape[2] == 3
        except InputError:
            refused += 1
    assert refused


def test_enormous_picture_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.fromarray(PHOTOGRAPH).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "cannot be read" in failure(read_image, tmp_path / "a.png")


@pytest.mark.parametrize("label", [19, 255])
def test_label_above_18_is_named(tmp_path, label):
    Image.fromarray(np.full((4, 4), label, np.uint8)).save(tmp_path / "m.png")
    assert f"holds label {label} (16 px); the 19 classes are 0-18" in failure(read_mask, tmp_path / "m.png")


@pytest.mark.parametrize("mode", ["CMYK", "F"])
def test_mask_of_another_mode_is_named(tmp_path, mode):
    Image.fromarray(np.zeros((4, 4), np.uint8)).convert(mode).save(tmp_path / "m.tiff")
    assert f"has mode {mode}" in failure(read_mask, tmp_path / "m.tiff")


def test_lossy_mask_is_refused_whatever_its_name(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "m.png", format="JPEG")
    assert "is JPEG" in failure(read_mask, tmp_path / "m.png")


@pytest.mark.parametrize("extended", [False, True])
def test_lossless_webp_mask_gives_its_greys(tmp_path, extended):
    labels = np.random.default_rng(2).integers(0, 19, (24, 41), dtype=np.uint8)
    more = {"exif": Image.Exif().tobytes(), "xmp": b"<x/>"} if extended else {}
    Image.fromarray(labels).save(tmp_path / "m.webp", lossless=True, **more)
    assert (b"VP8X" in (tmp_path / "m.webp").read_bytes()[:30]) == extended
    mask = read_mask(tmp_path / "m.webp")
    assert np.array_equal(mask, labels)
    assert mask.dtype == np.uint8
    assert mask.flags.writeable


def test_lossless_webp_mask_is_turned_upright(tmp_path):
    labels = np.random.default_rng(3).integers(0, 19, (24, 40), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(labels).save(tmp_path / "m.webp", lossless=True, exif=exif)
    assert np.array_equal(read_mask(tmp_path / "m.webp"), np.rot90(labels, -1))


def test_lossy_colored_and_animated_webp_masks_are_named(tmp_path):
    path = tmp_path / "m.webp"
    gray = Image.fromarray(np.zeros((8, 8), np.uint8))
    gray.save(path, quality=100)
    assert "is lossy or animated WebP" in failure(read_mask, path)
    gray.save(path, lossless=True, save_all=True, append_images=[Image.new("L", (8, 8), 3)])
    assert "is lossy or animated WebP" in failure(read_mask, path)
    Image.new("RGB", (8, 8), (1, 1, 2)).save(path, lossless=True)
    assert "is a colour picture" in failure(read_mask, path)
    Image.new("L", (8, 8), 19).save(path, lossless=True)
    assert "holds label 19" in failure(read_mask, path)
