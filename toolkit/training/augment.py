"""Random geometry and colour of a training image, drawn per sample, applied in one resampling and one matrix.

Crop, flip, rotation, zoom and shift are one affine map, so an image is resampled once, straight from its decoded size
to the training size (Pillow, uint8, outside the interpreter's lock). Sharpness, blur and noise follow on the resampled
pixels. Exposure, brightness, contrast and saturation are one 3x3 matrix and an offset per image, which the training
device applies to the whole batch together with the normalisation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from fptk.core.classes import ClassSet
from fptk.core.dataset import Sample, UInt8Array
from fptk.core.masks import class_counts
from fptk.core.preprocess import PreprocessSpec
from fptk.recipes.schema import AugmentSection

Float32Array = npt.NDArray[np.float32]

GRAY = np.array([0.299, 0.587, 0.114])
"""Luma of R, G, B (ITU-R BT.601)."""

_REDUCE_ABOVE = 1.75
"""Source pixels per target pixel above which the image is averaged first: bilinear sampling alone would alias."""


@dataclass(frozen=True)
class Draw:
    """Parameters of one augmented sample."""

    flip: bool = False
    """Mirror left and right."""
    swap_labels: bool = True
    """Exchange left and right labels with the mirror."""
    degrees: float = 0.0
    """Rotation, counter-clockwise."""
    zoom: float = 1.0
    """Magnification of the face."""
    shift: tuple[float, float] = (0.0, 0.0)
    """Shift right and down, as shares of width and height."""
    crop: float = 1.0
    """Side of the part of the photograph that is shown, as a share of its own; ``zoom`` includes the enlargement."""
    center: tuple[float, float] = (0.5, 0.5)
    """Centre of that part, as shares of width and height."""
    focus: tuple[float, float] | None = None
    """Instead of ``center``: which of the classes present, and which of its pixels, to centre on; each 0-1."""
    brightness: float = 1.0
    """Factor on the channels."""
    contrast: float = 1.0
    """Factor on the distance from the image's mean grey."""
    saturation: float = 1.0
    """Factor on the distance from each pixel's grey."""
    sharpness: float = 1.0
    """Factor on the distance from a smoothed image."""
    blur: float = 0.0
    """Standard deviation of a Gaussian blur, in pixels of the result."""
    noise: float = 0.0
    """Standard deviation of Gaussian noise, as a share of white."""
    noise_seed: int = 0
    """Which noise."""


class Warped(NamedTuple):
    """A sample ready for the training device."""

    image: UInt8Array
    """uint8 (H, W, 3), geometry applied, colour not yet."""
    mask: UInt8Array
    """uint8 (H, W)."""
    color: Float32Array
    """float32 (3, 4): ``colour[:, :3] @ rgb + colour[:, 3]`` on values 0-255."""


def draw(section: AugmentSection, rng: np.random.Generator) -> Draw:
    """Draw one sample's parameters; always the same count of numbers, so that switching one off moves no other."""
    coin, *unit = rng.random(8)
    signed = [2 * u - 1 for u in unit]
    side, right, down, focused, which, where, stops, sharp, blurred, noisy = rng.random(
        10
    ).tolist()  # Pillow wants plain numbers
    noise_seed = int(rng.integers(2**32))
    low, high = section.scale
    crop = 1 - (1 - section.crop) * side
    return Draw(
        flip=section.flip != "none" and coin < 0.5,
        swap_labels=section.flip != "unswapped",
        degrees=section.rotate_deg * signed[0],
        zoom=math.exp(math.log(low) + unit[1] * (math.log(high) - math.log(low))) / crop,
        shift=(section.translate * signed[2], section.translate * signed[3]),
        crop=crop,
        center=(_inside(right, crop), _inside(down, crop)),
        focus=(which, where) if focused < section.crop_on_class else None,
        brightness=(1 + section.brightness * signed[4]) * 2 ** (section.exposure * (2 * stops - 1)),
        contrast=1 + section.contrast * signed[5],
        saturation=1 + section.saturation * signed[6],
        sharpness=1 + section.sharpness * (2 * sharp - 1),
        blur=section.blur * blurred,
        noise=section.noise * noisy,
        noise_seed=noise_seed,
    )


