"""Statistics of faces, and their cache: what is counted, what is found again, what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.files import sha256_file
from fptk.data.folders import FolderDataset
from fptk.data.inspect import inspect_folder
from fptk.data.splits import Subset, open_training
from fptk.data.statistics import FILE, SampleStatistics, StatisticsCache, mean_and_std, measure, pair_key
from fptk.training.class_balance import measure_all


def refuse(index: int) -> Sample:
    raise AssertionError(f"face {index} was read again")


def plain(dataset: FaceParsingDataset) -> list[list[Any]]:
    return plain_figures(measure_all(dataset, dataset.__getitem__, 1))


def plain_figures(found: list[SampleStatistics]) -> list[list[Any]]:
    return [[np.asarray(field).tolist() for field in each] for each in found]


def test_mean_and_std_are_those_of_all_pixels_together() -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, np.uint8) for size in ((8, 6, 3), (20, 10, 3))]
    mean, std = mean_and_std([measure(image, np.zeros(image.shape[:2], np.uint8), CELEBAMASK) for image in images])
    pixels = np.concatenate([image.reshape(-1, 3) for image in images]) / 255
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(std, pixels.std(axis=0), atol=1e-6)


def test_std_of_one_color_is_not_zero() -> None:
    gray = np.full((4, 4, 3), 7, np.uint8)
    assert mean_and_std([measure(gray, gray[..., 0], CELEBAMASK)])[1] == (pytest.approx(1 / 255, abs=1e-6),) * 3


def test_what_inspect_counted_is_not_read_again_by_a_training(faces_folder: Path, tmp_path: Path) -> None:
    cache = StatisticsCache(tmp_path)
    report = inspect_folder(faces_folder, cache=cache).splits["train"]
    train = open_training([faces_folder])[0]
    found = measure_all(train, refuse, 2, cache)
    np.testing.assert_array_equal(sum(each.class_pixels for each in found), report.class_pixels)
    assert report.mean_and_std == mean_and_std(found)
    assert plain_figures(found) == plain(train)
    part = Subset(train, [3, 1])
    np.testing.assert_array_equal(measure_all(part, refuse, 1, cache)[1].class_pixels, found[1].class_pixels)


def test_changed_mask_is_counted_anew(make_split, tmp_path: Path) -> None:
    folder = make_split(tmp_path / "train", 2)
    cache = StatisticsCache(tmp_path / "cache")
    measure_all(FolderDataset(folder), FolderDataset(folder).__getitem__, 1, cache)
    masks = sorted((folder / "masks").iterdir())
    masks[0].write_bytes(masks[1].read_bytes())
    dataset, read = FolderDataset(folder), []

    def reading(index: int) -> Sample:
        read.append(index)
        return dataset[index]

    found = measure_all(dataset, reading, 1, cache)
    assert read == [0]
    np.testing.assert_array_equal(found[0].class_pixels, found[1].class_pixels)


@pytest.mark.parametrize("content", [b"no database", b""])
def test_damaged_cache_holds_nothing(faces_folder: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    train = open_training([faces_folder])[0]
    assert len(measure_all(train, train.__getitem__, 1, StatisticsCache(tmp_path))) == 12


def test_cache_in_a_place_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = StatisticsCache(tmp_path / "file")
    cache.put({"a": measure(np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8), CELEBAMASK)})
    assert cache.get(["a"]) == {}


def test_key_depends_on_image_and_mask(faces_folder: Path) -> None:
    image, mask = (sorted((faces_folder / "train" / each).iterdir())[0] for each in ("images", "masks"))
    one, other = sha256_file(image), sha256_file(mask)
    assert len({pair_key(one, other), pair_key(other, one), pair_key(one, one)}) == 3
