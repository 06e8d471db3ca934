"""Every kind of mask that people have, read as labels of a class list."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, IGNORE, ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.masks import read_mask, unknown_values

HAIR = ClassSet(names=("background", "hair"), palette=((0, 0, 0), (27, 158, 119)))
HAIR_255 = ClassSet(names=("background", "hair"), values=((0, 0), (255, 1)), ignore=None)
SPARSE = ClassSet(names=("background", "skin"), values=((0, 0), (7, 0), (300, 1)), ignore=1000)
LABELS = np.array([[0, 1, 1], [1, 0, 255]], np.uint8)


def one_bit(path: Path) -> None:
    Image.fromarray(np.where(LABELS == 1, 255, 0).astype(np.uint8)).convert("1").save(path)


def palette_of(bits: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        picture = Image.fromarray(np.minimum(LABELS, 1))
        picture.putpalette([10, 20, 30, 40, 50, 60])
        picture.save(path, bits=bits)

    return write


def rgb(*colors: tuple[int, int, int], mode: str = "RGB") -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(np.array(colors, np.uint8)[np.minimum(LABELS, len(colors) - 1)]).convert(mode).save(path)

    return write


def gray(
    values: UInt8Array | np.ndarray[tuple[int, ...], np.dtype[np.uint16]], mode: str = "L"
) -> Callable[[Path], None]:
    return lambda path: (
        Image.fromarray(values).convert(mode).save(path) if mode != "L" else Image.fromarray(values).save(path)
    )


TWO = np.minimum(LABELS, 1)
IGNORED = np.array([[0, 1, 1], [1, 0, IGNORE]], np.uint8)
KINDS: dict[str, tuple[Callable[[Path], None], ClassSet, UInt8Array]] = {
    "1 bit": (one_bit, HAIR, np.array([[0, 1, 1], [1, 0, 0]], np.uint8)),
    "palette, 1 bit": (palette_of(1), HAIR, TWO),
    "palette, 2 bits": (palette_of(2), HAIR, TWO),
    "palette, 4 bits": (palette_of(4), HAIR, TWO),
    "palette, 8 bits": (palette_of(8), HAIR, TWO),
    "grey, 8 bits, with ignored pixels": (gray(LABELS), HAIR, IGNORED),
    "grey, 16 bits": (gray(LABELS.astype(np.uint16)), HAIR, IGNORED),
    "0 and 255": (gray(np.where(LABELS > 0, 255, 0).astype(np.uint8)), HAIR_255, TWO),
    "0 and 255 in three channels": (rgb((0, 0, 0), (255, 255, 255)), HAIR_255, TWO),
    "16-bit values of its own": (
        gray(np.array([[0, 300, 300], [300, 7, 1000]], np.uint16)),
        SPARSE,
        IGNORED,
    ),
    "colours": (rgb(*HAIR.palette), HAIR, TWO),
    "colours with an opaque alpha": (rgb(*HAIR.palette, mode="RGBA"), HAIR, TWO),
    "the index in three channels": (rgb((0, 0, 0), (1, 1, 1)), HAIR, TWO),
    "the colours of CelebAMask-HQ": (rgb(*CELEBAMASK.palette), CELEBAMASK, np.minimum(LABELS, 18)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_labels(kind: str, tmp_path: Path):
    write, classes, expected = KINDS[kind]
    write(tmp_path / "mask.png")
    labels = read_mask(tmp_path / "mask.png", classes)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, expected)


WRONG: dict[str, tuple[Callable[[Path], None], ClassSet, str]] = {
    "255 without ignore": (
        gray(LABELS),
        CELEBAMASK,
        r"holds label 255 \(1 px\); the 19 classes are 0-18: .* write 'ignore: 255' into classes.yaml",
    ),
    "values that no class has": (
        gray(np.array([[0, 9], [77, 77]], np.uint8)),
        HAIR,
        r"holds labels 9 \(1 px\), 77 \(2 px\); the 2 classes are 0-1: .*fptk data classes DIR",
    ),
    "values beside those of classes.yaml": (
        gray(np.array([[0, 9]], np.uint8)),
        HAIR_255,
        r"holds label 9 \(1 px\); classes.yaml gives classes to 0, 255",
    ),
    "unknown colours": (
        rgb((0, 0, 0), (1, 2, 3), (250, 0, 0)),
        HAIR,
        r"colours that no class has: #010203 \(3 px\), #fa0000 \(1 px\); give each class its color",
    ),
    "transparency": (
        lambda path: Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(path),
        HAIR,
        "has 4 transparent pixels",
    ),
    "colours of a palette in another order": (
        lambda path: _palette(
            path, np.array([[1, 2]], np.uint8), [0, 0, 0, *CELEBAMASK.palette[2], *CELEBAMASK.palette[1]]
        ),
        CELEBAMASK,
        r"its index 1 \(skin\) has the colour of class 2 \(nose\)",
    ),
}


def _palette(path: Path, labels: UInt8Array, flat: list[int]) -> None:
    picture = Image.fromarray(labels)
    picture.putpalette(flat)
    picture.save(path)


@pytest.mark.parametrize("kind", WRONG)
def test_what_fits_no_class_is_refused_with_value_and_remedy(kind: str, tmp_path: Path):
    write, classes, words = WRONG[kind]
    write(tmp_path / "mask.png")
    with pytest.raises(InputError, match=words) as caught:
        read_mask(tmp_path / "mask.png", classes)
    assert "mask.png" in str(caught.value)
    assert not re.search("\n", str(caught.value))


def test_values_that_mean_nothing_are_counted():
    assert unknown_values(np.array([[0, 1, 300], [300, 255, -4]]), HAIR) == ([-4, 300], [1, 2])
