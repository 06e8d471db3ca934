"""Preprocessing, stated once for training, calibration, evaluation and every engine.

:class:`PreprocessSpec` says how a photograph becomes the uint8 tensor that an engine takes, and how that tensor is
normalised inside the exported graph. Its hash is written into every artefact: two artefacts with the same hash see
the same numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.files import reason_of, sha256_json

SIZE_MULTIPLE = 32
"""Input height and width must be multiples of this: the deepest stage of the networks has stride 32."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pillow warns of large pictures, odd EXIF blocks and palettes with transparency. None of it changes what is decoded
# here, and a damaged file is an error anyway. `catch_warnings` would not do: batches are decoded in threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION = 0x0112
"""EXIF tag: how the stored pixels have to be turned."""

_UPRIGHT = 1

_PROGRAMS = ("EPS", "WMF")
"""Formats that Pillow hands to another program to be drawn."""

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


class PreprocessSpec(BaseModel):
    """How an image becomes the network's input.

    The image is resized to ``size`` (aspect ratio not kept: CelebAMask-HQ faces are square crops), stays uint8 RGB,
    and is normalised in the graph as ``(x / 255 - mean) / std`` per channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[int, int] = (512, 512)
    """Height and width in pixels, each a multiple of 32."""
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """Pillow's resampling filter; bilinear and bicubic widen their support when they shrink (antialiasing)."""
    colour: Literal["RGB"] = "RGB"
    """Channel order of the engine's input."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Per-channel mean of pixels scaled to 0-1."""
    std: tuple[float, float, float] = Field(default=IMAGENET_STD)
    """Per-channel standard deviation of pixels scaled to 0-1; positive."""

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: tuple[int, int]) -> tuple[int, int]:
        if any(side < SIZE_MULTIPLE or side % SIZE_MULTIPLE for side in size):
            raise ValueError(f"size {size[0]}x{size[1]} is not a positive multiple of {SIZE_MULTIPLE}")
        return size

    @field_validator("std")
    @classmethod
    def _check_std(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"std {std} must be positive")
        return std

    @property
    def sha256(self) -> str:
        """Hash of every field: equal hashes mean equal preprocessing."""
        return sha256_json(self.model_dump(mode="json"))

    def apply(self, image: UInt8Array) -> UInt8Array:
        """Resize one image, uint8 (H, W, 3) RGB, to uint8 (size[0], size[1], 3)."""
        height, width = self.size
        if image.shape[:2] == (height, width):
            return image
        return np.array(Image.fromarray(image).resize((width, height), _FILTERS[self.resize]))

    def apply_mask(self, mask: UInt8Array) -> UInt8Array:
        """Resize one label map, uint8 (H, W), to ``size`` by nearest neighbour: labels are never mixed."""
        return resize_labels(mask, self.size)


def resize_labels(labels: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    """Resize a label map, uint8 (H, W), to ``size`` = (height, width) by nearest neighbour."""
    if labels.shape == size:
        return labels
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def check_size(height: int, width: int) -> tuple[int, int]:
    """Return ``(height, width)`` if a network takes it.

    Raises:
        InputError: a side is no positive multiple of 32.
    """
    if min(height, width) < SIZE_MULTIPLE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        near = [max(1, (side + SIZE_MULTIPLE // 2) // SIZE_MULTIPLE) * SIZE_MULTIPLE for side in (height, width)]
        raise InputError(
            f"size {height}x{width} is no multiple of {SIZE_MULTIPLE}; the nearest that fits is {near[0]}x{near[1]}"
        )
    return height, width


class Decoded(NamedTuple):
    """A picture file's pixels.

    Attributes:
        pixels: uint8 (H, W, 3) RGB of a photograph, uint8 (H, W) labels of a mask; upright.
        turned: whether the file's EXIF orientation had to be applied for that.
    """

    pixels: UInt8Array
    turned: bool


def read_image(path: Path) -> UInt8Array:
    """Decode a photograph to uint8 (H, W, 3) RGB, upright by its EXIF orientation. 16-bit grey is scaled to 8 bits.

    Raises:
        InputError: the file is missing, no regular file, truncated or no image.
    """
    return decode_image(path).pixels


def decode_image(path: Path) -> Decoded:
    """:func:`read_image`, which also says whether EXIF turned the picture."""
    with opened_image(path) as image, decoding("image", path):
        turned = is_turned(image)
        upright = ImageOps.exif_transpose(image) if turned else image
        if upright.mode.startswith("I"):
            return Decoded(_gray_to_rgb(path, upright), turned)
        if upright.mode == "F":
            raise InputError(f"image {path} holds floating-point values; save it with 8 bits a channel")
        return Decoded(np.array(upright.convert("RGB")), turned)


def decode_small(path: Path) -> tuple[tuple[int, int], UInt8Array | None]:
    """Width and height of a photograph as stored, and what a JPEG shows at an eighth of that: brightness, upright.

    libjpeg makes the small picture of one coefficient a block, so it takes a tenth of the time. Files with the same
    coefficients, e.g. without their EXIF block or with other Huffman tables, have the same small picture.

    Returns:
        The size, and uint8 (h, w), or None where the file is no JPEG.

    Raises:
        InputError: the file is missing, no regular file, truncated or no image.
    """
    with opened_image(path) as image:
        width, height = image.size
        if image.format not in ("JPEG", "MPO"):
            return (width, height), None
        with decoding("image", path):
            image.draft("L", (max(1, width // 8), max(1, height // 8)))
            upright = ImageOps.exif_transpose(image) if is_turned(image) else image
            return (width, height), np.array(upright.convert("L"))


def is_turned(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION, _UPRIGHT) in range(2, 9)


def _gray_to_rgb(path: Path, image: Image.Image) -> UInt8Array:
    """Scale 16-bit grey to 8 bits, rounded. Pillow itself would cut everything above 255.

    Raises:
        InputError: the values need more than 16 bits.
    """
    gray = np.array(image).astype(np.int64)
    if gray.min(initial=0) < 0 or gray.max(initial=0) > 65535:
        raise InputError(f"image {path} holds 32-bit values ({gray.min()} to {gray.max()}); save it with 8 bits")
    return np.repeat(((gray * 255 + 32767) // 65535).astype(np.uint8)[..., None], 3, axis=2)


@contextlib.contextmanager
def decoding(what: str, path: Path) -> Iterator[None]:
    """Turn what Pillow raises of a damaged file, which is of many kinds, into the one line."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{what} {path} is damaged ({reason}); replace or remove it") from error


def regular_file(path: Path, what: str) -> os.stat_result:
    """Status of ``path``, which must be a regular file: opening a FIFO or a device could wait for ever.

    Args:
        path: the file.
        what: how errors call it.

    Raises:
        InputError: it does not exist, is something else, or the system refuses to say.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read: {reason_of(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a FIFO, device or socket"
        raise InputError(f"{what} {path} cannot be read: it is {kind}, not a regular file")
    return status


def opened_image(path: Path, what: str = "image") -> Image.Image:
    """Open a picture without decoding it; the caller closes it.

    Raises:
        InputError: the file is missing, no regular file or no image.
    """
    regular_file(path, what)
    try:
        image = Image.open(path)
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"{what} {path} is not an image file (its content is no format that Pillow reads)") from None
    except MemoryError:
        raise
    except Exception as error:  # of many kinds where a header is damaged
        raise InputError(f"{what} {path} cannot be read: {' '.join(reason_of(error).split())}") from error
    if image.format in _PROGRAMS:
        image.close()
        raise InputError(f"{what} {path} is {image.format}, a program that draws; save it as a picture, e.g. PNG")
    return image
