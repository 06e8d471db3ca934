"""Glasses, earrings, hats and things held before the face of a synthetic person."""

from __future__ import annotations

import numpy as np

from fptk.core.classes import CLASS_INDEX
from fptk.data.synthetic.body import METALS
from fptk.data.synthetic.canvas import (
    Canvas,
    Color,
    Dice,
    FloatArray,
    Patch,
    bump,
    capsule,
    coverage,
    hump,
    mix,
    ramp,
    scale,
    squircle,
    wave,
)
from fptk.data.synthetic.head import EYE, SIDES, ear_place
from fptk.data.synthetic.traits import EYE_DEPTH, Looks, Pose, vivid

BACKGROUND, EARRING, GLASSES, HAT = (CLASS_INDEX[name] for name in ("background", "ear_r", "eye_g", "hat"))


def paint_glasses(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Frame and lenses, all of class ``eye_g``: what shows through a lens belongs to the glasses."""
    if looks.glasses is None:
        return
    frame = dice.pick(((0.08, 0.07, 0.08), (0.30, 0.16, 0.08), (0.55, 0.10, 0.12), (0.75, 0.62, 0.30), (0.2, 0.2, 0.3)))
    tint, density = _lens(looks.glasses, dice)
    half_height, square, rim = dice.between(0.25, 0.33), dice.between(0.0, 0.8), dice.between(0.045, 0.07)
    for side in SIDES:
        center = pose.place(side * EYE, EYE_DEPTH)
        half = (0.40 * pose.narrowing(side * EYE, EYE_DEPTH), half_height)
        edge = side * 1.03 - 0.10 * max(side * pose.yaw, 0.0)
        patch = pose.head.box(min(center - half[0], edge) - 0.2, -0.45, max(center + half[0], edge) + 0.2, 0.5)
        temple = capsule(patch, (center + side * half[0], -0.05), (edge, -0.08), 0.06)
        canvas.paint(patch, temple, frame, GLASSES)
        lens = squircle(patch, (center, 0.04), half, square)
        _paint_lens(canvas, patch, lens, center, rim, (frame, tint, density))
    left, right = (pose.place(side * 0.10, EYE_DEPTH) for side in SIDES)
    patch = pose.head.box(left - 0.3, -0.3, right + 0.3, 0.3)
    canvas.paint(patch, capsule(patch, (left, -0.04), (right, -0.04), 0.058), frame, GLASSES)


def _lens(kind: str, dice: Dice) -> tuple[Color, float]:
    """Colour of a lens and how much of it covers the eye behind."""
    if kind == "clear":
        return (0.82, 0.88, 0.92), 0.22
    if kind == "tinted":
        return dice.pick(((0.75, 0.45, 0.25), (0.35, 0.45, 0.65), (0.70, 0.40, 0.55), (0.35, 0.55, 0.40))), 0.55
    return (0.07, 0.07, 0.10), 0.93


def _paint_lens(
    canvas: Canvas, patch: Patch, lens: FloatArray, center: float, rim: float, look: tuple[Color, Color, float]
) -> None:
    frame, tint, density = look
    canvas.cast(patch, lens, 0.2, 0.14)
    inside = coverage(patch, lens)
    canvas.tint(patch, inside * density, tint)
    glare = (patch.p - center) * 0.8 + patch.q
    canvas.tint(patch, inside * hump((glare + 0.16) * (glare + 0.16) * 160) * 0.38, (1.0, 1.0, 1.0))
    canvas.tint(patch, coverage(patch, np.abs(lens + rim * 0.5 - 0.02) - rim * 0.75), frame)
    canvas.labels[patch.rows, patch.cols][lens < 0.02 + rim * 0.25] = GLASSES


def paint_earrings(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """A ring, a drop or a stud at the lobe of every ear that shows."""
    if looks.earrings is None:
        return
    metal = dice.pick(METALS)
    gem = vivid(dice)
    size = dice.between(0.9, 1.15)
    for side, covered in zip(SIDES, looks.ears_covered, strict=True):
        if covered or side * pose.yaw > 0.24:
            continue
        p, q = ear_place(pose, side)
        p, q = p + side * 0.02, q + 0.40
        patch = pose.head.box(p - 0.35, q - 0.2, p + 0.35, q + 0.75)
        distance = _earring(patch, (p, q), looks.earrings, size)
        tone = 0.5 + 0.5 * wave(patch.q * 3.1 + patch.p * 2) + 0.5 * bump(patch, (p - 0.04, q), (0.12, 0.12))
        color = gem if looks.earrings == "drop" else metal
        canvas.paint(patch, distance, ramp(scale(color, 0.45), mix(color, (1, 1, 0.95), 0.4), tone), EARRING)


def _earring(patch: Patch, lobe: tuple[float, float], kind: str, size: float) -> FloatArray:
    p, q = lobe
    if kind == "hoop":
        radius = 0.21 * size
        return np.abs(squircle(patch, (p, q + radius * 0.9), (radius * 0.85, radius))) - 0.085
    if kind == "drop":
        bead = squircle(patch, (p, q + 0.30 * size), (0.16 * size, 0.22 * size))
        return np.minimum(bead, capsule(patch, (p, q - 0.02), (p, q + 0.2), 0.075))
    return squircle(patch, (p, q), (0.18 * size, 0.18 * size))


def paint_hat(canvas: Canvas, pose: Pose, looks: Looks, volume: float, dice: Dice) -> None:
    """A knitted cap, a cap with a visor or a hat with a brim."""
    if looks.hat is None:
        return
    color = vivid(dice)
    wide = 1.10 + (volume * 0.8 if looks.hair_style else 0.0)
    {"beanie": _paint_beanie, "cap": _paint_cap, "brim": _paint_brim}[looks.hat](canvas, pose, color, wide, dice)


def _dome(patch: Patch, wide: float, top: float, edge: FloatArray, square: float) -> FloatArray:
    """Signed distance of a crown that ends at the curve ``edge``."""
    base = -0.62
    distance: FloatArray = np.maximum(squircle(patch, (0.0, base), (wide, base - top), square), patch.q - edge)
    return distance


def _cloth_tone(patch: Patch) -> FloatArray:
    return 0.86 - 0.28 * patch.p * patch.p - 0.10 * (patch.q + 1.2)


def _paint_beanie(canvas: Canvas, pose: Pose, color: Color, wide: float, dice: Dice) -> None:
    patch = pose.head.box(-1.6, -2.5, 1.6, -0.1)
    edge = dice.between(-0.66, -0.54) + 0.14 * patch.p * patch.p
    dome = _dome(patch, wide, dice.between(-2.05, -1.75), edge, 0.2)
    canvas.cast(patch, dome, 0.32, 0.28)
    if dice.chance(0.35):
        pompon = squircle(patch, (0.0, -2.0), (0.34, 0.32)) + 0.03 * wave(patch.p * 5) * wave(patch.q * 5)
        tone = 0.75 + 0.2 * wave(patch.p * 7 + 0.3 * wave(patch.q * 5)) * wave(patch.q * 8)
        canvas.paint(patch, pompon, ramp(scale(color, 0.5), mix(color, (1, 1, 1), 0.5), tone), HAT)
    fan = patch.p / np.maximum(patch.q + 3.4, 0.5)
    knit = _cloth_tone(patch) + 0.10 * wave(fan * 26) + 0.05 * wave(patch.q * 9)
    canvas.paint(patch, dome, ramp(scale(color, 0.4), scale(color, 1.1), knit), HAT)
    fold = np.maximum(np.maximum(edge - 0.36 - patch.q, patch.q - edge), np.abs(patch.p) - wide - 0.05)
    ribs = 0.80 - 0.2 * patch.p * patch.p + 0.18 * wave(patch.p * 6.5)
    band = mix(color, vivid(dice), dice.pick((0.0, 0.0, 0.7)))
    canvas.cast(patch, fold, 0.35, 0.11)
    canvas.paint(patch, fold, ramp(scale(band, 0.4), scale(band, 1.15), ribs), HAT)


def _paint_cap(canvas: Canvas, pose: Pose, color: Color, wide: float, dice: Dice) -> None:
    patch = pose.head.box(-1.6, -2.3, 1.6, -0.1)
    edge = -0.72 + 0.10 * patch.p * patch.p
    dome = _dome(patch, wide, -1.85, edge, 0.25)
    canvas.cast(patch, dome, 0.32, 0.28)
    seam = hump((patch.p - 0.3 * pose.yaw) * (patch.p - 0.3 * pose.yaw) * 900)
    for side in SIDES:
        bow = patch.p - side * (0.55 + 0.25 * (patch.q + 0.8)) - 0.3 * pose.yaw
        seam = seam + hump(bow * bow * 900)
    tone = _cloth_tone(patch) - 0.22 * seam
    canvas.paint(patch, dome, ramp(scale(color, 0.4), scale(color, 1.1), tone), HAT)
    if dice.chance(0.5):
        badge = squircle(patch, (0.45 * pose.yaw, -1.15), (0.24, 0.22), dice.between(0, 0.9))
        canvas.paint(patch, badge, mix(vivid(dice), (1, 1, 1), 0.4), HAT)
    shade = mix(color, vivid(dice), dice.pick((0.0, 0.8)))
    turn = 0.9 * pose.yaw
    visor = squircle(patch, (turn, -0.70), (0.95, 0.25), 0.35)
    arch = np.maximum(visor, patch.q + 0.52 - 0.16 * (patch.p - turn) * (patch.p - turn))
    canvas.cast(patch, arch, 0.32, 0.28)
    gloss = 0.6 + 1.1 * (-0.60 - patch.q)
    canvas.paint(patch, arch, ramp(scale(shade, 0.35), scale(shade, 1.05), gloss), HAT)


def _paint_brim(canvas: Canvas, pose: Pose, color: Color, wide: float, dice: Dice) -> None:
    patch = pose.head.box(-2.4, -2.3, 2.4, -0.1)
    crown = _dome(patch, wide * 0.95, dice.between(-2.0, -1.75), np.float32(-0.8) + 0 * patch.p, 0.6)
    reach = dice.between(1.6, 2.1)
    droop = 0.06 * patch.p * patch.p
    shifted = Patch(patch.rows, patch.cols, patch.p, patch.q - droop, patch.pixel)
    brim = squircle(shifted, (0.0, -0.82), (reach, 0.27))
    canvas.cast(patch, brim, 0.32, 0.28)
    straw = 0.06 * wave(patch.p * 5 + patch.q * 5) * wave(patch.p * 5 - patch.q * 5)
    dark, light = scale(color, 0.42), scale(color, 1.12)
    canvas.paint(patch, brim, ramp(dark, light, 0.55 + 0.9 * (-0.75 - patch.q) + straw), HAT)
    canvas.paint(patch, crown, ramp(dark, light, _cloth_tone(patch) + straw), HAT)
    ribbon = np.maximum(crown, -1.1 - patch.q + 0.10 * patch.p * patch.p)
    canvas.paint(patch, ribbon, ramp((0.05, 0.05, 0.06), scale(vivid(dice), 0.9), _cloth_tone(patch)), HAT)


def paint_hand(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Fingers of a hand at the cheek or chin; they are no face, hence background."""
    side = dice.pick(SIDES)
    wrist = (side * dice.between(1.1, 1.4), dice.between(1.9, 2.3))
    patch = pose.head.box(-2.2, 0.2, 2.2, 3.6)
    for finger in range(4):
        tip = (side * (0.95 - 0.19 * finger), 0.72 + 0.16 * finger)
        knuckle = (wrist[0] - side * 0.17 * finger, wrist[1] - 0.35)
        distance = capsule(patch, knuckle, tip, 0.125)
        canvas.cast(patch, distance, 0.3, 0.14)
        tone = 0.45 - distance * 4
        canvas.paint(patch, distance, ramp(looks.shadow(), looks.lit(), tone), BACKGROUND)
        nail = squircle(patch, (tip[0], tip[1] - 0.02), (0.06, 0.075))
        canvas.tint(patch, coverage(patch, nail) * 0.6, mix(looks.lit(), (1.0, 0.75, 0.75), 0.5))
    palm = capsule(patch, (wrist[0] - side * 0.25, wrist[1]), (wrist[0] + side * 0.1, wrist[1] + 1.5), 0.42)
    canvas.paint(patch, palm, ramp(looks.shadow(), looks.lit(), 0.45 - palm * 1.4), BACKGROUND)


def paint_object(canvas: Canvas, pose: Pose, dice: Dice) -> None:
    """A microphone or a balloon in front of the person: background, whatever it hides."""
    color = vivid(dice)
    p = dice.between(-0.9, 0.9)
    if dice.chance(0.5):
        q = dice.between(1.45, 1.9)
        patch = pose.body.box(p - 0.9, q - 0.6, p + 0.9, q + 3)
        canvas.paint(patch, capsule(patch, (p, q), (p * 1.3, q + 2.5), 0.17), scale(color, 0.35), BACKGROUND)
        head = squircle(patch, (p, q), (0.32, 0.34))
        mesh = 0.55 + 0.35 * wave(patch.p * 9) * wave(patch.q * 9) - head
        canvas.paint(patch, head, ramp((0.10, 0.10, 0.12), (0.70, 0.70, 0.74), mesh), BACKGROUND)
        return
    p = p + (0.8 if p > 0 else -0.8)
    q, radius = dice.between(0.2, 1.9), dice.between(0.4, 0.6)
    patch = pose.body.disc(p, q, radius * 1.3)
    ball = squircle(patch, (p, q), (radius, radius * 1.15))
    tone = 0.45 - ball + 0.8 * bump(patch, (p - radius * 0.4, q - radius * 0.4), (0.2, 0.2))
    canvas.paint(patch, ball, ramp(scale(color, 0.45), mix(color, (1, 1, 1), 0.3), tone), BACKGROUND)
