"""What is found in a user's photographs: label maps, colors, overlays or JSON, one file each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from fptk.core.classes import ClassSet
from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import predict
from fptk.core.files import (
    check_destination,
    check_pictures,
    check_unread,
    kind_of,
    open_regular,
    reason_of,
    write_text,
    writing,
)
from fptk.core.preprocess import read_image
from fptk.core.progress import SILENT, Listener, track
from fptk.core.session import Session
from fptk.data.folders import IMAGE_SUFFIXES, is_hidden
from fptk.data.pictures import color_mask, save_labels, save_overlay, save_png

COMMAND = "predict"
"""What the PNGs of this module are marked with."""

Style = Literal["labels", "color", "overlay", "json"]

JSON_MARK = '{"made_by": "fptk predict"'
"""Start of every JSON file of this module: what a later one may take the place of."""


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


def check_results(
    results: Sequence[Path], style: Style, *, reads: Sequence[Path] = (), overwrite: bool = False
) -> None:
    """Check before any work that the results will replace nothing but earlier ones of this module.

    Args:
        results: files that will be written.
        style: what they will hold.
        reads: the images; none of them is ever replaced.
        overwrite: allow the replacing of other files.

    Raises:
        InputError: a result is an image that is read, a file that ``fptk predict`` did not write, a folder or the like.
    """
    if style != "json":
        check_pictures(results, COMMAND, reads=reads, overwrite=overwrite)
        return
    for path in results:
        check_destination(path)
    check_unread(results, reads)
    for path in results:
        if not overwrite and kind_of(path) == "file" and not _is_ours(path):
            raise InputError(
                f"{path} exists and is not by fptk {COMMAND}; choose another --out, or replace it with --overwrite"
            )


def _is_ours(path: Path) -> bool:
    with writing(path), open_regular(path) as handle:
        return handle.read(len(JSON_MARK)) == JSON_MARK.encode()


def predict_all(
    session: Session,
    images: Sequence[Path],
    folder: Path,
    style: Style,
    *,
    listener: Listener = SILENT,
) -> Iterator[tuple[Path, str | None]]:
    """Write what is found in every image into ``folder``; an image that cannot be read stops nothing.

    Args:
        session: any engine.
        images: image files, as :func:`list_images` returns them.
        folder: an existing folder for the results.
        style: ``labels`` for 8-bit palette PNGs, ``color`` for RGB PNGs of the classes' colors, ``overlay`` for the
            photographs tinted by class, ``json`` for :func:`as_json`.
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
        result = result_of(path, folder, style)
        if style == "labels":
            save_labels(labels, result, command=COMMAND, classes=session.classes)
        elif style == "overlay":
            save_overlay(image, labels, result, command=COMMAND, classes=session.classes)
        elif style == "color":
            save_png(Image.fromarray(color_mask(labels, session.classes)), result, command=COMMAND)
        else:
            write_text(result, json.dumps(as_json(labels, path.name, session.name, session.classes)) + "\n")
        yield path, None


def as_json(labels: UInt8Array, image: str, model: str, classes: ClassSet) -> dict[str, Any]:
    """A label map in plain values.

    Args:
        labels: uint8 (H, W).
        image: name of the file.
        model: name of the session.
        classes: what the labels mean.

    Returns:
        Size, each class that occurs (pixels, share of the image, box as left, top, right, bottom in pixels, the last
        two exclusive), and ``runs``: label and length of each run of equal pixels, row by row.
    """
    height, width = labels.shape
    shown = []
    for index in np.flatnonzero(np.bincount(labels.ravel(), minlength=len(classes))).tolist():
        rows, columns = np.nonzero(labels == index)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        shown.append(
            {
                "index": index,
                "name": classes.names[index],
                "color": [*classes.palette[index]],
                "pixels": len(rows),
                "share": round(len(rows) / labels.size, 6),
                "box": [int(side) for side in box],
            }
        )
    flat = labels.ravel()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(starts, flat.size))
    return {
        "made_by": f"fptk {COMMAND}",
        "schema_version": 1,
        "image": image,
        "model": model,
        "width": width,
        "height": height,
        "classes": shown,
        "runs": np.stack([flat[starts], lengths], axis=1).tolist(),
    }


def result_of(image: Path, folder: Path, style: Style = "labels") -> Path:
    """Where the result of an image is written."""
    return folder / f"{image.stem}.{'json' if style == 'json' else 'png'}"
