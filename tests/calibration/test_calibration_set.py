"""Choosing calibration images."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.calibration.calibration_set import (
    CalibrationSet,
    load_calibration_set,
    select_calibration_set,
)
from fptk.core.classes import CLASSES
from fptk.core.dataset import FaceParsingDataset, Sample
from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.data import FolderDataset, Subset
from fptk.data.splits import refuse_overlap

from .networks import Faces, Steps, striped

COMMON = [0, 1, 2, 13, 17]


@pytest.fixture
def faces() -> Faces:
    """300 faces: the common classes everywhere, each rare class in three of them."""
    samples = []
    rare = [k for k in range(19) if k not in COMMON]
    for seed in range(300):
        extra = [rare[seed // 20]] if seed % 20 < 3 and seed // 20 < len(rare) else []
        samples.append(striped(seed, COMMON + extra))
    return Faces(samples, "train")


def test_coverage_finds_every_rare_class_where_random_misses_some(faces: Faces) -> None:
    covered = select_calibration_set(faces, 40, min_images_per_class=2, min_pixels=100)
    drawn = select_calibration_set(faces, 40, strategy="random")
    assert len(covered) == len(drawn) == 40
    assert covered.short_classes() == ()
    assert all(row.images >= 2 and row.pixels >= 100 for row in covered.coverage.values())
    assert drawn.short_classes() == tuple(name for name, row in drawn.coverage.items() if row.images == 0) != ()


def test_classes_that_stay_short_of_the_minimum_are_named(faces: Faces) -> None:
    chosen = select_calibration_set(faces, 40, min_images_per_class=4, min_pixels=100)
    rare = {name for index, name in enumerate(CLASSES) if index not in COMMON}
    assert set(chosen.short_classes()) == rare, "three faces show each of them"
    assert chosen.minimum is not None
    assert chosen.minimum.images == 4


def test_coverage_counts_are_those_of_the_masks(faces: Faces) -> None:
    chosen = select_calibration_set(faces, 25)
    masks = [faces.samples[image.index].mask for image in chosen.images]
    for index, name in enumerate(CLASSES):
        assert chosen.coverage[name].images == sum(bool((mask == index).any()) for mask in masks)
        assert chosen.coverage[name].pixels == sum(int((mask == index).sum()) for mask in masks)


def test_choice_depends_on_the_seed_alone(faces: Faces) -> None:
    first, again = select_calibration_set(faces, 30, seed=3), select_calibration_set(faces, 30, seed=3)
    other = select_calibration_set(faces, 30, seed=4)
    assert first == again
    assert first.sha256 == again.sha256
    assert first.sha256 != other.sha256


def test_no_image_is_chosen_twice_even_under_two_names() -> None:
    twin = striped(1, [0, 1])
    dataset = Faces([twin, twin._replace(key="copy"), striped(2, [0, 1])])
    assert len(select_calibration_set(dataset, 3)) == 2


def test_reading_is_bounded_by_the_pool(faces: Faces) -> None:
    steps = Steps()
    select_calibration_set(faces, 10, pool=60, listener=steps)
    assert faces.reads <= 120
    assert steps.heard[0] == (1, 60, None)
    assert steps.heard[-1] == (60, 60, None)


@pytest.mark.parametrize(("count", "samples", "message"), [(0, 1, "at least 1"), (4, 0, "is empty")])
def test_impossible_requests_are_refused(count: int, samples: int, message: str) -> None:
    dataset = Faces([striped(seed, [0, 1]) for seed in range(samples)])
    with pytest.raises(InputError, match=message):
        select_calibration_set(dataset, count)


def test_stream_yields_one_preprocessed_batch_at_a_time_and_can_be_restarted(faces: Faces) -> None:
    chosen = select_calibration_set(faces, 5)
    start = chosen.stream(faces, PreprocessSpec(size=(64, 64)))
    faces.reads = 0
    first = next(start())
    assert faces.reads == 1
    assert (first.shape, first.dtype) == ((1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(first, next(start()))
    assert len(list(start())) == 5


def test_stream_notices_that_the_data_set_changed(faces: Faces) -> None:
    chosen = select_calibration_set(faces, 5)
    other = Faces([sample._replace(key=f"new-{sample.key}") for sample in faces.samples])
    with pytest.raises(InputError, match="no longer at index"):
        next(chosen.stream(other, PreprocessSpec(size=(32, 32)))())


def taken(chosen: CalibrationSet, source: FaceParsingDataset) -> Subset:
    """The images of a calibration set."""
    return Subset(source, [image.index for image in chosen.images])


def test_overlap_with_the_evaluation_set_is_named_by_content(faces: Faces) -> None:
    chosen = select_calibration_set(faces, 5)
    image = faces.samples[chosen.images[2].index]
    evaluation = Faces([striped(1000, [0, 1]), Sample(image.image, image.mask, "renamed")], "val")
    with pytest.raises(InputError, match=rf"'{image.key}' is also image 'renamed' of the evaluation set val"):
        refuse_overlap(taken(chosen, faces), evaluation)
    refuse_overlap(taken(chosen, faces), Faces([striped(1000, [0, 1])]))


def test_manifest_survives_a_round_trip(faces: Faces, tmp_path: Path) -> None:
    chosen = select_calibration_set(faces, 8)
    path = tmp_path / "calibration.json"
    chosen.save(path)
    assert load_calibration_set(path) == chosen
    assert json.loads(path.read_text())["sha256"] == chosen.sha256
    listed = CalibrationSet.from_list(path, faces)
    assert listed.sha256 == chosen.sha256
    assert listed.coverage == chosen.coverage


def test_edited_manifest_is_refused(faces: Faces, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    value = select_calibration_set(faces, 3).manifest()
    value["images"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(value))
    with pytest.raises(InputError, match="was edited"):
        load_calibration_set(path)


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": 1, "images": 3}', "no json"])
def test_broken_manifest_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_calibration_set(path)
    assert "\n" not in str(caught.value)


def test_text_list_takes_keys_and_paths(faces: Faces, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# chosen by hand\nface-7\n  # by path\ntrain/images/face-3.jpg\n\nface-7\n")
    assert [image.key for image in CalibrationSet.from_list(path, faces).images] == ["face-7", "face-3"]


@pytest.mark.parametrize(("text", "message"), [("face-9999\n", "'face-9999'"), ("# nothing\n", "names no image")])
def test_text_list_that_fits_nothing_is_refused(text: str, message: str, faces: Faces, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        CalibrationSet.from_list(path, faces)


def test_missing_list_is_refused(faces: Faces, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        CalibrationSet.from_list(tmp_path / "none.txt", faces)


def test_text_list_takes_names_as_they_are(faces: Faces, tmp_path: Path) -> None:
    """A name may hold ``#``, spaces and dots, and be in either Unicode form; Windows puts a mark before the first."""
    keys = ["a#1", "#b", "c d.e", "zoé"]
    dataset = Faces([sample._replace(key=key) for sample, key in zip(faces.samples, keys, strict=False)])
    path = tmp_path / "list.txt"
    lines = ["\ufeffimages/a#1.jpg", "# a comment", "./#b", "c d.e", unicodedata.normalize("NFD", "images/zoé.jpg")]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert [image.key for image in CalibrationSet.from_list(path, dataset).images] == keys


