"""Preprocessing, stated once for training, calibration, evaluation and every engine.

:class:`PreprocessSpec` says how a photograph becomes the uint8 tensor that an engine takes, and how that tensor is
normalised inside the exported graph. Its hash is written into every artefact: two artefacts with the same hash see
the same numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from fptk.dataset import UInt8Array
from fptk.errors import InputError
from fptk.files import sha256_json

SIZE_MULTIPLE = 32
"""Input height and width must be multiples of this: the deepest stage of the networks has stride 32."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

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


def read_image(path: Path) -> UInt8Array:
    """Decode a photograph to uint8 (H, W, 3) RGB, upright by its EXIF orientation.

    Raises:
        InputError: the file is missing, truncated or no image.
    """
    with _opened(path, "image") as image:
        try:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"image {path} is damaged ({error}); replace or remove it") from error


def read_mask(path: Path) -> UInt8Array:
    """Decode an index mask (8-bit palette or grey PNG) to uint8 (H, W), checked to hold labels 0-18 only.

    Raises:
        InputError: the file is missing, truncated, no 8-bit single-channel image, lossy, or holds a label above 18.
    """
    from fptk.classes import NUM_CLASSES

    with _opened(path, "mask") as image:
        if image.mode not in ("P", "L"):
            raise InputError(
                f"mask {path} has mode {image.mode}; expected an 8-bit palette or grey PNG of class indices"
            )
        if image.format in ("JPEG", "MPO"):
            raise InputError(f"mask {path} is JPEG, whose losses change labels; save the original labels as PNG")
        try:
            mask = np.array(image)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"mask {path} is damaged ({error}); replace or remove it") from error
    highest = int(mask.max(initial=0))
    if highest >= NUM_CLASSES:
        raise InputError(f"mask {path} holds label {highest}; the {NUM_CLASSES} classes are 0-{NUM_CLASSES - 1}")
    return mask


def _opened(path: Path, what: str) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except UnidentifiedImageError:
        raise InputError(f"{what} {path} is not an image file (its content is no format that Pillow reads)") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} {path} cannot be read: {error}") from error
