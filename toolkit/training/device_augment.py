"""The augmentation of :mod:`fptk.training.augment` for a whole batch on the training device.

Draws and order of the operations are the same, and so is the arithmetic of the resampling: bilinear with Pillow's
rounding for images, nearest for labels, the mean colour outside. Images agree with the CPU's to one level of 255, but
for noise, whose numbers come from the device's own generator; labels agree but for pixels that lie on a border.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fptk.core.classes import ClassSet
from fptk.core.preprocess import PreprocessSpec
from fptk.training.augment import GRAY, constant, focus_rank, reduction, turn
from fptk.training.positions import Pick
from fptk.training.resident import Level, Resident

_PIXELS_AT_ONCE = 1 << 23
"""Of results, in one resampling; it bounds the memory for coordinates."""


_BOXES = 3
"""Box filters that make a Gaussian."""


class WarpedBatch(NamedTuple):
    """As :class:`fptk.training.augment.Warped`, for a batch, on the device."""

    images: Tensor
    """uint8 (B, H, W, 3)."""
    masks: Tensor
    """uint8 (B, H, W)."""
    color: Tensor
    """float32 (B, 3, 4)."""

    def split(self, count: int) -> tuple[WarpedBatch, WarpedBatch]:
        """The first ``count`` images, and the others."""
        images, masks, color = self
        first = WarpedBatch(images[:count], masks[:count], color[:count])
        return first, WarpedBatch(images[count:], masks[count:], color[count:])


class Layout(NamedTuple):
    """What the host knows of a batch: a table that goes to the device in one copy."""

    picks: list[Pick]
    size: tuple[int, int]
    """Height and width of the results."""
    factors: list[int]
    """Reduction of each image before its resampling."""
    table: npt.NDArray[np.float64]
    """(B, columns), see :class:`_Columns`."""


class _Columns(NamedTuple):
    """Columns of a layout's table on the device, each float64 (B,)."""

    image_a: Tensor
    image_b: Tensor
    image_d: Tensor
    image_e: Tensor
    image_start: Tensor
    image_height: Tensor
    image_width: Tensor
    mask_a: Tensor
    mask_b: Tensor
    mask_d: Tensor
    mask_e: Tensor
    mask_start: Tensor
    mask_height: Tensor
    mask_width: Tensor
    center_x: Tensor
    center_y: Tensor
    shift_x: Tensor
    shift_y: Tensor
    swap: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def lay_out(pixels: Resident, picks: Sequence[Pick], size: tuple[int, int]) -> Layout:
    """Put what is drawn for a batch into a table; the host alone works.

    Args:
        pixels: the training set.
        picks: images and draws.
        size: height and width of the results.
    """
    rows, factors = [], []
    for index, drawn in picks:
        source = _extent(pixels.full, index)
        factor = reduction(source, size, drawn.zoom)
        level = pixels.level(factor)
        own = _extent(level, index)
        rows.append(
            (
                *turn(own, size, drawn),
                level.starts[index],
                *own,
                *turn(source, size, drawn),
                pixels.full.starts[index],
                *source,
                *drawn.center,
                *(0.5 + shift for shift in drawn.shift),
                drawn.flip and drawn.swap_labels,
                drawn.brightness,
                drawn.contrast,
                drawn.saturation,
            )
        )
        factors.append(factor)
    return Layout(list(picks), size, factors, np.array(rows, np.float64))


def warp_batch(pixels: Resident, layout: Layout, spec: PreprocessSpec) -> WarpedBatch:
    """Apply the draws of a batch; nothing waits for the device.

    Args:
        pixels: the training set.
        layout: of :func:`lay_out`.
        spec: whose mean fills the outside.
    """
    device, size = pixels.device, layout.size
    columns = _Columns(*_upload(layout.table, device).unbind(1))
    columns = _focused(columns, pixels, layout.picks)
    images = torch.empty((len(layout.picks), *size, 3), dtype=torch.uint8, device=device)
    masks = torch.empty((len(layout.picks), *size), dtype=torch.uint8, device=device)
    step = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
    for factor in sorted(set(layout.factors)):
        members = [at for at, own in enumerate(layout.factors) if own == factor]
        for first in range(0, len(members), step):
            part = members[first : first + step]
            where = _upload(np.array(part, np.int64), device)
            own = _Columns(*(column[where] for column in columns))
            images[where] = _image(pixels.level(factor).words, own, size, spec)
            masks[where] = _labels(pixels.full.words, own, size, pixels.classes)
    _filter(images, layout.picks)
    return WarpedBatch(images, masks, _color(columns, images))