def test_list_that_is_a_fifo_does_not_hang(faces: Faces, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match="not a regular file"):
        CalibrationSet.from_list(tmp_path / "list.txt", faces)


def test_overlap_is_found_by_pixels_where_the_source_is_known(faces: Faces, tmp_path: Path) -> None:
    """A photograph that was saved again without loss has other bytes."""
    masks = [np.zeros((8, 8), np.uint8) for _ in range(4)]
    rng = np.random.default_rng(0)
    for split, suffix in (("train", ".bmp"), ("val", ".png")):
        (tmp_path / split / "images").mkdir(parents=True)
        (tmp_path / split / "masks").mkdir()
        for number, mask in enumerate(masks):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / "images" / f"{number}{suffix}")
            Image.fromarray(mask).save(tmp_path / split / "masks" / f"{number}.png")
    with Image.open(tmp_path / "train" / "images" / "2.bmp") as picture:
        picture.save(tmp_path / "val" / "images" / "3.png")
    train, val = (FolderDataset(tmp_path / split) for split in ("train", "val"))
    chosen = select_calibration_set(train, 4)
    with pytest.raises(InputError, match=r"'2' is also image '3' of the evaluation set"):
        refuse_overlap(taken(chosen, train), val)
    refuse_overlap(Subset(train, [0, 1, 3]), val)
