from __future__ import annotations

import json

import numpy as np
import pytest

from fptk.core.classes import CELEBAMASK, CLASSES, ClassSet
from fptk.core.metrics import ConfusionMatrix, Scores


def score(*pairs: tuple[object, object], num_classes: int = 19) -> Scores:
    """Scores of (truth, prediction) label maps."""
    matrix = ConfusionMatrix(CELEBAMASK if num_classes == 19 else ClassSet(names=tuple(map(str, range(num_classes)))))
    for truth, prediction in pairs:
        matrix.add(np.atleast_2d(np.asarray(truth, np.uint8)), np.atleast_2d(np.asarray(prediction, np.uint8)))
    return matrix.scores()


def random_maps(seed: int, classes: list[int], images: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label maps whose predictions are right in two pixels of three."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        truth = rng.choice(classes, (24, 20)).astype(np.uint8)
        noise = rng.choice(classes, (24, 20)).astype(np.uint8)
        pairs.append((truth, np.where(rng.random((24, 20)) < 2 / 3, truth, noise)))
    return pairs


@pytest.mark.parametrize("classes", [list(range(19)), [0, 1, 2, 13, 17], [3, 18]])
@pytest.mark.parametrize("seed", [0, 1])
def test_scores_agree_with_scikit_learn(seed, classes):
    from sklearn import metrics

    pairs = random_maps(seed, classes)
    truth = np.concatenate([pair[0].ravel() for pair in pairs])
    prediction = np.concatenate([pair[1].ravel() for pair in pairs])
    scores = score(*pairs)
    # scikit-learn's macro average runs over the labels that occur on either side, which is the policy here too.
    assert scores.miou == pytest.approx(metrics.jaccard_score(truth, prediction, average="macro"), abs=1e-12)
    assert scores.f1 == pytest.approx(metrics.f1_score(truth, prediction, average="macro"), abs=1e-12)
    assert scores.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth, prediction), abs=1e-12)
    faces = [label for label in classes if label > 0]
    expected = metrics.f1_score(truth, prediction, labels=faces, average="macro")
    assert scores.f1_nobg == pytest.approx(expected, abs=1e-12)
    each = metrics.jaccard_score(truth, prediction, labels=classes, average=None)
    for label, iou in zip(classes, each, strict=True):
        assert scores.per_class[CLASSES[label]].iou == pytest.approx(iou, abs=1e-12)
        assert scores.per_class[CLASSES[label]].pixels == (truth == label).sum()


@pytest.mark.parametrize("seed", [0, 1])
def test_challenge_score_agrees_with_scikit_learn_image_by_image(seed):
    from sklearn import metrics

    pairs = random_maps(seed, [0, 1, 2, 13, 17])
    pairs.append((np.zeros((24, 20), np.uint8), pairs[0][1]))
    expected = [
        metrics.f1_score(t.ravel(), p.ravel(), labels=np.unique(t), average="macro", zero_division=0) for t, p in pairs
    ]
    assert score(*pairs).f1_challenge == pytest.approx(np.mean(expected), abs=1e-12)


def test_class_absent_from_truth_and_prediction_has_no_score_and_no_part_in_the_means():
    scores = score(([0, 0, 1, 1], [0, 0, 1, 0]))
    # background: tp 2, fp 1; skin: tp 1, fn 1
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.f1 == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert scores.f1_nobg == pytest.approx(2 / 3)
    assert scores.pixel_accuracy == 0.75
    hat = scores.per_class["hat"]
    assert (hat.iou, hat.f1, hat.pixels) == (None, None, 0)


def test_class_predicted_but_never_true_scores_zero_and_counts():
    scores = score(([0, 0, 1, 1], [0, 0, 1, 14]))
    hat = scores.per_class["hat"]
    assert (hat.iou, hat.f1, hat.pixels) == (0.0, 0.0, 0)
    assert scores.miou == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert scores.f1_challenge == pytest.approx((1 + 2 / 3) / 2), "the hat is not in this image's truth"


def test_class_true_but_never_predicted_scores_zero_and_counts():
    scores = score(([0, 0, 0, 3], [0, 0, 0, 0]))
    assert scores.per_class["eye_g"].iou == 0.0
    assert scores.per_class["eye_g"].pixels == 1
    assert scores.miou == pytest.approx(3 / 4 / 2)
    assert scores.f1_nobg == 0.0


def test_set_scores_come_from_one_matrix_and_not_from_the_mean_of_images():
    first, second = ([1, 1, 1, 1], [1, 1, 1, 1]), ([1, 0, 0, 0], [0, 0, 0, 0])
    scores = score(first, second)
    assert scores.per_class["skin"].iou == pytest.approx(4 / 5)
    assert scores.images == 2
    # image 1: skin 1; image 2: background 6/7, skin 0
    assert scores.f1_challenge == pytest.approx((1 + (6 / 7 + 0) / 2) / 2)


def test_perfect_prediction_scores_one_everywhere():
    truth = np.arange(19, dtype=np.uint8).reshape(1, 19)
    scores = score((truth, truth))
    assert (scores.miou, scores.f1, scores.f1_challenge, scores.f1_nobg, scores.pixel_accuracy) == (1, 1, 1, 1, 1)


def test_background_only_has_no_face_to_score():
    assert score(([0, 0], [0, 0])).f1_nobg == 0.0


def test_adding_in_another_order_changes_nothing():
    pairs = random_maps(3, list(range(19)))
    assert score(*pairs).miou == score(*reversed(pairs)).miou


def test_counts_have_truth_in_rows():
    matrix = ConfusionMatrix()
    matrix.add(np.array([[1, 1, 2]], np.uint8), np.array([[1, 2, 2]], np.uint8))
    assert (matrix.counts[1, 1], matrix.counts[1, 2], matrix.counts[2, 1], matrix.counts[2, 2]) == (1, 1, 0, 1)
    assert matrix.counts.sum() == 3


def test_scores_become_json():
    scores = score(([0, 1], [0, 2]))
    value = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert value["per_class"]["hat"] == {"iou": None, "f1": None, "pixels": 0}
    assert list(value["per_class"]) == list(CLASSES)
    assert value["images"] == 1


def test_wrong_shapes_labels_and_an_empty_set_are_refused():
    matrix = ConfusionMatrix()
    with pytest.raises(ValueError, match="no image"):
        matrix.scores()
    zeros = np.zeros((2, 2), np.uint8)
    with pytest.raises(ValueError, match="shape"):
        matrix.add(zeros, np.zeros((2, 3), np.uint8))
    for truth, prediction in ((zeros + 19, zeros), (zeros, zeros + 255)):
        with pytest.raises(ValueError, match="below 19"):
            matrix.add(truth.astype(np.uint8), prediction.astype(np.uint8))
    assert matrix.counts.sum() == 0
