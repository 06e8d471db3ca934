"""Backgrounds behind a synthetic face: gradients with discs, stripes, blotches or a room's straight edges."""

from __future__ import annotations

from fptk.core.classes import CLASS_INDEX
from fptk.data.synthetic.canvas import Canvas, Dice, Frame, Patch, bump, mix, noise_2d, ramp, scale, squircle, wave
from fptk.data.synthetic.traits import vivid

BACKGROUND = CLASS_INDEX["background"]


def paint_backdrop(canvas: Canvas, dice: Dice) -> None:
    """Fill the whole canvas; every label is background afterwards."""
    frame = Frame(canvas.size, (0.0, 0.0), 1.0, dice.between(-0.4, 0.4))
    reach = max(canvas.size) / min(canvas.size)
    patch = frame.box(-reach, -reach, reach, reach)
    first = vivid(dice)
    second = mix(first, vivid(dice), dice.between(0.2, 0.8))
    tone = patch.q * dice.between(0.3, 0.9) + 0.5
    canvas.image[:, patch.rows, patch.cols] = ramp(first, second, tone)
    texture = dice.pick((_discs, _stripes, _blotches, _room, _glow))
    texture(canvas, patch, frame, dice)


def _discs(canvas: Canvas, patch: Patch, frame: Frame, dice: Dice) -> None:
    """Lights out of focus."""
    for _ in range(7):
        p, q, radius = dice.between(-0.6, 0.6), dice.between(-0.6, 0.4), dice.between(0.05, 0.16)
        spot = frame.disc(p, q, radius)
        inside = squircle(spot, (p, q), (radius, radius)) < 0
        edge = bump(spot, (p, q), (radius * 1.05, radius * 1.05))
        canvas.tint(spot, inside * (1 - 0.6 * edge) * dice.between(0.2, 0.5), mix(vivid(dice), (1, 1, 0.9), 0.4))


def _stripes(canvas: Canvas, patch: Patch, frame: Frame, dice: Dice) -> None:
    canvas.shade(patch, 1 + wave(patch.p * dice.between(3, 9)) * dice.between(0.04, 0.16))


def _blotches(canvas: Canvas, patch: Patch, frame: Frame, dice: Dice) -> None:
    """Leaves, clouds, plaster."""
    pitch = dice.between(4, 10)
    field = noise_2d(patch.p * pitch, patch.q * pitch, dice.table(256))
    canvas.tint(patch, field * dice.between(0.4, 0.9), vivid(dice))


def _room(canvas: Canvas, patch: Patch, frame: Frame, dice: Dice) -> None:
    """Frames, windows and shelves."""
    for _ in range(4):
        p, q = dice.between(-0.55, 0.55), dice.between(-0.5, 0.3)
        half = (dice.between(0.06, 0.25), dice.between(0.06, 0.25))
        spot = frame.box(p - half[0], q - half[1], p + half[0], q + half[1])
        color = vivid(dice)
        canvas.paint(spot, squircle(spot, (p, q), half, 0.97), scale(color, 0.7), BACKGROUND)
        inner = (half[0] * 0.86, half[1] * 0.86)
        canvas.paint(spot, squircle(spot, (p, q), inner, 0.97), mix(color, (1, 1, 1), 0.25), BACKGROUND)


def _glow(canvas: Canvas, patch: Patch, frame: Frame, dice: Dice) -> None:
    """A studio wall with a spot of light behind the head."""
    center = (dice.between(-0.2, 0.2), dice.between(-0.2, 0.2))
    canvas.shade(patch, 0.75 + bump(patch, center, (0.9, 0.9)) * dice.between(0.3, 0.6))
