"""``fptk data classes``: a class list proposed from what masks hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import ClassSet
from fptk.data.class_file import read_class_file

Command = Callable[..., "object"]


def masks(folder: Path, make_split, write: Callable[[Path], None]) -> Path:
    make_split(folder / "train", 2)
    for mask in (folder / "train" / "masks").iterdir():
        write(mask)
    return folder


def gray(*values: int) -> Callable[[Path], None]:
    pixels = np.zeros((32, 32), np.uint16 if max(values) > 255 else np.uint8)
    for row, value in enumerate(values):
        pixels[row] = value
    return lambda path: Image.fromarray(pixels).save(path)


def colors(path: Path) -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:8], pixels[8:10] = (200, 10, 10), (10, 200, 10)
    Image.fromarray(pixels).save(path)


def indexed(path: Path) -> None:
    picture = Image.fromarray(np.repeat(np.arange(2, dtype=np.uint8), 16)[:, None].repeat(32, axis=1))
    picture.putpalette([0, 0, 0, 12, 34, 56])
    picture.save(path)


CASES: dict[str, tuple[Callable[[Path], None], ClassSet]] = {
    "indices and 255": (gray(0, 1, 2, 255), ClassSet(names=("background", "class_1", "class_2"))),
    "0 and 255": (
        gray(0, 255),
        ClassSet(names=("background", "class_1"), values=((0, 0), (255, 1)), ignore=None),
    ),
    "values with gaps": (
        gray(0, 7, 300),
        ClassSet(names=("background", "class_1", "class_2"), values=((0, 0), (7, 1), (300, 2))),
    ),
    "colours": (
        colors,
        ClassSet(names=("background", "class_1", "class_2"), palette=((0, 0, 0), (10, 200, 10), (200, 10, 10))),
    ),
    "a palette": (indexed, ClassSet(names=("background", "class_1"), palette=((0, 0, 0), (12, 34, 56)))),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_proposed_reads_the_masks(case: str, tmp_path: Path, make_split, fptk: Command):
    write, expected = CASES[case]
    folder = masks(tmp_path / "faces", make_split, write)
    finished = fptk("data", "classes", folder, "--jobs", 1)
    assert finished.code == 0, finished.err  # type: ignore[attr-defined]
    text = finished.out  # type: ignore[attr-defined]
    assert "% of pixels, in 100% of masks" in text
    (folder / "classes.yaml").write_text(text)
    assert read_class_file(folder / "classes.yaml") == expected
    assert fptk("data", "inspect", folder, "--jobs", 1).code == 0  # type: ignore[attr-defined]


def test_a_list_that_ships_is_pointed_out_and_no_file_is_replaced(tmp_path: Path, make_split, fptk: Command):
    folder = masks(tmp_path / "faces", make_split, gray(*range(11)))
    target = tmp_path / "faces" / "classes.yaml"
    assert fptk("data", "classes", folder, "--out", target).code == 0  # type: ignore[attr-defined]
    assert "# If they are those of lapa, write 'classes: lapa'" in target.read_text()
    finished = fptk("data", "classes", folder, "--out", target)
    assert finished.code == 2  # type: ignore[attr-defined]
    assert f"--out {target} exists" in finished.err  # type: ignore[attr-defined]


def noise(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("write", "words"),
    [(noise, "holds at most 256"), (lambda path: path.write_text("no picture"), "is not an image file")],
    ids=["noise", "text"],
)
def test_what_is_no_mask_of_classes_is_one_line(tmp_path: Path, make_split, fptk: Command, write, words: str):
    finished = fptk("data", "classes", masks(tmp_path / "faces", make_split, write), "--jobs", 1)
    assert finished.code == 2  # type: ignore[attr-defined]
    assert words in finished.err  # type: ignore[attr-defined]
    assert "Traceback" not in finished.err  # type: ignore[attr-defined]
