"""Evaluation: what is counted, at which size, and that one pass scores several sessions."""

from __future__ import annotations

import numpy as np
import pytest

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate, evaluate_all, predict
from fptk.core.metrics import ConfusionMatrix
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.session import Session
from fptk.data.splits import Subset
from fptk.data.synthetic.faces import SyntheticFaces


class Oracle(Session):
    """Answers with given label maps, in order, resized to its own size."""

    def __init__(self, answers: list[UInt8Array], size: tuple[int, int]) -> None:
        super().__init__("oracle", PreprocessSpec(size=size))
        self.answers = iter(answers)

    def _infer(self, images: UInt8Array) -> UInt8Array:
        return np.stack([resize_labels(next(self.answers), self.spec.size) for _ in images])


@pytest.fixture
def faces() -> SyntheticFaces:
    return SyntheticFaces(5, (64, 64))


def test_perfect_answers_score_one(faces: SyntheticFaces) -> None:
    scores = evaluate(Oracle([faces[i].mask for i in range(5)], (64, 64)), faces, batch=2)
    assert scores.miou == scores.f1 == scores.f1_challenge == scores.pixel_accuracy == 1
    assert scores.images == 5


def test_a_smaller_engine_is_scored_at_the_size_of_the_truth(faces: SyntheticFaces) -> None:
    masks = [faces[i].mask for i in range(5)]
    scores = evaluate(Oracle(masks, (32, 32)), faces)
    expected = ConfusionMatrix()
    for mask in masks:
        expected.add(mask, resize_labels(resize_labels(mask, (32, 32)), (64, 64)))
    assert scores == expected.scores()
    assert scores.miou < 1


def test_one_pass_scores_sessions_like_passes_of_their_own(faces: SyntheticFaces) -> None:
    masks = [faces[i].mask for i in range(5)]
    wrong = [np.roll(mask, 3, axis=0) for mask in masks]
    both = evaluate_all([Oracle(masks, (64, 64)), Oracle(wrong, (64, 64))], faces)
    assert both[0] == evaluate(Oracle(masks, (64, 64)), faces)
    assert both[1] == evaluate(Oracle(wrong, (64, 64)), faces)
    assert both[1].miou < both[0].miou


def test_an_empty_set_is_refused(faces: SyntheticFaces) -> None:
    with pytest.raises(InputError, match="no image"):
        evaluate(Oracle([], (64, 64)), Subset(faces, []))


def test_a_session_refuses_images_it_was_not_made_for() -> None:
    session = Oracle([], (64, 64))
    with pytest.raises(ValueError, match="uint8"):
        session(np.zeros((1, 64, 64, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="shape"):
        session(np.zeros((1, 32, 64, 3), np.uint8))


def test_a_photograph_is_labelled_at_its_own_size(faces: SyntheticFaces) -> None:
    sample = faces[0]
    labels = predict(Oracle([sample.mask], (32, 32)), np.zeros((48, 96, 3), np.uint8))
    assert np.array_equal(labels, resize_labels(resize_labels(sample.mask, (32, 32)), (48, 96)))
