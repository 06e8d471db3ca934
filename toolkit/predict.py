"""Label maps of single photographs, and the two ways of writing them down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fptk.classes import PALETTE, flat_palette
from fptk.data.folders import IMAGE_SUFFIXES
from fptk.dataset import UInt8Array
from fptk.errors import InputError
from fptk.files import atomic_file
from fptk.preprocess import resize_labels
from fptk.session import Session

OVERLAY_STRENGTH = 0.5
"""Share of the class colour in an overlay; background pixels keep the photograph."""


def list_images(inputs: Sequence[Path]) -> list[Path]:
    """Image files among ``inputs``: files as given, folders by their images in order of name.

    Raises:
        InputError: a path does not exist, a folder holds no image, or two images share a stem (their results would
            overwrite each other).
    """
    images: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(entry for entry in path.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise InputError(f"folder {path} holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
            images += found
        elif path.is_file():
            images.append(path)
        else:
            raise InputError(f"input {path} does not exist")
    by_stem: dict[str, Path] = {}
    for path in images:
        if path.stem in by_stem:
            raise InputError(f"{by_stem[path.stem]} and {path} would both be written as {path.stem}.png; rename one")
        by_stem[path.stem] = path
    return images


def predict(session: Session, image: UInt8Array) -> UInt8Array:
    """Label map, uint8 (H, W), of one photograph, uint8 (H, W, 3) RGB, at the photograph's own size."""
    labels = session(session.spec.apply(image)[None])[0]
    height, width = image.shape[:2]
    return resize_labels(labels, (height, width))


def overlay(image: UInt8Array, labels: UInt8Array) -> UInt8Array:
    """The photograph, uint8 (H, W, 3), tinted by the class colours of ``labels``, uint8 (H, W)."""
    colours = np.array(PALETTE, np.float32)[labels]
    strength = np.where(labels[..., None] > 0, OVERLAY_STRENGTH, 0.0).astype(np.float32)
    return np.rint(image * (1 - strength) + colours * strength).astype(np.uint8)


def save_labels(labels: UInt8Array, path: Path) -> None:
    """Write a label map as an 8-bit palette PNG whose pixel value is the class."""
    picture = Image.fromarray(labels)
    picture.putpalette(flat_palette())
    save_png(picture, path)


def save_overlay(image: UInt8Array, labels: UInt8Array, path: Path) -> None:
    """Write :func:`overlay` as PNG."""
    save_png(Image.fromarray(overlay(image, labels)), path)


def save_png(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_file(path) as temporary:
        picture.save(temporary, format="PNG")