def _extent(level: Level, index: int) -> tuple[int, int]:
    height, width = level.sizes[index].tolist()
    return height, width


def _upload(values: npt.NDArray[np.float64] | npt.NDArray[np.int64], device: torch.device) -> Tensor:
    """``values`` on the device; from pinned memory, so that the host does not wait for the copy."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def _focused(columns: _Columns, pixels: Resident, picks: Sequence[Pick]) -> _Columns:
    """Centres of crops that are to lie on a class moved there: ``fptk.training.augment.focus_center`` on the device."""
    center_x, center_y = columns.center_x, columns.center_y
    for at, (index, drawn) in enumerate(picks):
        if drawn.focus is None or not pixels.class_pixels[index].any():
            continue
        label, rank = focus_rank(pixels.class_pixels[index], drawn.focus)
        height, width = _extent(pixels.full, index)
        start = int(pixels.full.starts[index])
        is_label = _label(pixels.full.words[start : start + height * width]) == label
        place = torch.searchsorted(is_label.cumsum(0, dtype=torch.int32), rank + 1)
        margin = drawn.crop / 2
        center_x[at] = ((place % width + 0.5) / width).clamp(margin, 1 - margin)
        center_y[at] = ((place // width + 0.5) / height).clamp(margin, 1 - margin)
    return columns


class _Coordinates(NamedTuple):
    """Where the pixels of the results lie in their sources, each (B, H, W)."""

    x: Tensor
    """float32, from the left edge of the source."""
    y: Tensor
    """float32, from its upper edge."""
    inside: Tensor
    """bool."""


def _coordinates(
    linear: tuple[Tensor, Tensor, Tensor, Tensor], extent: tuple[Tensor, Tensor], own: _Columns, size: tuple[int, int]
) -> _Coordinates:
    """The affine map of each image, about its centre of crop."""
    a, b, d, e = linear
    height, width = extent
    middle_x, middle_y = size[1] * own.shift_x, size[0] * own.shift_y
    columns, rows = (torch.arange(side, device=a.device, dtype=torch.float64) + 0.5 for side in (size[1], size[0]))
    columns, rows = columns - middle_x[:, None], rows - middle_y[:, None]
    # Sums of a column's and a row's share: float64 costs nothing for those, and float32 is enough for their sum.
    x = _sums(a[:, None] * columns, b[:, None] * rows + (width * own.center_x)[:, None])
    y = _sums(d[:, None] * columns, e[:, None] * rows + (height * own.center_y)[:, None])
    right, lower = width.float()[:, None, None], height.float()[:, None, None]
    return _Coordinates(x, y, (x >= 0) & (x < right) & (y >= 0) & (y < lower))


def _sums(of_columns: Tensor, of_rows: Tensor) -> Tensor:
    """float32 (B, H, W) of (B, W) and (B, H)."""
    return of_rows.float()[:, :, None] + of_columns.float()[:, None, :]


def _image(words: Tensor, own: _Columns, size: tuple[int, int], spec: PreprocessSpec) -> Tensor:
    """Bilinear resampling, uint8 (B, H, W, 3)."""
    at = _coordinates(
        (own.image_a, own.image_b, own.image_d, own.image_e), (own.image_height, own.image_width), own, size
    )
    width, height, start = (
        column.long()[:, None, None] for column in (own.image_width, own.image_height, own.image_start)
    )
    left, top = (at.x - 0.5).floor(), (at.y - 0.5).floor()
    right_share, lower_share = at.x - 0.5 - left, at.y - 0.5 - top
    x, y = left.long(), top.long()
    x0, x1 = (torch.minimum(each.clamp(min=0), width - 1) for each in (x, x + 1))
    y0, y1 = (start + torch.minimum(each.clamp(min=0), height - 1) * width for each in (y, y + 1))
    corners = [words[row + column] for row in (y0, y1) for column in (x0, x1)]
    fill = [round(255 * value) for value in spec.mean]
    channels = []
    for shift, outside in zip((0, 8, 16), fill, strict=True):
        one, two, three, four = ((corner >> shift & 255).float() for corner in corners)
        upper, lower = torch.lerp(one, two, right_share), torch.lerp(three, four, right_share)
        value = torch.lerp(upper, lower, lower_share).to(torch.uint8)  # cuts off, as Pillow does
        channels.append(torch.where(at.inside, value, outside))
    return torch.stack(channels, dim=3)


def _labels(words: Tensor, own: _Columns, size: tuple[int, int], classes: ClassSet) -> Tensor:
    """Nearest neighbours, uint8 (B, H, W), left and right exchanged where the image is mirrored."""
    at = _coordinates((own.mask_a, own.mask_b, own.mask_d, own.mask_e), (own.mask_height, own.mask_width), own, size)
    width, height, start = (
        column.long()[:, None, None] for column in (own.mask_width, own.mask_height, own.mask_start)
    )
    x, y = torch.minimum(at.x.long().clamp(min=0), width - 1), torch.minimum(at.y.long().clamp(min=0), height - 1)
    labels = torch.where(at.inside, _label(words[start + y * width + x]), classes.outside)
    table = constant(tuple(float(label) for label in classes.swap_table()), words.device)
    return torch.where(own.swap.bool()[:, None, None], table[labels], labels.float()).to(torch.uint8)


def _label(words: Tensor) -> Tensor:
    """The last byte of each word; the shift alone would keep its sign."""
    return words >> 24 & 255


def _filter(images: Tensor, picks: Sequence[Pick]) -> None:
    """Sharpness, blur and noise, in this order and in place, of the images that drew any."""
    for at, (_, drawn) in enumerate(picks):
        if drawn.sharpness == 1 and not drawn.blur and not drawn.noise:
            continue
        image = images[at].permute(2, 0, 1).float()
        if drawn.sharpness != 1:
            smooth = _smoothed(image)
            image = torch.trunc(smooth + (image - smooth) * drawn.sharpness).clamp(0, 255)
        if drawn.blur:
            image = _blurred(image, drawn.blur)
        if drawn.noise:
            random = torch.Generator(images.device).manual_seed(drawn.noise_seed)
            image = image + 255 * drawn.noise * torch.randn(image.shape, generator=random, device=image.device)
        images[at] = image.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0)


def _smoothed(image: Tensor) -> Tensor:
    """Pillow's ``SMOOTH``: (1 1 1, 1 5 1, 1 1 1) / 13, the outermost pixels as they are; float (3, H, W) of 0-255."""
    around = F.avg_pool2d(image, 3, stride=1) * 9
    result = image.clone()
    result[:, 1:-1, 1:-1] = ((around + 4 * image[:, 1:-1, 1:-1]) / 13).round()
    return result


