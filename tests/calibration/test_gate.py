"""The accuracy gate on hand-made scores."""

from __future__ import annotations

import json

import pytest

from fptk.calibration.gate import GatePolicy, Verdict, evaluate_gate
from fptk.core.metrics import ClassScore, Scores


def scores(images: int = 10, miou: float | None = None, **classes: tuple[float | None, int]) -> Scores:
    """Scores with these (IoU, pixels) by class; the mean is theirs unless given."""
    present = [iou for iou, _ in classes.values() if iou is not None]
    mean = sum(present) / len(present) if miou is None else miou
    return Scores(
        miou=mean,
        f1=mean,
        f1_challenge=mean,
        f1_nobg=mean,
        pixel_accuracy=mean,
        per_class={name: ClassScore(iou=iou, f1=iou, pixels=pixels) for name, (iou, pixels) in classes.items()},
        images=images,
    )


LARGE, RARE = 100_000, 4_999


def test_equal_scores_pass() -> None:
    reference = scores(skin=(0.9, LARGE), hat=(0.5, LARGE))
    verdict = evaluate_gate(reference, reference)
    assert verdict.passed
    assert verdict.miou_drop == 0
    assert verdict.failed_classes == ()


def test_better_engine_passes_with_a_negative_drop() -> None:
    verdict = evaluate_gate(scores(skin=(0.9, LARGE)), scores(skin=(0.92, LARGE)))
    assert verdict.passed
    assert verdict.miou_drop == pytest.approx(-2)
    assert "+2.00 points" in verdict.summary


@pytest.mark.parametrize(("drop", "passed"), [(0.5, True), (0.51, False)])
def test_mean_drop_is_judged_in_points_and_the_limit_passes(drop: float, passed: bool) -> None:
    verdict = evaluate_gate(scores(skin=(0.9, LARGE)), scores(skin=(0.9 - drop / 100, LARGE)))
    assert verdict.passed is passed
    assert verdict.miou_failed is not passed


def test_class_collapse_hidden_by_the_mean_is_refused_and_named() -> None:
    reference = scores(miou=0.7, skin=(0.9, LARGE), eye_g=(0.5, LARGE), hat=(0.4, LARGE))
    engine = scores(miou=0.699, skin=(0.95, LARGE), eye_g=(0.469, LARGE), hat=(0.1, LARGE))
    verdict = evaluate_gate(reference, engine)
    assert not verdict.passed
    assert not verdict.miou_failed
    assert verdict.failed_classes == ("hat", "eye_g")
    assert "hat -30.0, eye_g -3.1" in verdict.summary
    assert verdict.summary.startswith("refused")


def test_rare_class_is_reported_not_judged() -> None:
    reference = scores(miou=0.7, skin=(0.9, LARGE), neck_l=(0.5, RARE))
    engine = scores(miou=0.7, skin=(0.9, LARGE), neck_l=(0.1, RARE))
    verdict = evaluate_gate(reference, engine)
    assert verdict.passed
    row = verdict.classes[1]
    assert (row.judged, row.failed) == (False, False)
    assert row.drop == pytest.approx(40)
    assert "too rare to judge: neck_l -40.0" in verdict.summary
    assert verdict.summary.endswith("1 of 2 classes judged, not neck_l")
    assert verdict.unjudged_classes == ("neck_l",)
    assert not evaluate_gate(reference, engine, GatePolicy(min_class_pixels=1000)).passed


def test_absent_classes_have_no_drop() -> None:
    reference = scores(miou=0.9, skin=(0.9, LARGE), hat=(None, 0), eye_g=(0.0, 0))
    engine = scores(miou=0.9, skin=(0.9, LARGE), hat=(0.0, 0), eye_g=(None, 0))
    verdict = evaluate_gate(reference, engine, GatePolicy(min_class_pixels=0))
    assert verdict.passed
    assert [row.drop for row in verdict.classes[1:]] == [None, None]
    assert not any(row.judged for row in verdict.classes[1:])


def test_nothing_to_judge_is_said() -> None:
    verdict = evaluate_gate(scores(hat=(0.5, RARE)), scores(hat=(0.5, RARE)))
    assert verdict.passed
    assert "no class has enough pixels" in verdict.summary


def test_nan_never_passes() -> None:
    assert not evaluate_gate(scores(skin=(0.9, LARGE)), scores(skin=(float("nan"), LARGE))).passed


@pytest.mark.parametrize(
    "engine", [scores(images=9, skin=(0.9, LARGE)), scores(skin=(0.9, 1)), scores(hat=(0.9, LARGE))]
)
def test_scores_of_another_set_are_a_bug(engine: Scores) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        evaluate_gate(scores(skin=(0.9, LARGE)), engine)


def test_verdict_survives_json() -> None:
    verdict = evaluate_gate(scores(skin=(0.9, LARGE), hat=(None, 0)), scores(skin=(0.8, LARGE), hat=(None, 0)))
    assert Verdict.model_validate_json(json.dumps(verdict.model_dump(mode="json"))) == verdict


def test_policy_refuses_negative_limits() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        GatePolicy(max_miou_drop=-1)
