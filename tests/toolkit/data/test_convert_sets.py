"""LaPa and Helen, as their releases lie on disk, become index masks with their classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import HELEN, LAPA
from fptk.core.errors import InputError
from fptk.core.masks import read_mask
from fptk.data.convert_sets import convert
from fptk.data.splits import open_split


def lapa(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, names in (("train", ("1_0", "2_0")), ("val", ("3_0",)), ("test", ("4_0",))):
        for name in names:
            for part in ("images", "labels", "landmarks"):
                (folder / split / part).mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / "images" / f"{name}.jpg")
            Image.fromarray(rng.integers(0, 11, (40, 60), dtype=np.uint8)).save(
                folder / split / "labels" / f"{name}.png"
            )
            (folder / split / "landmarks" / f"{name}.txt").write_text("106\n")
    return folder


def helen(folder: Path, truth: np.ndarray) -> Path:
    for file, name in (("exemplars.txt", "100_1"), ("tuning.txt", "200_1"), ("testing.txt", "300_2")):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"1 , {name}\n")
        (folder / "images").mkdir(exist_ok=True)
        (folder / "labels" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((*truth.shape, 3), np.uint8)).save(folder / "images" / f"{name}.jpg")
        for label in range(11):
            soft = np.where(truth == label, 200, np.where(truth == (label + 1) % 11, 90, 0)).astype(np.uint8)
            Image.fromarray(soft).save(folder / "labels" / name / f"{name}_lbl{label:02d}.png")
    return folder


def test_lapa_keeps_its_splits_labels_and_photographs(tmp_path: Path):
    source, out = lapa(tmp_path / "LaPa"), tmp_path / "out"
    done = convert(source, out, jobs=1)
    assert dict(done.written) == {"train": 2, "val": 1, "test": 1}
    assert open_split(out, "val").classes == LAPA
    for split, name in (("train", "2_0"), ("test", "4_0")):
        original = np.array(Image.open(source / split / "labels" / f"{name}.png"))
        assert np.array_equal(read_mask(out / split / "masks" / f"{name}.png", LAPA), original)
        image = out / split / "images" / f"{name}.jpg"
        assert image.read_bytes() == (source / split / "images" / f"{name}.jpg").read_bytes()
    again = convert(source, out, jobs=1)
    assert not again.written
    assert sum(again.kept.values()) == 4
    with pytest.raises(InputError, match="choose another --out"):
        convert(source, out, size=30, jobs=1)


def test_larger_pictures_are_shrunk_and_keep_their_aspect(tmp_path: Path):
    convert(lapa(tmp_path / "LaPa"), tmp_path / "out", size=30, splits=("val",), jobs=1)
    sample = open_split(tmp_path / "out", "val")[0]
    assert sample.image.shape == (20, 30, 3)
    assert sample.mask.shape == (20, 30)


def test_helen_takes_the_brightest_part_of_each_pixel(tmp_path: Path):
    truth = np.random.default_rng(1).integers(0, 11, (24, 32)).astype(np.uint8)
    done = convert(helen(tmp_path / "Helen", truth), tmp_path / "out", jobs=1)
    assert dict(done.written) == {"train": 1, "val": 1, "test": 1}
    dataset = open_split(tmp_path / "out", "test")
    assert dataset.classes == HELEN
    assert dataset[0].key == "300_2"
    assert np.array_equal(dataset[0].mask, truth)


def test_a_face_that_cannot_be_read_is_left_out_with_its_reason(tmp_path: Path):
    source = helen(tmp_path / "Helen", np.zeros((8, 8), np.uint8))
    (source / "labels" / "200_1" / "200_1_lbl04.png").unlink()
    done = convert(source, tmp_path / "out", jobs=1)
    ((stem, reason),) = done.failures
    assert stem == "200_1"
    assert "200_1_lbl04.png does not exist" in reason
    (source / "tuning.txt").write_text("1 , ../../etc/passwd\n")
    with pytest.raises(InputError, match="expected the name of a photograph"):
        convert(source, tmp_path / "other", jobs=1)