def _blurred(image: Tensor, deviation: float) -> Tensor:
    """Pillow's ``GaussianBlur``: three box filters along the rows and three along the columns, rounded after each.

    Args:
        image: float (3, H, W) of 0-255; its edge pixels are repeated outside.
        deviation: in pixels.
    """
    taps = box_taps(deviation)
    reach, kernel = len(taps) // 2, _upload(np.array(taps), image.device).float()
    for padding, shape in (((reach, reach, 0, 0), (1, 1, 1, -1)), ((0, 0, reach, reach), (1, 1, -1, 1))):
        for _ in range(_BOXES):
            padded = F.pad(image[None], padding, mode="replicate")[0]
            image = F.conv2d(padded[:, None], kernel.view(shape))[:, 0].round()
    return image


def box_taps(deviation: float) -> tuple[float, ...]:
    """Weights of a box of fractional radius; :data:`_BOXES` of them make a Gaussian.

    The radius is that of Gwosdek et al., Theoretical Foundations of Gaussian Convolution by Extended Box Filtering
    (2011), as in Pillow.
    """
    variance = deviation**2 / _BOXES
    whole = int((math.sqrt(12 * variance + 1) - 1) / 2)
    rest = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    inner = 1 / (2 * (whole + rest) + 1)
    return (rest * inner, *[inner] * (2 * whole + 1), rest * inner)


def _color(columns: _Columns, images: Tensor) -> Tensor:
    """As :func:`fptk.training.augment.color_matrix`, for a batch: float32 (B, 3, 4)."""
    luma = constant(tuple(GRAY.tolist()), images.device)
    mean_gray = images[:, ::4, ::4].float().mean(dim=(1, 2)) @ luma
    brightness, contrast, saturation = (
        column.float() for column in (columns.brightness, columns.contrast, columns.saturation)
    )
    gray, unit = luma.expand(3, 3), torch.eye(3, device=images.device)
    saturate = saturation[:, None, None] * unit + (1 - saturation)[:, None, None] * gray
    offset = (brightness * mean_gray * (1 - contrast))[:, None, None].expand(-1, 3, 1)
    return torch.cat([(brightness * contrast)[:, None, None] * saturate, offset], dim=2)
