"""Neck, clothes and necklace of a synthetic person."""

from __future__ import annotations

import numpy as np

from fptk.core.classes import CLASS_INDEX
from fptk.data.synthetic.canvas import (
    Canvas,
    Color,
    Dice,
    FloatArray,
    Patch,
    bump,
    coverage,
    hump,
    mix,
    ramp,
    scale,
    smooth_min,
    squircle,
    squircle_of,
    wave,
)
from fptk.data.synthetic.traits import Looks, Pose, vivid

CLOTH, NECK, NECKLACE = CLASS_INDEX["cloth"], CLASS_INDEX["neck"], CLASS_INDEX["neck_l"]
METALS: tuple[Color, ...] = ((0.93, 0.74, 0.28), (0.88, 0.88, 0.92), (0.90, 0.58, 0.46))


def paint_body(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Everything below the chin, from the skin outwards."""
    reach = 3.2 * max(canvas.size) / min(canvas.size)
    patch = pose.body.box(-reach, 0.5, reach, reach + 1)
    body = _body(patch, dice.between(0.58, 0.70), dice.between(1.75, 2.25))
    tone = 0.80 - 0.34 * patch.p * patch.p + 0.2 * looks.light[0] * patch.p
    under = (patch.q - looks.chin + 0.15 - 0.25 * patch.p * patch.p) * (1 / 0.55)
    tone -= 0.62 * hump(under * under)
    tone -= 0.12 * bump(patch, (0.0, 2.04), (0.26, 0.2))
    for side in (-1, 1):
        bone = patch.q - 2.08 + 0.16 * patch.p * side
        tone -= 0.14 * hump(bone * bone * 90) * np.minimum(np.maximum(patch.p * side * 2 - 0.1, 0), 1)
    canvas.paint(patch, body, ramp(looks.shadow(), looks.lit(), np.maximum(tone, -0.1)), NECK)
    _paint_cloth(canvas, patch, body, dice)
    if looks.necklace is not None:
        _paint_necklace(canvas, pose, body, patch, looks.necklace, dice)


def _body(patch: Patch, neck: float, shoulders: float) -> FloatArray:
    """Signed distance of neck and torso together."""
    column = np.abs(patch.p) - neck
    torso = squircle(patch, (0.0, 3.75), (shoulders, 1.85), 0.35)
    return smooth_min(column, torso, 0.55)


def _paint_cloth(canvas: Canvas, patch: Patch, body: FloatArray, dice: Dice) -> None:
    color = vivid(dice)
    style = dice.pick(("crew", "crew", "vee", "shirt", "turtle", "jacket", "boat"))
    opening = _neckline(patch, style, dice)
    distance = np.maximum(body - 0.05, -opening)
    if style != "turtle":
        distance = np.maximum(distance, 1.82 - patch.q)
    tone = 0.86 - 0.13 * patch.p * patch.p + 0.08 * wave(patch.p * 0.9 + 0.35 * patch.q) + _pattern(patch, dice)
    canvas.cast(patch, distance, 0.25, 0.14)
    canvas.paint(patch, distance, ramp(scale(color, 0.35), scale(color, 1.08), tone), CLOTH)
    if style in ("shirt", "jacket"):
        _paint_collar(canvas, patch, distance, color, dice)
    else:
        seam = hump((opening - 0.09) * (opening - 0.09) * 500) * coverage(patch, distance)
        canvas.tint(patch, seam * 0.55, scale(color, 0.5))
    if style == "jacket":
        lapel = np.maximum(distance, 0.34 - np.abs(patch.p) + (2.95 - patch.q) * 0.62)
        suit = mix(vivid(dice), (0.1, 0.1, 0.14), 0.6)
        canvas.paint(patch, lapel, ramp(scale(suit, 0.5), suit, tone), CLOTH)


def _neckline(patch: Patch, style: str, dice: Dice) -> FloatArray:
    """Signed distance of the opening that leaves skin bare."""
    drop = np.maximum(patch.q - 1.5, 0)
    if style in ("vee", "shirt", "jacket"):
        depth = dice.between(2.35, 2.75)
        return (np.abs(patch.p) - 0.86 * (depth - patch.q)) * 0.76
    if style == "turtle":
        return patch.q - 1.72 - 0.12 * wave(patch.p * 0.25 + 0.25)
    half = (0.98, 0.86) if style == "boat" else (0.74, dice.between(0.52, 0.85))
    return squircle_of(patch.p * (1 / half[0]), drop * (1 / half[1]), half)


def _pattern(patch: Patch, dice: Dice) -> FloatArray:
    """Stripes, checks or plain cloth, as a change of tone."""
    kind, pitch = dice.pick(("plain", "plain", "stripes", "checks")), dice.between(2.2, 4.0)
    rows = np.minimum(np.maximum(wave(patch.q * pitch) * 3, -1), 1)
    tone: FloatArray = 0.04 * wave(patch.q * 0.7 + patch.p)
    if kind == "stripes":
        tone = 0.35 * np.minimum(rows, 0)
    elif kind == "checks":
        tone = 0.16 * rows * wave(patch.p * pitch)
    return tone


def _paint_collar(canvas: Canvas, patch: Patch, cloth: FloatArray, color: Color, dice: Dice) -> None:
    """Two flaps that lie left and right of the opening."""
    pale = mix(color, (1, 1, 1), dice.between(0.35, 0.8))
    aside = np.abs(patch.p)
    inner = (1.02 - 0.62 * (patch.q - 1.45) - aside) * 0.8
    outer = (aside - 1.02 + 0.20 * (patch.q - 1.9)) * 0.95
    lower = (patch.q - 2.5 + 0.42 * aside) * 0.9
    flap = np.maximum(np.maximum(np.maximum(inner, outer), lower), np.maximum(1.55 - patch.q, cloth - 0.05))
    canvas.cast(patch, flap, 0.25, 0.11)
    tone = 0.75 + 0.25 * np.minimum(-flap * 9, 1)
    canvas.paint(patch, flap, ramp(scale(pale, 0.55), pale, tone), CLOTH)


def _paint_necklace(canvas: Canvas, pose: Pose, body: FloatArray, patch: Patch, kind: str, dice: Dice) -> None:
    """A chain, beads or a chain with a pendant, hanging over skin and cloth."""
    low, curve = dice.between(1.98, 2.34), dice.between(0.42, 0.62)
    thick = 0.112 if kind == "beads" else 0.09
    slope = 2 * curve * patch.p
    line = (patch.q - low + curve * patch.p * patch.p) / np.sqrt(1 + slope * slope)
    distance = np.maximum(np.maximum(np.abs(line) - thick, np.abs(patch.p) - 0.95), body)
    color = vivid(dice) if kind == "beads" else dice.pick(METALS)
    canvas.shade(patch, 1 - 0.3 * hump((line - 0.08) * (line - 0.08) * 50) * coverage(patch, body))
    links = 0.70 + 0.42 * wave(patch.p * (1 + 0.25 * patch.p * patch.p) * (4.2 if kind == "beads" else 6.5))
    tone = links - 2.4 * (line + 0.03) * (2 if kind == "beads" else 1)
    canvas.paint(patch, distance, ramp(scale(color, 0.38), mix(color, (1, 1, 0.95), 0.45), tone), NECKLACE)
    if kind == "pendant":
        spot = pose.body.disc(0.0, low + 0.17, 0.3)
        gem = squircle(spot, (0.0, low + 0.17), (0.18, 0.21))
        tone = 0.55 + 0.9 * bump(spot, (-0.05, low + 0.08), (0.12, 0.12))
        jewel = dice.pick(((0.75, 0.1, 0.2), (0.1, 0.35, 0.75), (0.1, 0.6, 0.35), color))
        canvas.paint(spot, gem, ramp(scale(jewel, 0.5), mix(jewel, (1, 1, 1), 0.3), tone), NECKLACE)
