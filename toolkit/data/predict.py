"""Label maps of single photographs, and the two ways of writing them down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from fptk.core.classes import PALETTE, flat_palette
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import atomic_file, kind_of, png_mark, reason_of
from fptk.core.preprocess import read_image, resize_labels
from fptk.core.session import Session
from fptk.data.folders import IMAGE_SUFFIXES, is_hidden

OVERLAY_STRENGTH = 0.5
"""Share of the class colour in an overlay; background pixels keep the photograph."""


COMMAND = "predict"
"""What the PNGs of this module are marked with."""


def list_images(inputs: Sequence[Path]) -> list[Path]:
    """Image files among ``inputs``, each once: files as given, folders by their images in order of name.

    Hidden files of a folder are left out: on other systems' disks they are no photographs (``._face.jpg``).

    Raises:
        InputError: a path does not exist or is neither file nor folder, a folder holds no image, or two images share a
            stem (their results would overwrite each other).
    """
    images: list[Path] = []
    for path in inputs:
        kind = kind_of(path, "input")
        if kind is None:
            raise InputError(f"input {path} does not exist")
        if kind == "other":
            raise InputError(f"input {path} is a FIFO, device or socket; give image files or folders of them")
        images += _images_in(path) if kind == "folder" else [path]
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other.absolute() != path.absolute():
            raise InputError(f"{other} and {path} would both be written as {path.stem}.png; rename one")
    return list(by_stem.values())


def _images_in(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read: {reason_of(error)}") from error
    found = [path for path in entries if path.suffix.lower() in IMAGE_SUFFIXES and not is_hidden(path.name)]
    if not found:
        raise InputError(f"folder {folder} holds no image; expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    return found


def predict_all(
    session: Session, images: Sequence[Path], folder: Path, style: Literal["labels", "overlay"]
) -> Iterator[tuple[Path, str | None]]:
    """Write the label map or overlay of every image as ``folder/STEM.png``; an image that cannot be read stops nothing.

    Yields:
        Each image when it is done, with the reason in one line if it could not be read, else ``None``.

    Raises:
        InputError: a result cannot be written, or the engine is not usable.
    """
    for path in images:
        try:
            image = read_image(path)
        except InputError as error:
            yield path, str(error)
            continue
        except Exception as error:  # Pillow raises many kinds for damaged files, and runs out of memory for huge ones
            yield path, f"image {path} cannot be read: {type(error).__name__}: {error}"
            continue
        labels = predict(session, image)
        save = save_labels if style == "labels" else partial(save_overlay, image)
        save(labels, result_of(path, folder))
        yield path, None


def result_of(image: Path, folder: Path) -> Path:
    """Where the result of an image is written."""
    return folder / f"{image.stem}.png"


def predict(session: Session, image: UInt8Array) -> UInt8Array:
    """Label map, uint8 (H, W), of one photograph, uint8 (H, W, 3) RGB, at the photograph's own size."""
    labels = session(session.spec.apply(image)[None])[0]
    height, width = image.shape[:2]
    return resize_labels(labels, (height, width))


def overlay(image: UInt8Array, labels: UInt8Array) -> UInt8Array:
    """The photograph, uint8 (H, W, 3), tinted by the class colours of ``labels``, uint8 (H, W)."""
    colors = np.array(PALETTE, np.float32)[labels]
    strength = np.where(labels[..., None] > 0, OVERLAY_STRENGTH, 0.0).astype(np.float32)
    return np.rint(image * (1 - strength) + colors * strength).astype(np.uint8)


def save_labels(labels: UInt8Array, path: Path) -> None:
    """Write a label map as an 8-bit palette PNG whose pixel value is the class."""
    picture = Image.fromarray(labels)
    picture.putpalette(flat_palette())
    save_png(picture, path)


def save_overlay(image: UInt8Array, labels: UInt8Array, path: Path) -> None:
    """Write :func:`overlay` as PNG."""
    save_png(Image.fromarray(overlay(image, labels)), path)


def save_png(picture: Image.Image, path: Path, *, command: str = COMMAND, option: str = "--out") -> None:
    """Write a picture as PNG, whole or not at all, marked as drawn by ``fptk COMMAND``.

    What it may replace is checked before any work, by :func:`fptk.core.files.check_pictures`.
    """
    with atomic_file(path, option=option) as temporary:
        picture.save(temporary, format="PNG", pnginfo=png_mark(command))