def _inside(share: float, side: float) -> float:
    """Centre of a part of length ``side`` that lies at ``share`` (0-1) of the way it can go within 0 to 1."""
    return side / 2 + share * (1 - side)


def focus_center(mask: UInt8Array, drawn: Draw, count: int) -> tuple[float, float]:
    """Centre of the part to show.

    With a focus, every class present in the image is as likely as any other to be centred on, so a necklace as likely
    as the skin (class-balanced crops). The part stays inside the photograph.

    Args:
        mask: uint8 (H, W).
        drawn: ``crop``, ``center`` and ``focus``.
        count: number of classes.

    Returns:
        Shares of width and height.
    """
    pixels = None if drawn.focus is None else class_counts(mask, count)
    if drawn.focus is None or pixels is None or not pixels.any():
        return drawn.center
    label, rank = focus_rank(pixels, drawn.focus)
    row, column = divmod(int(np.flatnonzero(mask == label)[rank]), mask.shape[1])
    margin = drawn.crop / 2
    x, y = ((place + 0.5) / side for place, side in ((column, mask.shape[1]), (row, mask.shape[0])))
    return min(max(x, margin), 1 - margin), min(max(y, margin), 1 - margin)


def focus_rank(pixels: npt.NDArray[np.int64], focus: tuple[float, float]) -> tuple[int, int]:
    """The class to centre on, and which of its pixels, counted row by row.

    Args:
        pixels: number of each class's pixels in the mask, not all 0.
        focus: see :class:`Draw`.
    """
    which, where = focus
    present = np.flatnonzero(pixels)
    label = int(present[int(which * len(present))])
    return label, int(where * pixels[label])


def warp(sample: Sample, drawn: Draw, size: tuple[int, int], spec: PreprocessSpec, classes: ClassSet) -> Warped:
    """Apply a draw to a sample.

    The image is resampled bilinearly, the mask by nearest neighbour. What comes from outside the photograph has the
    mean colour, so it is 0 after the normalisation, and the label :attr:`~fptk.core.classes.ClassSet.outside`.

    Args:
        sample: image and mask of any size.
        drawn: the parameters.
        size: height and width of the result.
        spec: whose mean fills the outside.
        classes: what the mask holds.
    """
    image, mask = Image.fromarray(sample.image), Image.fromarray(sample.mask)
    factor = reduction(sample.mask.shape, size, drawn.zoom)
    if factor > 1:
        image = image.reduce(factor)
    fill = tuple(round(255 * value) for value in spec.mean)
    drawn = replace(drawn, center=focus_center(sample.mask, drawn, len(classes)))
    turned = _filtered(_transform(image, drawn, size, Image.Resampling.BILINEAR, fill), drawn)
    labels = np.asarray(_transform(mask, drawn, size, Image.Resampling.NEAREST, classes.outside))
    if drawn.flip and drawn.swap_labels:
        labels = swap_labels(classes)[labels]
    return Warped(turned, labels, color_matrix(drawn, float(turned[::4, ::4].mean(axis=(0, 1)) @ GRAY)))


@lru_cache(maxsize=4)
def swap_labels(classes: ClassSet) -> UInt8Array:
    """Label of each label after a horizontal flip, uint8 (256,)."""
    return np.array(classes.swap_table(), np.uint8)


def reduction(source: tuple[int, ...], size: tuple[int, int], zoom: float) -> int:
    """How many pixels of the photograph, along each side, are averaged into one before the resampling; 1 for none.

    Args:
        source: height and width of the photograph.
        size: height and width of the result.
        zoom: magnification.
    """
    return max(1, int(min(source[0] / size[0], source[1] / size[1]) / zoom + (2 - _REDUCE_ABOVE)))


