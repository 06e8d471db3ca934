from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.dataset import FaceParsingDataset
from fptk.core.errors import InputError
from fptk.data import FolderDataset


def message_of(folder: Path) -> str:
    """The one line that opening ``folder`` fails with."""
    with pytest.raises(InputError) as caught:
        FolderDataset(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_code == 2
    return text


@pytest.mark.parametrize(
    "names",
    [("images", "masks"), ("train_image", "train_mask"), ("val_image", "val_mask"), ("test_image", "test_mask")],
)
@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".webp", ".bmp"])
def test_folder_is_read_in_every_layout_and_format(tmp_path, make_split, names, suffix):
    dataset: FaceParsingDataset = FolderDataset(make_split(tmp_path / "d", 2, (32, 48), names, suffix))
    assert len(dataset) == 2
    sample = dataset[1]
    assert (sample.image.shape, sample.image.dtype) == ((32, 48, 3), np.uint8)
    assert (sample.mask.shape, sample.mask.dtype) == ((32, 48), np.uint8)
    assert sample.key == "001"


def test_samples_are_sorted_by_stem_and_the_same_at_every_reading(tmp_path, make_split):
    dataset = FolderDataset(make_split(tmp_path, 5))
    assert [dataset.key(i) for i in range(5)] == ["000", "001", "002", "003", "004"]
    again = pickle.loads(pickle.dumps(dataset))
    assert np.array_equal(dataset[3].image, again[3].image)
    assert np.array_equal(dataset[3].mask, again[3].mask)
    with pytest.raises(IndexError):
        dataset[5]


def test_arrays_belong_to_the_caller(tmp_path, make_split):
    sample = FolderDataset(make_split(tmp_path, 1))[0]
    assert sample.image.flags.writeable
    assert sample.mask.flags.writeable


def test_content_hash_is_that_of_the_image_file(tmp_path, make_split):
    dataset = FolderDataset(make_split(tmp_path, 2))
    expected = hashlib.sha256(dataset.image_path(1).read_bytes()).hexdigest()
    assert dataset.content_hash(1) == expected
    dataset.image_path(1).unlink()
    assert dataset.content_hash(1) == expected, "it is computed once"
    dataset.image_path(0).unlink()
    with pytest.raises(InputError, match="does not exist"):
        dataset.content_hash(0)


def test_hidden_files_and_unused_masks_are_passed_over(tmp_path, make_split):
    make_split(tmp_path, 2)
    (tmp_path / "images" / "._000.jpg").write_bytes(b"resource fork")
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"")
    (tmp_path / "masks" / "extra.png").write_bytes(b"")
    assert len(FolderDataset(tmp_path)) == 2


def test_missing_folder_is_named(tmp_path):
    assert "does not exist" in message_of(tmp_path / "none")


def test_file_in_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    assert "is a file" in message_of(tmp_path / "a.zip")


def test_empty_folder_says_what_was_expected(tmp_path):
    text = message_of(tmp_path)
    assert "is empty" in text
    assert "train/images + train/masks" in text


def test_unknown_layout_says_what_was_found_and_what_is_known(tmp_path):
    for name in "abcdef":
        (tmp_path / name).mkdir()
    text = message_of(tmp_path)
    assert "found a, b, c, d and 2 more" in text
    assert "train/train_image + train/train_mask" in text


def test_image_folder_without_mask_folder_says_which_is_missing(tmp_path):
    (tmp_path / "images").mkdir()
    assert "holds images/ but no masks/" in message_of(tmp_path)


def test_two_layouts_in_one_folder_are_refused(tmp_path, make_split):
    make_split(tmp_path, 1)
    make_split(tmp_path, 1, names=("train_image", "train_mask"))
    assert "keep one pair" in message_of(tmp_path)


def test_original_release_is_sent_to_convert(tmp_path):
    (tmp_path / "CelebA-HQ-img").mkdir()
    (tmp_path / "CelebAMask-HQ-mask-anno").mkdir()
    assert "fptk data convert" in message_of(tmp_path)


def test_folder_without_an_image_is_refused(tmp_path, make_split):
    make_split(tmp_path, 1)
    (tmp_path / "images" / "000.jpg").rename(tmp_path / "images" / "000.tiff")
    assert "holds no image" in message_of(tmp_path)


def test_image_without_mask_names_the_first_and_the_count(tmp_path, make_split):
    make_split(tmp_path, 4)
    (tmp_path / "masks" / "001.png").unlink()
    (tmp_path / "masks" / "003.png").unlink()
    text = message_of(tmp_path)
    assert "2 of 4 images have no mask" in text
    assert "001.jpg" in text


def test_two_images_of_one_stem_are_refused(tmp_path, make_split):
    make_split(tmp_path, 1)
    make_split(tmp_path, 1, suffix=".png")
    assert "share one mask name" in message_of(tmp_path)


def read_error(folder: Path) -> str:
    """The one line that reading the first pair of ``folder`` fails with."""
    with pytest.raises(InputError) as caught:
        FolderDataset(folder)[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_mask_of_another_size_is_named_with_both_sizes(tmp_path, make_split):
    make_split(tmp_path, 1, (32, 48))
    Image.fromarray(np.zeros((16, 24), np.uint8)).save(tmp_path / "masks" / "000.png")
    text = read_error(tmp_path)
    assert "masks/000.png is 24x16" in text
    assert "its image 48x32" in text


@pytest.mark.parametrize("label", [19, 255])
def test_label_above_18_is_named(tmp_path, make_split, label):
    make_split(tmp_path, 1)
    mask = np.zeros((32, 32), np.uint8)
    mask[3, 4] = label
    Image.fromarray(mask).save(tmp_path / "masks" / "000.png")
    assert f"masks/000.png holds label {label}" in read_error(tmp_path)


def test_truncated_jpeg_is_named(tmp_path, make_split):
    path = make_split(tmp_path, 1) / "images" / "000.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    assert "images/000.jpg is damaged" in read_error(tmp_path)


@pytest.mark.parametrize("folder", ["images", "masks"])
def test_text_file_named_png_is_named(tmp_path, make_split, folder):
    path = make_split(tmp_path, 1, suffix=".png") / folder / "000.png"
    path.write_text("this is no picture")
    assert f"{folder}/000.png is not an image file" in read_error(tmp_path)


def test_file_deleted_after_opening_is_named(tmp_path, make_split):
    dataset = FolderDataset(make_split(tmp_path, 1))
    dataset.mask_path(0).unlink()
    with pytest.raises(InputError, match=r"mask .*000\.png does not exist"):
        dataset[0]


def test_masks_may_be_lossless_webp(tmp_path, make_split):
    folder = make_split(tmp_path, 2)
    expected = [sample.mask for sample in (FolderDataset(folder)[0], FolderDataset(folder)[1])]
    for number, mask in enumerate(expected):
        (folder / "masks" / f"00{number}.png").unlink()
        Image.fromarray(mask).save(folder / "masks" / f"00{number}.webp", lossless=True)
    dataset = FolderDataset(folder)
    assert all(np.array_equal(dataset[number].mask, mask) for number, mask in enumerate(expected))


def test_a_png_and_a_webp_mask_of_one_image_are_refused(tmp_path, make_split):
    folder = make_split(tmp_path, 1)
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "masks" / "000.webp", lossless=True)
    with pytest.raises(InputError, match=r"000\.png and 000\.webp belong to one image name; remove one"):
        FolderDataset(folder)
