"""The drawn faces: the same on every machine and at every size, all classes in them, left and right as promised."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, CLASSES, NUM_CLASSES
from fptk.core.dataset import FaceParsingDataset, UInt8Array
from fptk.core.errors import InputError
from fptk.core.progress import Listener, Update
from fptk.data.folders import FolderDataset
from fptk.data.synthetic.faces import SyntheticFaces, draw_face
from fptk.data.writer import write_dataset

FACES = 300
PINNED = "ebe63a3552ed9664127acad3bceffd96c1aa37d49466491d43def2981f1d634c"


@pytest.fixture(scope="module")
def masks() -> list[UInt8Array]:
    return [draw_face(0, index, (128, 128))[1] for index in range(FACES)]


@pytest.fixture(scope="module")
def areas(masks: list[UInt8Array]) -> npt.NDArray[np.int64]:
    """Pixels per face and class, (FACES, 19)."""
    return np.stack([np.bincount(mask.ravel(), minlength=NUM_CLASSES) for mask in masks])


def test_bytes_are_pinned() -> None:
    """Another processor, another numpy: the same bytes. A change of the drawing changes this hash on purpose."""
    digest = hashlib.sha256()
    for index in range(25):
        image, mask = draw_face(3, index, (64, 96))
        digest.update(image.tobytes() + mask.tobytes())
    assert digest.hexdigest() == PINNED


def test_image_and_mask_have_the_promised_form() -> None:
    for index in range(20):
        image, mask = draw_face(1, index, (96, 160))
        assert image.shape == (96, 160, 3)
        assert mask.shape == (96, 160)
        assert image.dtype == mask.dtype == np.uint8
        assert image.flags.c_contiguous
        assert mask.max() < NUM_CLASSES
        assert image.std() > 10


def test_faces_differ_by_seed_and_by_index() -> None:
    pictures = {draw_face(seed, index, (32, 32))[0].tobytes() for seed in range(5) for index in range(5)}
    assert len(pictures) == 25


def test_every_class_occurs_often_and_large_enough(areas: npt.NDArray[np.int64]) -> None:
    frequency = dict(zip(CLASSES, (areas > 0).mean(axis=0), strict=True))
    median = {name: np.median(column[column > 0]) for name, column in zip(CLASSES, areas.T, strict=True)}
    assert {name: share for name, share in frequency.items() if share < 0.25} == {}
    assert min(frequency["l_ear"], frequency["r_ear"]) >= 0.5
    assert {name: area for name, area in median.items() if area < 40} == {}


def test_belongings_are_no_constant(areas: npt.NDArray[np.int64]) -> None:
    """A network must learn when a thing is absent as well."""
    frequency = dict(zip(CLASSES, (areas > 0).mean(axis=0), strict=True))
    for name in ("eye_g", "mouth", "hat", "ear_r", "neck_l", "l_eye", "r_eye"):
        assert 0.25 <= frequency[name] <= 0.75, name


def test_left_is_the_subjects_left(masks: list[UInt8Array], areas: npt.NDArray[np.int64]) -> None:
    """The subject's left lies on the picture's right, in every face that shows both sides."""
    for left, right in CELEBAMASK.swap_pairs:
        shown = np.flatnonzero((areas[:, left] > 0) & (areas[:, right] > 0))
        both = [(_column(masks[face], left), _column(masks[face], right)) for face in shown]
        assert len(both) > FACES / 2
        assert all(column_left > column_right for column_left, column_right in both), CLASSES[left]


def _column(mask: UInt8Array, label: int) -> float:
    return float(np.nonzero(mask == label)[1].mean())


def test_neither_side_is_favoured(areas: npt.NDArray[np.int64]) -> None:
    """Otherwise a flip with swapped classes would show the network another world."""
    for left, right in CELEBAMASK.swap_pairs:
        assert areas[:, left].mean() == pytest.approx(areas[:, right].mean(), rel=0.15), CLASSES[left]


def test_parts_lie_where_a_face_has_them(masks: list[UInt8Array]) -> None:
    """From top to bottom: brows, eyes, nose, upper lip, lower lip, neck, cloth, on average."""
    order = [CLASSES.index(name) for name in ("l_brow", "l_eye", "nose", "u_lip", "l_lip", "neck", "cloth")]
    rows = [np.mean([np.nonzero(mask == label)[0].mean() for mask in masks if label in mask]) for label in order]
    assert rows == sorted(rows)


def test_mask_is_the_same_face_at_three_times_the_size() -> None:
    """At three times the size every third pixel has the same centre, hence the same label."""
    for index in range(12):
        small, large = draw_face(5, index, (64, 64))[1], draw_face(5, index, (192, 192))[1]
        assert np.mean(large[1::3, 1::3] == small) > 0.9995


def test_image_is_the_same_face_at_twice_the_size() -> None:
    for index in range(8):
        (image, mask), (large_image, large_mask) = draw_face(6, index, (128, 128)), draw_face(6, index, (256, 256))
        nearest = np.asarray(Image.fromarray(large_mask).resize((128, 128), Image.Resampling.NEAREST))
        assert np.mean(nearest == mask) > 0.97
        shrunk = large_image.reshape(128, 2, 128, 2, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - image).mean() < 6


def test_borders_are_anti_aliased() -> None:
    """Where colours differ strongly across a border of the mask, they mostly change in two steps, not in one."""
    image, mask = draw_face(0, 8, (256, 256))
    colors = image.astype(np.int16)
    one_step = np.abs(colors[:, 1:] - colors[:, :-1]).max(axis=2)
    two_steps = np.abs(colors[:, 2:] - colors[:, :-2]).max(axis=2)
    strong = (mask[:, 2:] != mask[:, :-2]) & (two_steps > 60)
    largest = np.maximum(one_step[:, 1:], one_step[:, :-1])
    assert strong.sum() > 100
    assert np.mean(largest[strong] < 0.9 * two_steps[strong]) > 0.5


def test_dataset_keeps_the_protocol() -> None:
    dataset: FaceParsingDataset = SyntheticFaces(3, size=(48, 32), seed=2, start=10)
    samples = [dataset[index] for index in range(len(dataset))]
    assert len({sample.key for sample in samples}) == 3
    assert {sample.mask.shape for sample in samples} == {(48, 32)}
    again = dataset[1]
    np.testing.assert_array_equal(again.image, samples[1].image)
    assert dataset.content_hash(1) == dataset.content_hash(1)
    assert len({dataset.content_hash(index) for index in range(3)}) == 3
    assert "synthetic" in dataset.name


@pytest.mark.parametrize("index", [-1, 3])
def test_reading_beyond_the_end_fails(index: int) -> None:
    with pytest.raises(IndexError, match="of 3"):
        SyntheticFaces(3)[index]


def test_start_moves_the_range_so_that_sets_are_disjoint() -> None:
    train, val = SyntheticFaces(4, (32, 32), seed=7), SyntheticFaces(4, (32, 32), seed=7, start=4)
    hashes = [dataset.content_hash(index) for dataset in (train, val) for index in range(4)]
    assert len(set(hashes)) == 8
    shifted = SyntheticFaces(4, (32, 32), seed=7, start=3)
    assert shifted.content_hash(0) == train.content_hash(3)
    assert shifted[0].key == train[3].key


@pytest.mark.parametrize("wrong", [{"count": -1}, {"seed": -1}, {"start": -2}, {"size": (0, 32)}])
def test_impossible_numbers_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected"):
        SyntheticFaces(**{"count": 2, **wrong})  # type: ignore[arg-type]


def test_written_dataset_reads_back(tmp_path: Path, heard: Any) -> None:
    dataset = SyntheticFaces(3, size=(64, 64), seed=4)
    target = write_dataset(dataset, tmp_path / "faces", "val", heard)
    assert target == tmp_path / "faces" / "val"
    assert heard.steps == [("writing val", 1, 3), ("writing val", 2, 3), ("writing val", 3, 3)]
    folder = FolderDataset(target)
    assert len(folder) == 3
    for index in range(3):
        drawn, read = dataset[index], folder[index]
        assert read.key == drawn.key
        np.testing.assert_array_equal(read.mask, drawn.mask)
        assert np.abs(read.image.astype(int) - drawn.image).mean() < 4
    with Image.open(target / "masks" / f"{dataset[0].key}.png") as mask:
        assert mask.mode == "P"
        assert (mask.getpalette() or [])[3:6] == list(CELEBAMASK.palette[1])


def test_writing_keeps_what_is_there(tmp_path: Path) -> None:
    occupied = tmp_path / "train"
    occupied.mkdir()
    (occupied / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        write_dataset(SyntheticFaces(1, (32, 32)), tmp_path)
    assert [path.name for path in occupied.iterdir()] == ["precious.txt"]


def test_broken_off_writing_leaves_nothing(tmp_path: Path) -> None:
    class Interrupting(Listener):
        @contextmanager
        def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
            def stop(done: int, text: str | None = None) -> None:
                raise KeyboardInterrupt

            yield stop

    with pytest.raises(KeyboardInterrupt):
        write_dataset(SyntheticFaces(2, (32, 32)), tmp_path, listener=Interrupting())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_draws_a_hundred_faces_per_second_on_one_core() -> None:
    assert max(_rates()) >= 100


def _rates() -> Iterator[float]:
    """Faces per second of processor time in several batches: the best one is the least disturbed."""
    for batch in range(8):
        start = time.process_time()
        for index in range(25):
            draw_face(0, 25 * batch + index, (128, 128))
        yield 25 / (time.process_time() - start)