def turn(source: tuple[int, int], size: tuple[int, int], drawn: Draw) -> tuple[float, float, float, float]:
    """Linear part of the map from pixels of the result (x, y) to those of the source: a x + b y and d x + e y.

    Args:
        source: height and width of the (reduced) photograph.
        size: height and width of the result.
        drawn: ``flip``, ``degrees`` and ``zoom``.
    """
    angle = math.radians(drawn.degrees)
    scale_y, scale_x = (each / other / drawn.zoom for each, other in zip(source, size, strict=True))
    mirror = -1.0 if drawn.flip else 1.0
    return (
        mirror * scale_x * math.cos(angle),
        -mirror * scale_x * math.sin(angle),
        scale_y * math.sin(angle),
        scale_y * math.cos(angle),
    )


def _transform(
    image: Image.Image, drawn: Draw, size: tuple[int, int], resampling: Image.Resampling, fill: float | tuple[int, ...]
) -> Image.Image:
    """Resample under the affine map; Pillow wants the map from target pixels (of 0.5 centres) to source pixels."""
    height, width = size
    a, b, d, e = turn((image.height, image.width), size, drawn)
    center_x, center_y = width * (0.5 + drawn.shift[0]), height * (0.5 + drawn.shift[1])
    c = image.width * drawn.center[0] - a * center_x - b * center_y
    f = image.height * drawn.center[1] - d * center_x - e * center_y
    return image.transform((width, height), Image.Transform.AFFINE, (a, b, c, d, e, f), resampling, fillcolor=fill)


def _filtered(image: Image.Image, drawn: Draw) -> UInt8Array:
    """Sharpness, blur and noise, in this order."""
    if drawn.sharpness != 1:
        image = ImageEnhance.Sharpness(image).enhance(drawn.sharpness)
    if drawn.blur:
        image = image.filter(ImageFilter.GaussianBlur(drawn.blur))
    pixels: UInt8Array = np.asarray(image)
    if drawn.noise:
        noise = np.random.default_rng(drawn.noise_seed).standard_normal(pixels.shape, np.float32)
        pixels = np.clip(np.rint(pixels + 255 * drawn.noise * noise), 0, 255).astype(np.uint8)
    return pixels


def color_matrix(drawn: Draw, mean_gray: float) -> Float32Array:
    """Brightness, then contrast about ``mean_gray`` (0-255), then saturation, as one float32 (3, 4) map of RGB."""
    gain = drawn.brightness * drawn.contrast
    offset = drawn.brightness * mean_gray * (1 - drawn.contrast)
    saturate = drawn.saturation * np.eye(3) + (1 - drawn.saturation) * np.tile(GRAY, (3, 1))
    return np.concatenate([gain * saturate, np.full((3, 1), offset)], axis=1).astype(np.float32)


@lru_cache(maxsize=16)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``values`` on ``device``, float32; copied there once, because each copy makes a step wait for the device."""
    return torch.tensor(values, device=device)


def normalized(images: Tensor, color: Tensor, spec: PreprocessSpec) -> Tensor:
    """Colour and normalise a batch on its device.

    Args:
        images: uint8 (B, H, W, 3).
        colour: float32 (B, 3, 4) of :func:`color_matrix`; results are clipped to 0-255 as a photograph would be.
        spec: mean and standard deviation.

    Returns:
        float32 (B, 3, H, W), channels-last in memory.
    """
    B, H, W, _ = images.shape
    mean, std = (constant(values, images.device) for values in (spec.mean, spec.std))
    matrix = color[:, :, :3].transpose(1, 2) / (255 * std)
    offset = (color[:, :, 3] / 255 - mean) / std
    pixels = torch.baddbmm(offset.unsqueeze(1), images.reshape(B, H * W, 3).float(), matrix)
    pixels = torch.clamp(pixels, min=-mean / std, max=(1 - mean) / std)
    return pixels.view(B, H, W, 3).permute(0, 3, 1, 2)
