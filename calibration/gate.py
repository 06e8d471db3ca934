"""The accuracy gate: an engine as built against the network itself in FP32, on the mean and class by class."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fptk.core.metrics import ClassScore, Scores


class Decision(StrEnum):
    """What became of an engine."""

    PASS = "pass"
    REFUSED = "refused"
    NOT_JUDGED = "not judged"
    """There was no gate, no evaluation data or no reference."""
    UNAVAILABLE = "unavailable"
    """This host could not build it."""


class GatePolicy(BaseModel):
    """What an engine may lose, in points (hundredths) of IoU."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_miou_drop: float = Field(default=0.5, ge=0)
    """Drop of the mean IoU that still passes."""
    max_class_drop: float = Field(default=3.0, ge=0)
    """Drop of one class's IoU that still passes."""
    min_class_pixels: int = Field(default=5000, ge=0)
    """A class with fewer pixels than this in the whole evaluation truth is reported, not judged: ten 500-pixel earrings
    are few enough that one face decides about several points."""
    max_agreement_drop: float = Field(default=2.0, ge=0)
    """Points (hundredths of the pixels) by which an instruction set may agree less with the FP32 reference than the one
    that agrees best: a kernel that computes noise, or sums that saturate, fall far below that."""


class ClassVerdict(BaseModel):
    """One class under the gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Name of the class."""
    pixels: int
    """Pixels of the class in the evaluation truth."""
    reference_iou: float | None
    """0-1; ``None`` where the class occurs in neither truth nor prediction."""
    iou: float | None
    """The engine's, 0-1; ``None`` as above."""
    drop: float | None
    """Reference minus engine, in points; ``None`` where one of them has no IoU."""
    judged: bool
    """Whether the images show enough of it."""
    failed: bool
    """Judged, and fallen too far."""


class Verdict(BaseModel):
    """What the gate says about one engine, and why."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: bool
    """Whether the engine may ship."""
    policy: GatePolicy
    """The limits it was held to."""
    reference_miou: float
    """0-1."""
    miou: float
    """The engine's, 0-1."""
    miou_drop: float
    """Reference minus engine, in points; negative where the engine is better."""
    miou_failed: bool
    """Whether the mean fell too far."""
    classes: tuple[ClassVerdict, ...]
    """In class order."""
    summary: str
    """One line: the drop of the mean, and the classes that failed or came nearest to it, worst first."""

    @property
    def failed_classes(self) -> tuple[str, ...]:
        """Names of the classes that fell too far, worst first."""
        return tuple(row.name for row in _by_drop(self.classes) if row.failed)

    @property
    def unjudged_classes(self) -> tuple[str, ...]:
        """Names of the classes that the images don't show, or show too little of, in class order."""
        return tuple(row.name for row in self.classes if not row.judged)

    def refused_because(self, reason: str) -> Verdict:
        """The same figures, refused for a reason that they don't show."""
        return self.model_copy(update={"passed": False, "summary": f"refused: {reason}; {self.summary}"})


class BuilderRefusal(BaseModel):
    """An engine that its own builder refused, so that there was nothing to score."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: Literal[False] = False
    """Always ``False``."""
    summary: str
    """Why, in one line."""


def evaluate_gate(reference: Scores, candidate: Scores, policy: GatePolicy | None = None) -> Verdict:
    """Compare an engine's scores with those of the network it came from.

    Args:
        reference: scores of the PyTorch FP32 session.
        candidate: scores of the engine as built, on the same images.
        policy: what may be lost; ``None`` takes the defaults.

    Raises:
        ValueError: the two were scored on different sets or classes (a bug of the caller).
    """
    policy = policy or GatePolicy()
    _check_same_set(reference, candidate)
    rows = tuple(
        _judge_class(name, score, candidate.per_class[name], policy) for name, score in reference.per_class.items()
    )
    drop = 100 * (reference.miou - candidate.miou)
    # A drop of exactly the limit passes; 1e-9 keeps binary fractions from deciding it.
    miou_failed = not drop <= policy.max_miou_drop + 1e-9
    passed = not miou_failed and not any(row.failed for row in rows)
    return Verdict(
        passed=passed,
        policy=policy,
        reference_miou=reference.miou,
        miou=candidate.miou,
        miou_drop=drop,
        miou_failed=miou_failed,
        classes=rows,
        summary=_summary(passed, drop, rows, policy),
    )


def _judge_class(name: str, reference: ClassScore, candidate: ClassScore, policy: GatePolicy) -> ClassVerdict:
    drop = None
    if reference.iou is not None and candidate.iou is not None:
        drop = 100 * (reference.iou - candidate.iou)
    judged = drop is not None and reference.pixels >= max(1, policy.min_class_pixels)
    return ClassVerdict(
        name=name,
        pixels=reference.pixels,
        reference_iou=reference.iou,
        iou=candidate.iou,
        drop=drop,
        judged=judged,
        failed=judged and drop is not None and not drop <= policy.max_class_drop + 1e-9,
    )


def _summary(passed: bool, drop: float, rows: tuple[ClassVerdict, ...], policy: GatePolicy) -> str:
    ordered = _by_drop(rows)
    failed = [row for row in ordered if row.failed]
    unjudged = [row for row in ordered if not row.judged and (row.drop or 0) > policy.max_class_drop]
    mean = f"mIoU {-drop:+.2f} points (allowed {-policy.max_miou_drop:+.2f})"
    unnamed = [row.name for row in rows if not row.judged]
    coverage = f"{len(rows) - len(unnamed)} of {len(rows)} classes judged"
    if unnamed:
        coverage += f", not {', '.join(unnamed)}"
    if failed:
        detail = f"class IoU fell by more than {policy.max_class_drop:g} points: {_named(failed[:5])}"
        if len(failed) > 5:
            detail += f" and {len(failed) - 5} more"
    else:
        worst = next((row for row in ordered if row.judged), None)
        detail = f"worst class {_named([worst])}" if worst else "no class has enough pixels to be judged"
    if unjudged:
        detail += f"; too rare to judge: {_named(unjudged[:3])}"
    return f"{'passed' if passed else 'refused'}: {mean}; {detail}; {coverage}"


def _named(rows: list[ClassVerdict]) -> str:
    return ", ".join(f"{row.name} {-(row.drop or 0.0):+.1f}" for row in rows)


def _by_drop(rows: tuple[ClassVerdict, ...]) -> list[ClassVerdict]:
    """Rows that have a drop, the largest first."""
    return sorted((row for row in rows if row.drop is not None), key=lambda row: -(row.drop or 0.0))


def _check_same_set(reference: Scores, candidate: Scores) -> None:
    truth = {name: score.pixels for name, score in reference.per_class.items()}
    other = {name: score.pixels for name, score in candidate.per_class.items()}
    if reference.images != candidate.images or truth != other:
        raise ValueError(
            f"the reference was scored on {reference.images} images, the engine on {candidate.images}, "
            "or on other truth: they cannot be compared"
        )
