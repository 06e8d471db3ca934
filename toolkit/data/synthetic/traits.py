"""Who is in a synthetic picture: everything about a face that is drawn by lot before anything is painted.

Lengths are in head units: half the width of the head at the temples. The eyes lie at height 0, the chin near 1.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fptk.data.synthetic.canvas import Color, Dice, Frame, mix, scale

SKIN_TONES: tuple[Color, ...] = (
    (0.98, 0.86, 0.77),
    (0.96, 0.80, 0.69),
    (0.91, 0.72, 0.58),
    (0.82, 0.62, 0.47),
    (0.70, 0.50, 0.36),
    (0.56, 0.38, 0.27),
    (0.44, 0.29, 0.21),
    (0.36, 0.24, 0.18),
)
HAIR_COLORS: tuple[Color, ...] = (
    (0.10, 0.08, 0.08),
    (0.14, 0.10, 0.08),
    (0.24, 0.15, 0.10),
    (0.36, 0.22, 0.13),
    (0.47, 0.24, 0.12),
    (0.55, 0.25, 0.12),
    (0.66, 0.49, 0.28),
    (0.86, 0.71, 0.44),
    (0.62, 0.61, 0.61),
    (0.86, 0.84, 0.80),
    (0.80, 0.38, 0.52),
    (0.24, 0.38, 0.60),
)
IRIS_COLORS: tuple[Color, ...] = (
    (0.28, 0.16, 0.08),
    (0.40, 0.25, 0.12),
    (0.32, 0.42, 0.22),
    (0.28, 0.46, 0.62),
    (0.45, 0.52, 0.56),
)
LIPSTICKS: tuple[Color, ...] = ((0.75, 0.12, 0.18), (0.62, 0.10, 0.28), (0.85, 0.30, 0.35), (0.50, 0.10, 0.14))

EYE_DEPTH, MOUTH_DEPTH, NOSE_DEPTH = 1.15, 1.25, 1.5
"""How far features lie before the axis that the head turns about."""


@dataclass(frozen=True)
class Pose:
    """Where the head is and how it is turned.

    Attributes:
        head, body: frames of the two; the body follows only a part of the head's tilt.
        yaw: sine of the turn; positive turns the face to the picture's right.
    """

    head: Frame
    body: Frame
    yaw: float

    def place(self, p: float, depth: float) -> float:
        """Where a feature at ``p`` of the frontal face lies after the turn."""
        side = p / depth
        return depth * (side * math.sqrt(1 - self.yaw * self.yaw) + math.sqrt(1 - side * side) * self.yaw)

    def narrowing(self, p: float, depth: float) -> float:
        """Factor on the width of a feature at ``p``: below 1 on the side turned away."""
        side = p / depth
        return math.sqrt(1 - self.yaw * self.yaw) - side / math.sqrt(1 - side * side) * self.yaw


@dataclass(frozen=True)
class Looks:
    """Colours, proportions and belongings of one person. ``None`` means: has none."""

    skin: Color
    hair: Color
    iris: Color
    lips: Color
    light: tuple[float, float]
    """Where the light comes from: -1 to 1 to the right, -1 to 1 downwards."""
    jaw: float
    """How much the face narrows towards the chin, 0.1 to 0.3."""
    square: float
    """How square it is, 0 to 0.45."""
    chin: float
    """Height of the chin."""
    eye: float
    """Openness of the eyes, 0.8 to 1.15."""
    mouth_open: float
    """Opening between the lips; 0 is closed."""
    smile: float
    beard: float
    """0 shaved, 1 dense."""
    hair_style: str | None
    ears_covered: tuple[bool, bool]
    """Whether hair hangs over the ear on the picture's left and right."""
    hat: str | None
    glasses: str | None
    earrings: str | None
    necklace: str | None
    occluder: str | None

    def shadow(self) -> Color:
        """Colour of the skin in shadow: darker and a little redder."""
        red, green, blue = self.skin
        return red * 0.62, green * 0.53, blue * 0.50

    def lit(self) -> Color:
        """Colour of the skin in full light."""
        return mix(scale(self.skin, 1.06), (1.0, 0.97, 0.92), 0.10)


def draw_pose(dice: Dice, size: tuple[int, int]) -> Pose:
    """Draw scale, place, tilt and turn by lot."""
    unit = dice.between(0.205, 0.246)
    origin = (dice.between(-0.07, 0.07), dice.between(-0.075, -0.02))
    tilt = dice.between(-0.22, 0.22) * dice.between(0.2, 1.0)
    head = Frame(size, origin, unit, tilt)
    x, y = head.to_picture(0.0, 1.0)
    sine = 0.25 * tilt
    body = Frame(size, (x + sine * unit, y - math.sqrt(1 - sine * sine) * unit), unit, sine)
    return Pose(head, body, dice.between(-0.28, 0.28))


def draw_looks(dice: Dice) -> Looks:
    """Draw a person by lot."""
    tone = dice.between(0, len(SKIN_TONES) - 1.001)
    skin = mix(SKIN_TONES[int(tone)], SKIN_TONES[int(tone) + 1], tone % 1)
    hair = scale(HAIR_COLORS[_hair_index(dice)], dice.between(0.85, 1.2))
    lips = mix((skin[0] * 0.90, skin[1] * 0.55, skin[2] * 0.55), dice.pick(LIPSTICKS), dice.pick((0.15, 0.25, 0.75)))
    hat = dice.pick(("beanie", "cap", "brim")) if dice.chance(0.36) else None
    style = None if dice.chance(0.1) else dice.pick(("short", "short", "fringe", "long", "long", "curly", "bun"))
    may_cover = 0.5 if style == "long" else 0.0
    return Looks(
        skin=skin,
        hair=hair,
        iris=dice.pick(IRIS_COLORS),
        lips=lips,
        light=(dice.between(-1, 1), dice.between(-1, 0.1)),
        jaw=dice.between(0.12, 0.26),
        square=dice.between(0.0, 0.42),
        chin=dice.between(1.42, 1.58),
        eye=dice.between(0.82, 1.12),
        mouth_open=dice.between(0.15, 0.42) if dice.chance(0.55) else 0.0,
        smile=dice.between(-0.03, 0.13),
        beard=dice.between(0.35, 0.85) if dice.chance(0.14) else 0.0,
        hair_style=style,
        ears_covered=(dice.chance(may_cover), dice.chance(may_cover)),
        hat=hat,
        glasses=dice.pick(("clear", "clear", "tinted", "sun")) if dice.chance(0.34) else None,
        earrings=dice.pick(("hoop", "drop", "stud")) if dice.chance(0.5) else None,
        necklace=dice.pick(("chain", "beads", "pendant")) if dice.chance(0.48) else None,
        occluder=dice.pick(("strand", "hand", "object")) if dice.chance(0.12) else None,
    )


def _hair_index(dice: Dice) -> int:
    """Natural colours, and rarely one of the two dyes at the end of the list."""
    natural = len(HAIR_COLORS) - 2
    return natural + int(dice.unit() * 2) if dice.chance(0.06) else int(dice.unit() * natural)


def vivid(dice: Dice) -> Color:
    """A colour for clothes and things: any hue, pale to strong, dark to bright."""
    hue, value, strength = dice.between(0, 6), dice.between(0.2, 0.95), dice.between(0.15, 0.85)
    red, green, blue = (
        min(max(abs((hue + shift) % 6 - 3) - 1, 0.0), 1.0) * strength * value + (1 - strength) * value
        for shift in (0, 4, 2)
    )
    return red, green, blue
