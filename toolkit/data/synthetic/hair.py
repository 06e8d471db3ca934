"""Hair of a synthetic person: the part behind the head, the curtains beside it and the cap on top."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fptk.core.classes import CLASS_INDEX
from fptk.data.synthetic.canvas import (
    Canvas,
    Dice,
    FloatArray,
    Patch,
    hump,
    mix,
    noise_1d,
    noise_2d,
    ramp,
    scale,
    smooth_min,
    squircle,
    wave,
)
from fptk.data.synthetic.head import SIDES
from fptk.data.synthetic.traits import Looks, Pose

HAIR = CLASS_INDEX["hair"]


@dataclass(frozen=True)
class Cut:
    """Measures of a haircut, in head units.

    Attributes:
        volume: how far hair stands off the skull.
        length: height at which the long hair ends; None for hair that ends at the ears.
        part: where it is parted.
        hairline: height of the hair over the forehead.
        curl: amplitude of its waves.
        strands: random table of the strand texture.
    """

    volume: float
    length: float | None
    part: float
    hairline: float
    curl: float
    strands: FloatArray


def draw_cut(dice: Dice, looks: Looks) -> Cut:
    """Draw the measures that fit the style by lot."""
    style = looks.hair_style
    volume = dice.between(0.20, 0.36) if style == "curly" else dice.between(0.06, 0.20)
    length = dice.between(1.3, 2.6) if style == "long" else None
    hairline = dice.between(-0.60, -0.54) if style == "fringe" else dice.between(-1.02, -0.80)
    curl = dice.between(0.0, 0.12) if style == "long" else 0.05
    return Cut(volume, length, dice.between(-0.5, 0.5), hairline, curl, dice.table(64))


def paint_back_hair(canvas: Canvas, pose: Pose, looks: Looks, cut: Cut) -> None:
    """What lies behind neck and shoulders, in the head's shadow; a bun stands over the crown."""
    if looks.hair_style is None:
        return
    if looks.hair_style == "bun" and looks.hat is None:
        patch = pose.head.box(-0.6, -2.3, 0.6, -1.2)
        bun = squircle(patch, (0.0, -1.72), (0.46, 0.38))
        canvas.paint(patch, bun, _colors(patch, looks, cut, 0.9), HAIR)
    if cut.length is not None:
        patch = pose.head.box(-1.6, -1.2, 1.6, cut.length)
        canvas.paint(patch, _curtain(patch, cut), _colors(patch, looks, cut, 0.55), HAIR)


def paint_curtains(canvas: Canvas, pose: Pose, looks: Looks, cut: Cut) -> None:
    """Long hair in front of the shoulders; ears come on top of it."""
    if cut.length is None:
        return
    patch = pose.head.box(-1.6, -0.7, 1.6, cut.length + 0.1)
    inner = _inner_edge(patch) - np.abs(patch.p)
    canvas.paint(patch, np.maximum(_curtain(patch, cut), inner), _colors(patch, looks, cut, 0.95), HAIR)


def paint_front_hair(canvas: Canvas, pose: Pose, looks: Looks, cut: Cut) -> None:
    """The cap of hair around the forehead, and locks over the ears that they cover."""
    if looks.hair_style is None:
        return
    volume = cut.volume
    patch = pose.head.box(-1.6, -2.1, 1.6, 1.0)
    cap = squircle(patch, (0.0, -0.28), (1.06 + volume, 1.30 + volume), 0.12)
    if looks.hair_style == "curly":
        cap = cap + 0.045 * wave(patch.p * 2.3 + 0.2) * wave(patch.q * 2.1) - 0.03
    rounded = -smooth_min(-cap, -_ear_cut(patch, looks), 0.25)
    distance = np.maximum(rounded, _outside_face(patch, pose, looks, cut))
    colors = _curls(patch, looks, cut) if looks.hair_style == "curly" else _colors(patch, looks, cut, 1.0)
    canvas.cast(patch, distance, 0.22, 0.17)
    canvas.paint(patch, distance, colors, HAIR)
    for side, covered in zip(SIDES, looks.ears_covered, strict=True):
        if covered and cut.length is not None:
            _paint_lock(canvas, pose, looks, cut, side)


def paint_strand(canvas: Canvas, pose: Pose, looks: Looks, cut: Cut, dice: Dice) -> None:
    """A loose lock across the face."""
    side = dice.pick(SIDES)
    start, bend, thick = dice.between(0.0, 0.5), dice.between(0.25, 0.6), dice.between(0.07, 0.14)
    patch = pose.head.box(-1.5, -1.3, 1.5, 1.3)
    down = (patch.q + 1.2) * (1 / 2.3)
    line = side * (start + bend * down * (1.6 - down) + 0.1 * wave(down * 0.8))
    distance = np.maximum(np.abs(patch.p - line) - thick * (1.1 - down), np.abs(patch.q + 0.05) - 1.15)
    canvas.paint(patch, distance, _colors(patch, looks, cut, 1.05), HAIR)


