"""Small data sets on disk, and the real ones where they are there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fptk.core.classes import CELEBAMASK, NUM_CLASSES
from fptk.core.progress import Listener, Update

MakeSplit = Callable[..., Path]


def save_image(path: Path, seed: int, size: tuple[int, int] = (32, 32)) -> None:
    """Write a random photograph of ``size`` = (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_mask(path: Path, mask: np.ndarray) -> None:
    """Write a palette PNG whose pixel values are ``mask``."""
    picture = Image.fromarray(mask.astype(np.uint8))
    picture.putpalette(CELEBAMASK.flat_palette())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


class Heard(Listener):
    """Keeps every step that it is told of: what is counted, how many are done, and of how many."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int, int]] = []

    @contextmanager
    def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
        yield lambda done, text=None: self.steps.append((what, done, total))


@pytest.fixture
def heard() -> Heard:
    """A listener that keeps what it hears in ``steps``."""
    return Heard()


@pytest.fixture
def make_split() -> MakeSplit:
    """``make_split(folder, count)`` fills ``folder/images`` and ``folder/masks`` with random pairs."""

    def make(
        folder: Path,
        count: int = 3,
        size: tuple[int, int] = (32, 32),
        names: tuple[str, str] = ("images", "masks"),
        suffix: str = ".jpg",
        seed: int = 0,
    ) -> Path:
        for number in range(count):
            save_image(folder / names[0] / f"{number:03d}{suffix}", seed + number, size)
            labels = np.random.default_rng(seed + number).integers(0, NUM_CLASSES, size)
            save_mask(folder / names[1] / f"{number:03d}.png", labels)
        return folder

    return make


@pytest.fixture
def real_data() -> Path:
    """Folder of the real faces: ``$FPTK_DATA``, or ``../shared/data`` beside the repository."""
    default = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    folder = Path(os.environ.get("FPTK_DATA", default))
    if not (folder / "celebamask-mini").is_dir():
        pytest.skip(f"no real faces in {folder}; set FPTK_DATA to the folder that holds celebamask-mini")
    return folder
