"""Label maps or overlays of a user's photographs, one PNG each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from fptk.core.errors import InputError
from fptk.core.evaluation import predict
from fptk.core.files import kind_of, reason_of
from fptk.core.preprocess import read_image
from fptk.core.progress import SILENT, Listener, track
from fptk.core.session import Session
from fptk.data.folders import IMAGE_SUFFIXES, is_hidden
from fptk.data.pictures import save_labels, save_overlay

COMMAND = "predict"
"""What the PNGs of this module are marked with."""

Style = Literal["labels", "overlay"]


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
    session: Session, images: Sequence[Path], folder: Path, style: Style, *, listener: Listener = SILENT
) -> Iterator[tuple[Path, str | None]]:
    """Write the label map or overlay of every image as ``folder/STEM.png``; an image that cannot be read stops nothing.

    Args:
        session: any engine.
        images: image files, as :func:`list_images` returns them.
        folder: an existing folder for the results.
        style: ``labels`` for 8-bit palette PNGs, ``overlay`` for the photographs tinted by class.
        listener: is told how many images are done.

    Yields:
        Each image when it is done, with the reason in one line if it could not be read, else ``None``.

    Raises:
        InputError: a result cannot be written, or the engine is not usable.
    """
    for path in track(listener, images, "predicting"):
        try:
            image = read_image(path)
        except InputError as error:
            yield path, str(error)
            continue
        except Exception as error:  # Pillow raises many kinds for damaged files, and runs out of memory for huge ones
            yield path, f"image {path} cannot be read: {type(error).__name__}: {error}"
            continue
        labels = predict(session, image)
        if style == "labels":
            save_labels(labels, result_of(path, folder), command=COMMAND, classes=session.classes)
        else:
            save_overlay(image, labels, result_of(path, folder), command=COMMAND, classes=session.classes)
        yield path, None


def result_of(image: Path, folder: Path) -> Path:
    """Where the result of an image is written."""
    return folder / f"{image.stem}.png"
