"""Ears, face, nose, eyes, brows and mouth of a synthetic person."""

from __future__ import annotations

import numpy as np

from fptk.core.classes import CLASS_INDEX
from fptk.data.synthetic.canvas import (
    Canvas,
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
from fptk.data.synthetic.traits import EYE_DEPTH, MOUTH_DEPTH, NOSE_DEPTH, Looks, Pose

SIDES = (-1, 1)
"""The picture's left and right: -1 holds the subject's right eye, brow and ear."""

EYE, MOUTH = 0.46, 0.97
"""Frontal place of the eyes beside the middle, height of the mouth below the eyes."""


def label(name: str, side: int) -> int:
    """Class index of ``eye``, ``brow`` or ``ear`` on a side of the picture; the subject's left is the right side."""
    return CLASS_INDEX[("l_" if side > 0 else "r_") + name]


def ear_place(pose: Pose, side: int) -> tuple[float, float]:
    """Centre of an ear: hidden more on the side that the face turns to."""
    towards = side * pose.yaw
    return side * (1.04 - 0.28 * max(towards, 0.0)), 0.12


def ear_distance(patch: Patch, pose: Pose, side: int) -> FloatArray:
    """Signed distance of an ear: a shell above, a lobe below."""
    p, q = ear_place(pose, side)
    wide = 0.23 + 0.12 * max(-side * pose.yaw, 0.0)
    shell = squircle(patch, (p, q - 0.10), (wide, 0.32))
    lobe = squircle(patch, (p - side * 0.06, q + 0.26), (wide * 0.66, 0.19))
    return smooth_min(shell, lobe, 0.1)


def paint_ears(canvas: Canvas, pose: Pose, looks: Looks) -> None:
    """Both ears, drawn before the face that covers their roots."""
    for side in SIDES:
        p, q = ear_place(pose, side)
        patch = pose.head.box(p - 0.4, q - 0.5, p + 0.4, q + 0.52)
        distance = ear_distance(patch, pose, side)
        tone = 0.62 + 0.2 * side * looks.light[0] + 0 * patch.p
        tone = tone + 0.25 * hump((distance + 0.04) * (distance + 0.04) * 400)
        inner = squircle(patch, (p - side * 0.02, q - 0.06), (0.12, 0.22))
        tone = tone - 0.42 * np.minimum(np.maximum(-inner * 9, 0), 1)
        tone = tone + 0.30 * bump(patch, (p - side * 0.05, q + 0.02), (0.08, 0.12))
        redder = mix(looks.lit(), (0.85, 0.35, 0.28), 0.14)
        canvas.paint(patch, distance, ramp(scale(looks.shadow(), 0.9), redder, tone), label("ear", side))


def face_distance(patch: Patch, pose: Pose, looks: Looks) -> FloatArray:
    """Signed distance of the face from crown to chin: an egg whose narrow end turns with the head."""
    lower = np.maximum(patch.q - 0.1, 0)
    width = 1 - looks.jaw * 0.55 * lower * lower
    x = (patch.p - 0.22 * pose.yaw * lower) / width
    half_height = np.where(patch.q > 0, np.float32(looks.chin), np.float32(1.5))
    return squircle_of(x, patch.q / half_height, (1.0, looks.chin), looks.square)


def paint_face(canvas: Canvas, pose: Pose, looks: Looks) -> None:
    """The skin from crown to chin with its shading; features come on top."""
    patch = pose.head.box(-1.15, -1.6, 1.15, looks.chin + 0.1)
    distance = face_distance(patch, pose, looks)
    round_x, round_y = patch.p * 0.9 - 0.3 * pose.yaw, (patch.q - 0.1) * 0.58
    facing = np.sqrt(np.maximum(1.05 - round_x * round_x - round_y * round_y, 0))
    tone = 0.26 + 0.58 * facing + (0.26 * looks.light[0]) * round_x + (0.22 * looks.light[1]) * round_y
    tone -= 0.22 * hump((distance - 0.02) * (distance - 0.02) * 30)
    middle = pose.place(0.0, NOSE_DEPTH)
    tone += 0.12 * bump(patch, (middle * 0.7, -0.75), (0.7, 0.45))
    tone += 0.10 * bump(patch, (middle * 0.8, looks.chin - 0.22), (0.3, 0.22))
    tone -= 0.20 * bump(patch, (pose.place(0.0, MOUTH_DEPTH), MOUTH + 0.30), (0.34, 0.13))
    for side in SIDES:
        eye = pose.place(side * EYE, EYE_DEPTH)
        tone -= 0.26 * bump(patch, (eye - side * 0.06, -0.08), (0.46, 0.34))
        tone += 0.12 * bump(patch, (eye + side * 0.08, 0.42), (0.34, 0.26))
    canvas.paint(patch, distance, ramp(looks.shadow(), looks.lit(), tone), CLASS_INDEX["skin"])
    _paint_cheeks(canvas, patch, distance, pose, looks)


def _paint_cheeks(canvas: Canvas, patch: Patch, distance: FloatArray, pose: Pose, looks: Looks) -> None:
    inside = coverage(patch, distance)
    blush = mix(looks.skin, (0.86, 0.30, 0.28), 0.6)
    for side in SIDES:
        cheek = pose.place(side * 0.58, EYE_DEPTH)
        canvas.tint(patch, inside * bump(patch, (cheek, 0.52), (0.42, 0.34)) * 0.38, blush)
    if looks.beard:
        mouth = pose.place(0.0, MOUTH_DEPTH)
        lower = np.minimum(np.maximum((patch.q - 0.45) * 2.2 + np.abs(patch.p - mouth) - 0.55, 0), 1)
        clear = 1 - bump(patch, (mouth, MOUTH), (0.5, 0.24))
        stubble = 0.9 + 0.1 * wave(patch.p * 9 + wave(patch.q * 7))
        canvas.tint(patch, inside * lower * clear * stubble * looks.beard, mix(looks.hair, looks.shadow(), 0.35))


def paint_nose(canvas: Canvas, pose: Pose, looks: Looks) -> None:
    """Bridge, tip and wings; the skin below shows through, shaded."""
    root, tip = pose.place(0.0, EYE_DEPTH), pose.place(0.0, NOSE_DEPTH)
    patch = pose.head.box(tip - 0.7, -0.3, tip + 0.7, 0.85)
    down = np.minimum(np.maximum((patch.q + 0.15) * (1 / 0.75), 0), 1)
    across = patch.p - (root + (tip - root) * down)
    bridge = np.maximum(np.abs(across) - 0.12 - 0.09 * down, np.maximum(-0.14 - patch.q, patch.q - 0.58))
    wings = np.minimum(
        squircle(patch, (tip - 0.16, 0.50), (0.15, 0.13)), squircle(patch, (tip + 0.16, 0.50), (0.15, 0.13))
    )
    distance = smooth_min(bridge, smooth_min(wings, squircle(patch, (tip, 0.50), (0.19, 0.17)), 0.06), 0.10)
    inside = coverage(patch, distance)
    canvas.shade(patch, 1 - 0.22 * (1 - inside) * bump(patch, (tip, 0.66), (0.36, 0.17)))
    slope = across * (1 / 0.24)
    factor = 1.04 + 0.14 * looks.light[0] * slope - 0.13 * slope * slope
    factor -= 0.20 * hump((distance + 0.01) * (distance + 0.01) * 250) * down * down
    factor += 0.16 * hump(slope * slope * 9) * np.maximum(1 - (patch.q - 0.2) * (patch.q - 0.2) * 5, 0)
    factor += 0.14 * bump(patch, (tip + 0.03 * looks.light[0], 0.44), (0.10, 0.09))
    canvas.shade(patch, 1 + inside * (factor - 1))
    canvas.tint(patch, inside * down * 0.10, (0.80, 0.30, 0.24))
    canvas.labels[patch.rows, patch.cols][distance < 0] = CLASS_INDEX["nose"]
    for side in SIDES:
        nostril = squircle(patch, (tip + side * 0.10, 0.57), (0.075, 0.042))
        canvas.tint(patch, coverage(patch, nostril) * 0.75, scale(looks.shadow(), 0.42))


def paint_eyes(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Both eyes: white, iris, pupil, a glint of the light, the dark line of the upper lid and its crease."""
    gaze = (dice.between(-0.05, 0.05), dice.between(-0.02, 0.03))
    slant = dice.between(-0.03, 0.06)
    for side in SIDES:
        center = pose.place(side * EYE, EYE_DEPTH)
        half = 0.285 * pose.narrowing(side * EYE, EYE_DEPTH)
        patch = pose.head.box(center - half - 0.1, -0.4, center + half + 0.1, 0.3)
        across = (patch.p - center) * (1 / half)
        axis = 0.02 - slant * side * across
        arch = 1 - across * across
        upper = axis - 0.155 * looks.eye * arch * (1.1 - 0.1 * side * across)
        lower = axis + 0.115 * looks.eye * arch
        steep = 1 / np.sqrt(1 + across * across * 0.9)
        lid = (patch.q - upper) * steep
        distance = np.maximum(-lid, (patch.q - lower) * steep)
        _paint_lids(canvas, patch, lid, (patch.q - lower) * steep, across, looks)
        iris = (center + gaze[0] + 0.25 * pose.yaw * half, 0.0 + gaze[1])
        canvas.paint(patch, distance, _eyeball(patch, iris, lid, looks), label("eye", side))


def _paint_lids(
    canvas: Canvas, patch: Patch, lid: FloatArray, lower: FloatArray, across: FloatArray, looks: Looks
) -> None:
    """Lid crease above, lashes along the upper edge, a soft line below."""
    reach = np.maximum(1.15 - across * across, 0)
    crease = hump((lid + 0.085) * (lid + 0.085) * 1400) * np.minimum(reach, 0.7)
    canvas.tint(patch, crease, scale(looks.shadow(), 0.75))
    lash = hump(lid * lid * 900) * np.minimum(np.maximum(1.25 - across * across, 0) * 3, 1)
    canvas.tint(patch, lash * 0.9, (0.10, 0.07, 0.07))
    below = hump((lower - 0.02) * (lower - 0.02) * 900) * np.maximum(1 - across * across, 0)
    canvas.tint(patch, below * 0.6, scale(looks.shadow(), 0.85))


def _eyeball(patch: Patch, iris: tuple[float, float], lid: FloatArray, looks: Looks) -> FloatArray:
    """Colours of an open eye: float32 (3, h, w)."""
    shade = np.minimum(np.maximum(lid * 9, 0) + 0.45, 1)
    colors = ramp((0.42, 0.36, 0.36), (0.97, 0.96, 0.95), shade)
    disc = squircle(patch, iris, (0.145, 0.145))
    rim = np.minimum(np.maximum(-disc * 16, 0), 1)
    inside = coverage(patch, disc)
    colors += inside * (ramp(scale(looks.iris, 0.35), scale(looks.iris, 1.25), rim * shade) - colors)
    pupil = coverage(patch, squircle(patch, iris, (0.065, 0.065)))
    colors *= 1 - 0.93 * pupil
    glint = (iris[0] + 0.055 * (1 if looks.light[0] > 0 else -1), iris[1] - 0.06)
    colors += coverage(patch, squircle(patch, glint, (0.04, 0.04))) * (1 - colors) * 0.95
    colors *= 1 - 0.85 * hump(lid * lid * 700)
    return colors


def paint_brows(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Both brows: strokes that rise from the nose, bend and taper."""
    thick, arch = dice.between(0.074, 0.100), dice.between(0.03, 0.11)
    lift, tilt = dice.between(-0.05, 0.04), dice.between(-0.02, 0.08)
    color = mix(scale(looks.hair, 0.72), looks.skin, 0.10)
    if sum(looks.hair) > 1.5:
        color = mix(scale(looks.hair, 0.55), looks.shadow(), 0.3)
    for side in SIDES:
        center = pose.place(side * 0.49, EYE_DEPTH)
        half = 0.37 * pose.narrowing(side * 0.49, EYE_DEPTH)
        patch = pose.head.box(center - half - 0.1, -0.75, center + half + 0.1, -0.05)
        outward = (patch.p - center) * (side / half)
        bend = outward - 0.15
        line = -0.42 + lift + arch * bend * bend + tilt * outward
        root, tail = np.maximum(-0.55 - outward, 0) * (1 / 0.45), np.maximum(outward + 0.25, 0) * (1 / 1.25)
        stroke = np.abs(patch.q - line) - 1.25 * thick * np.minimum(1 - root * root, 1 - tail * tail)
        hairs = 0.94 + 0.08 * wave(patch.p * (side * 15.0) + patch.q * 11)
        canvas.paint(patch, stroke * 0.95, ramp((0, 0, 0), color, hairs), label("brow", side))


def paint_mouth(canvas: Canvas, pose: Pose, looks: Looks, dice: Dice) -> None:
    """Lips and, where they part, the teeth and the dark between them."""
    center = pose.place(0.0, MOUTH_DEPTH)
    half = (0.40 + looks.smile * 0.5 + dice.between(-0.03, 0.04)) * pose.narrowing(0.0, MOUTH_DEPTH)
    full = dice.between(0.9, 1.25)
    patch = pose.head.box(center - half - 0.08, MOUTH - 0.35, center + half + 0.08, MOUTH + 0.6)
    across = (patch.p - center) * (1 / half)
    arch = 1 - across * across
    line = MOUTH + looks.smile * 0.9 * (arch - 0.5)
    full_arch = arch * (1 + 0.55 * across * across)
    dent = hump(across * across * 11)
    upper_in = line - 0.30 * looks.mouth_open * arch
    lower_in = line + 0.70 * looks.mouth_open * full_arch
    upper_out = upper_in - full * 0.125 * arch * (1.15 - 0.42 * dent)
    lower_out = lower_in + full * 0.165 * full_arch
    q = patch.q
    if looks.mouth_open:
        inner = _mouth_colors(patch, center, across, upper_in, looks, dice)
        canvas.paint(patch, np.maximum(upper_in - q, q - lower_in), inner, CLASS_INDEX["mouth"])
    upper_tone = 0.55 + (q - upper_out) * -1.2 + 0.1 * looks.light[1] * -1
    canvas.paint(patch, np.maximum(upper_out - q, q - upper_in), _lip(looks, upper_tone), CLASS_INDEX["u_lip"])
    sheen = hump(((q - lower_in) - 0.085) * ((q - lower_in) - 0.085) * 180) * hump(across * across * 2.2)
    lower_tone = 0.72 + 0.38 * sheen - (q - lower_in) * 0.8
    canvas.paint(patch, np.maximum(lower_in - q, q - lower_out), _lip(looks, lower_tone), CLASS_INDEX["l_lip"])
    if not looks.mouth_open:
        parting = hump((q - line) * (q - line) * 2200) * np.minimum(np.maximum(arch, 0) * 1.6, 1)
        canvas.tint(patch, parting * 0.85, scale(looks.lips, 0.35))


def _lip(looks: Looks, tone: FloatArray) -> FloatArray:
    return ramp(scale(looks.lips, 0.55), mix(looks.lips, (1.0, 0.85, 0.85), 0.18), tone)


def _mouth_colors(
    patch: Patch, center: float, across: FloatArray, upper_in: FloatArray, looks: Looks, dice: Dice
) -> FloatArray:
    """Teeth on top, the tongue below, darkness between: float32 (3, h, w)."""
    colors = ramp((0.16, 0.03, 0.04), (0.40, 0.10, 0.10), (patch.q - upper_in) * 2)
    tongue = np.array((0.78, 0.33, 0.34), dtype=np.float32)[:, None, None]
    colors += 0.9 * bump(patch, (center, MOUTH + 0.75 * looks.mouth_open), (0.3, 0.17)) * (tongue - colors)
    depth = dice.between(0.09, 0.16) if looks.mouth_open > 0.24 else dice.between(0.10, 0.3)
    gaps = (1 - 0.10 * hump(np.abs(wave((patch.p - center) * 4.2)) * 6)) * (1 - 0.6 * across * across)
    teeth = coverage(patch, patch.q - upper_in - depth * np.minimum(1.25 * (1 - across * across), 1))
    ivory = ramp((0.62, 0.56, 0.53), (0.97, 0.95, 0.90), np.minimum(0.45 + (patch.q - upper_in) * 7, 1) * gaps)
    colors += teeth * (ivory - colors)
    return colors
