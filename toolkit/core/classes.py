"""The 19 classes of CelebAMask-HQ: names, colours and the left/right swap, stated once.

A mask stores the class index as its pixel value. Left and right are the subject's own, so the left eye stands
right of the right eye in an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CLASSES: tuple[str, ...] = (
    "background",
    "skin",
    "nose",
    "eye_g",
    "l_eye",
    "r_eye",
    "l_brow",
    "r_brow",
    "l_ear",
    "r_ear",
    "mouth",
    "u_lip",
    "l_lip",
    "hair",
    "hat",
    "ear_r",
    "neck_l",
    "neck",
    "cloth",
)
"""Name of each class, in index order (``eye_g`` is glasses, ``ear_r`` earring, ``neck_l`` necklace)."""

NUM_CLASSES = len(CLASSES)

CLASS_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(CLASSES)})

PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 0, 0),
    (204, 0, 0),
    (76, 153, 0),
    (204, 204, 0),
    (51, 51, 255),
    (204, 0, 204),
    (0, 255, 255),
    (255, 204, 204),
    (102, 51, 0),
    (255, 0, 0),
    (102, 204, 0),
    (255, 255, 0),
    (0, 0, 153),
    (0, 0, 204),
    (255, 51, 153),
    (0, 204, 204),
    (0, 51, 0),
    (255, 153, 51),
    (0, 204, 0),
)
"""RGB colour of each class (0-255), those of the CelebAMask-HQ release."""

SWAP_PAIRS: tuple[tuple[int, int], ...] = ((4, 5), (6, 7), (8, 9))
"""Classes that a horizontal flip exchanges: eyes, brows, ears."""


def swap_table() -> tuple[int, ...]:
    """Lookup table of length 19 that maps each class to its class after a horizontal flip."""
    table = list(range(NUM_CLASSES))
    for left, right in SWAP_PAIRS:
        table[left], table[right] = right, left
    return tuple(table)


def flat_palette() -> list[int]:
    """The palette as Pillow wants it: 768 numbers, R G B of 256 colours, unused ones black."""
    flat = [channel for color in PALETTE for channel in color]
    return flat + [0] * (768 - len(flat))
