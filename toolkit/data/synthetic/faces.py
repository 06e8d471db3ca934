"""Synthetic faces with exact masks: a data set that needs no download and never runs out.

Portraits are drawn from signed distance fields: head, hair, clothes and belongings of a person drawn by lot, with all
19 classes of CelebAMask-HQ. They serve the demo, the tests and the first run of every command.
"""

from __future__ import annotations

import numpy as np

from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import Sample, UInt8Array, pixel_hash
from fptk.core.errors import InputError
from fptk.data.synthetic.backdrop import paint_backdrop
from fptk.data.synthetic.body import paint_body
from fptk.data.synthetic.canvas import Canvas, Dice, Frame
from fptk.data.synthetic.hair import draw_cut, paint_back_hair, paint_curtains, paint_front_hair, paint_strand
from fptk.data.synthetic.head import paint_brows, paint_ears, paint_eyes, paint_face, paint_mouth, paint_nose
from fptk.data.synthetic.traits import draw_looks, draw_pose
from fptk.data.synthetic.wear import paint_earrings, paint_glasses, paint_hand, paint_hat, paint_object


def draw_face(seed: int, index: int, size: tuple[int, int]) -> tuple[UInt8Array, UInt8Array]:
    """Draw one person.

    The person depends on ``seed`` and ``index`` alone: another size shows the same face, finer or coarser (of a
    picture that is not square, the longer side shows more of the surroundings). Equal arguments give equal bytes.

    Args:
        seed: which series of faces, at least 0.
        index: which face of the series, at least 0.
        size: height and width in pixels.

    Returns:
        The image, uint8 (H, W, 3) RGB, anti-aliased, and the mask, uint8 (H, W): the class (0-18) of the topmost shape
        that covers the pixel's centre. Left and right are the subject's. Lenses belong to the glasses (``eye_g``);
        a hand or a thing before the face is background, a loose lock is hair.
    """
    dice = Dice(seed, index)
    canvas = Canvas(size)
    pose, looks = draw_pose(dice, size), draw_looks(dice)
    cut = draw_cut(dice, looks)
    paint_backdrop(canvas, dice)
    paint_back_hair(canvas, pose, looks, cut)
    paint_body(canvas, pose, looks, dice)
    paint_curtains(canvas, pose, looks, cut)
    paint_ears(canvas, pose, looks)
    paint_face(canvas, pose, looks)
    paint_mouth(canvas, pose, looks, dice)
    paint_eyes(canvas, pose, looks, dice)
    paint_nose(canvas, pose, looks)
    paint_brows(canvas, pose, looks, dice)
    paint_glasses(canvas, pose, looks, dice)
    paint_front_hair(canvas, pose, looks, cut)
    paint_earrings(canvas, pose, looks, dice)
    if looks.occluder == "strand":
        paint_strand(canvas, pose, looks, cut, dice)
    paint_hat(canvas, pose, looks, cut.volume, dice)
    if looks.occluder == "hand":
        paint_hand(canvas, pose, looks, dice)
    elif looks.occluder == "object":
        paint_object(canvas, pose, dice)
    return _develop(canvas, dice, np.random.SeedSequence([seed, index, 1])), canvas.labels


def _develop(canvas: Canvas, dice: Dice, noise_seed: np.random.SeedSequence) -> UInt8Array:
    """Turn the canvas into a photograph: exposure, colour cast, uneven light and the noise of a sensor."""
    patch = Frame(canvas.size, (0.0, 0.0), 1.0, 0.0).box(-9, -9, 9, 9)
    exposure = dice.between(0.82, 1.12)
    light = exposure + dice.between(-0.22, 0.22) * patch.p + dice.between(-0.12, 0.12) * patch.q
    cast = np.array([dice.between(0.93, 1.07) for _ in range(3)], dtype=np.float32)[:, None, None]
    level = dice.between(1.0, 5.0) / 256
    generator = np.random.Generator(np.random.PCG64(noise_seed))
    grain = np.frombuffer(generator.bytes(2 * canvas.image.size), dtype=np.uint8).reshape(2, *canvas.image.shape)
    image = canvas.image * light * (cast * 255)
    image += (grain[0].astype(np.float32) - grain[1].astype(np.float32)) * np.float32(level)
    return np.ascontiguousarray(np.minimum(np.maximum(image + 0.5, 0), 255).astype(np.uint8).transpose(1, 2, 0))


class SyntheticFaces:
    """A :class:`~fptk.core.dataset.FaceParsingDataset` of drawn faces; nothing is stored.

    Two sets with the same ``seed`` share no face where their ranges ``start`` to ``start + count`` don't overlap.
    """

    def __init__(self, count: int, size: tuple[int, int] = (128, 128), seed: int = 0, start: int = 0) -> None:
        """Make a set of ``count`` faces of ``size`` = (height, width), the first being number ``start`` of the seed.

        Raises:
            InputError: a number is negative or a side is below 1.
        """
        if min(count, seed, start) < 0 or min(size) < 1:
            raise InputError(
                f"synthetic faces: count {count}, size {size}, seed {seed}, start {start} found; "
                "sides of at least 1 and no negative number expected"
            )
        self.count, self.size, self.seed, self.start = count, size, seed, start
        self.classes = CELEBAMASK
        self.name = f"synthetic faces (seed {seed}, {start} to {start + count})"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        """Face ``index`` (0 <= index < len): image uint8 (H, W, 3) RGB, mask uint8 (H, W).

        Raises:
            IndexError: beyond either end.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"face {index} asked of {self.count}")
        image, mask = draw_face(self.seed, self.start + index, self.size)
        return Sample(image, mask, f"synthetic-{self.seed}-{self.start + index:06d}")

    def content_hash(self, index: int) -> str:
        """sha256 (hex) of the image's size and bytes: it has no file."""
        return pixel_hash(self[index].image)

    pixel_hash = content_hash
