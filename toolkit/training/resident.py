"""The training set decoded in the memory of the training device, so that a step reads no file and copies no image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from fptk.core.classes import ClassSet
from fptk.core.dataset import Sample
from fptk.core.masks import class_counts
from fptk.core.progress import SILENT, Listener, track
from fptk.training.ahead import ahead

BYTES_A_PIXEL = 4
"""Red, green, blue and the label of a pixel are one 32-bit word: one read from memory fetches them all."""
_SHARE_OF_MEMORY = 0.4
"""Of the device's free memory; the rest is the network's. Making the set one block takes it twice for a moment."""


@dataclass(frozen=True)
class Level:
    """All images of one resolution, one after another."""

    words: Tensor
    """int32 (P,) on the device: red + 256 green + 65536 blue + 2**24 label; only full resolution has labels."""
    starts: npt.NDArray[np.int64]
    """(N,), first word of each image."""
    sizes: npt.NDArray[np.int64]
    """(N, 2), height and width of each image."""

    def __len__(self) -> int:
        return len(self.starts)


class Resident:
    """Decoded images and masks on a device.

    Args:
        full: all images at their own size, with labels.
        class_pixels: int64 (N, C), pixels of each class in each mask.
        classes: what the masks hold.
    """

    def __init__(self, full: Level, class_pixels: npt.NDArray[np.int64], classes: ClassSet) -> None:
        self.class_pixels, self.classes = class_pixels, classes
        self._levels = {1: full}

    @property
    def full(self) -> Level:
        """The images at their own size."""
        return self._levels[1]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.full.words.device

    @property
    def bytes(self) -> int:
        """Memory that they take."""
        return sum(level.words.nbytes for level in self._levels.values())

    def level(self, factor: int) -> Level:
        """All images, each ``factor`` x ``factor`` pixels averaged into one (as Pillow's ``reduce``), without labels.

        It is made when it is first asked for, and kept.
        """
        if factor not in self._levels:
            self._levels[factor] = _reduced(self.full, factor)
        return self._levels[factor]


def fits(read: Callable[[int], Sample], count: int, device: torch.device) -> bool:
    """Whether ``count`` images like the first one find room on a CUDA ``device`` beside a network."""
    free, _ = torch.cuda.mem_get_info(device)
    return count * read(0).mask.size * BYTES_A_PIXEL <= free * _SHARE_OF_MEMORY


def load(
    read: Callable[[int], Sample],
    count: int,
    device: torch.device,
    workers: int,
    classes: ClassSet,
    listener: Listener = SILENT,
) -> Resident:
    """Decode a whole data set onto a device.

    Args:
        read: the sample at an index; called from several threads.
        count: number of images, at least 1.
        device: where they go.
        workers: threads that decode.
        classes: what the masks hold.
        listener: told how many are there.

    Raises:
        InputError: an image or mask is damaged.
    """
    words: list[Tensor] = []
    sizes: list[tuple[int, ...]] = []
    counts: list[npt.NDArray[np.int64]] = []
    packs = ahead(lambda index: _packed(read(index), len(classes)), count, workers)
    for packed, size, pixels in track(listener, packs, "decoding", count):
        words.append(torch.from_numpy(packed).to(device))
        sizes.append(size)
        counts.append(pixels)
    extents = np.array(sizes, np.int64)
    return Resident(Level(torch.cat(words), _starts(extents), extents), np.stack(counts), classes)


def _packed(sample: Sample, classes: int) -> tuple[npt.NDArray[np.int32], tuple[int, ...], npt.NDArray[np.int64]]:
    """Words (H W,), size and pixels of each class of one sample."""
    words = np.empty((*sample.mask.shape, 4), np.uint8)
    words[..., :3], words[..., 3] = sample.image, sample.mask
    counts = class_counts(sample.mask, classes)
    return words.view("<i4").ravel().astype(np.int32, copy=False), sample.mask.shape, counts


def _starts(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes.prod(axis=1))[:-1]])


def _reduced(full: Level, factor: int) -> Level:
    """See :meth:`Resident.level`."""
    sizes = -(-full.sizes // factor)
    starts = _starts(sizes)
    words = torch.empty(int(sizes.prod(axis=1).sum()), dtype=torch.int32, device=full.words.device)
    for index, (height, width) in enumerate(full.sizes.tolist()):
        own = full.words[int(full.starts[index]) :][: height * width].view(height, width)
        channels = torch.stack([own >> shift & 255 for shift in (0, 8, 16)]).float()
        mean = F.avg_pool2d(channels[None], factor, ceil_mode=True, count_include_pad=False)[0]
        red, green, blue = (mean + 0.5).int()
        start = int(starts[index])
        words[start : start + red.numel()] = (red | green << 8 | blue << 16).flatten()
    return Level(words, starts, sizes)