def _curtain(patch: Patch, cut: Cut) -> FloatArray:
    """Hair from the crown down to ``length``, falling a little outwards, its tips uneven."""
    length = cut.length or 0.0
    down = np.maximum(patch.q, 0)
    half = 1.04 + cut.volume + 0.06 * down + cut.curl * wave(np.maximum(patch.q, 0) * 0.9)
    rise = np.minimum(patch.q + 0.28, 0) * (1 / (1.3 + cut.volume))
    sides = np.abs(patch.p) - half * np.sqrt(np.maximum(1 - rise * rise, 0))
    tips = patch.q - (length - 0.12 * patch.p * patch.p + 0.08 * wave(patch.p * 1.7))
    return -smooth_min(-sides, -tips, 0.5)


def _inner_edge(patch: Patch) -> FloatArray:
    """Distance from the middle at which the curtains begin."""
    return 0.66 + 0.05 * wave(patch.q * 0.6)


def _outside_face(patch: Patch, pose: Pose, looks: Looks, cut: Cut) -> FloatArray:
    """Negative outside the window of skin that the hair leaves open."""
    shift = 0.25 * pose.yaw
    top = cut.hairline
    window = squircle(patch, (shift, 0.9), (0.93, 0.9 - top), 0.6 if looks.hair_style == "fringe" else 0.45)
    if looks.hair_style == "fringe":
        return -window + 0.05 * wave(patch.p * 2.6 + cut.part)
    swept = (patch.p - cut.part) * np.float32(1 if cut.part < 0 else -1)
    return -window - 0.10 * hump(swept * swept * 0.8) * np.minimum(np.maximum(-patch.q, 0), 1)


def _ear_cut(patch: Patch, looks: Looks) -> FloatArray:
    """Positive below the line that runs from the sideburns over the ears."""
    end = 0.45 if looks.hair_style == "curly" else 0.22
    return (patch.q - end + 1.7 * np.maximum(np.abs(patch.p) - 0.88, 0)) * 0.55


def _paint_lock(canvas: Canvas, pose: Pose, looks: Looks, cut: Cut, side: int) -> None:
    """Hair that falls over one ear."""
    end = min(cut.length or 0.0, 1.1)
    patch = pose.head.box(*((-1.6, -0.9) if side < 0 else (0.5, -0.9)), *((-0.5, end) if side < 0 else (1.6, end)))
    above = np.minimum(np.maximum(1 - patch.q * (1 / 1.1), 0), 1)
    inner = _inner_edge(patch) + (0.18 + 0.25 * pose.yaw * side) * above - patch.p * side
    distance = np.maximum(np.maximum(_curtain(patch, cut), inner), -0.75 - patch.q)
    canvas.paint(patch, distance, _colors(patch, looks, cut, 0.95), HAIR)


def _colors(patch: Patch, looks: Looks, cut: Cut, brightness: float) -> FloatArray:
    """Strands that fan out from the parting, with a band of sheen: float32 (3, h, w)."""
    fan = (patch.p - cut.part * 0.6) / np.maximum(patch.q + 3.1, 0.5)
    fan = fan + cut.curl * 0.3 * wave(patch.q * 0.9 + fan * 2)
    tone = 0.34 + 0.30 * noise_1d(fan * 40, cut.strands) + 0.22 * noise_1d(fan * 93, cut.strands)
    band = (patch.q + 1.15 + 0.45 * patch.p * patch.p) * (1 / 0.42)
    tone += 0.32 * hump(band * band) + (0.10 * looks.light[0]) * patch.p
    return ramp(scale(looks.hair, 0.38 * brightness), mix(scale(looks.hair, 1.25 * brightness), (1, 1, 1), 0.06), tone)


def _curls(patch: Patch, looks: Looks, cut: Cut) -> FloatArray:
    """Curly hair: small round lights in the dark, float32 (3, h, w)."""
    table = np.concatenate((cut.strands, cut.strands[::-1], cut.strands, cut.strands[::-1]))
    p, q = patch.p * 8 + 0.6 * wave(patch.q * 4.3), patch.q * 8 + 0.6 * wave(patch.p * 4.3)
    tone = 0.10 + 0.55 * noise_2d(p, q, table) + 0.3 * noise_2d(q * 2.3, p * 2.3, table) - 0.12 * patch.q
    return ramp(scale(looks.hair, 0.45), mix(scale(looks.hair, 1.2), (1, 1, 1), 0.05), tone)
