"""One evaluation for every session: the PyTorch reference, and each engine as it was built."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array
from fptk.core.errors import InputError
from fptk.core.metrics import ConfusionMatrix, Scores
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.session import Session


def evaluate(
    session: Session,
    dataset: FaceParsingDataset,
    *,
    batch: int = 1,
    on_image: Callable[[int], None] | None = None,
    on_score: Callable[[float], None] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> Scores:
    """Score a session on a data set.

    Each image goes through ``session.spec``; each label map is brought to the size of its truth by nearest neighbour
    before it is counted, so that sessions of different input sizes answer the same question.

    Args:
        session: any engine.
        dataset: images with their true masks.
        batch: images per call of the session.
        on_image: called with the number of images done, after each batch.
        on_score: called with each image's own mean F1 (0-1), in order.
        on_sample: called with each sample after the session has seen its batch.

    Raises:
        InputError: the data set is empty or one of its files is damaged.
    """
    listener = None if on_score is None else lambda _, value: on_score(value)
    return evaluate_all([session], dataset, batch=batch, on_image=on_image, on_score=listener, on_sample=on_sample)[0]


def evaluate_all(
    sessions: list[Session],
    dataset: FaceParsingDataset,
    *,
    batch: int = 1,
    on_image: Callable[[int], None] | None = None,
    on_score: Callable[[int, float], None] | None = None,
    on_sample: Callable[[Sample], None] | None = None,
) -> list[Scores]:
    """Score several sessions in one pass over the data set, so that each image is decoded once.

    ``on_score`` gets the number of the session and the image's score.

    Returns:
        One :class:`Scores` per session, in order. See :func:`evaluate` for the rest.
    """
    if len(dataset) == 0:
        raise InputError(f"{dataset.name} holds no image to evaluate on")
    matrices = [ConfusionMatrix() for _ in sessions]
    for start in range(0, len(dataset), batch):
        samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
        prepared: dict[PreprocessSpec, UInt8Array] = {}
        for number, (session, matrix) in enumerate(zip(sessions, matrices, strict=True)):
            if session.spec not in prepared:
                prepared[session.spec] = np.stack([session.spec.apply(sample.image) for sample in samples])
            for sample, labels in zip(samples, session(prepared[session.spec]), strict=True):
                height, width = sample.mask.shape
                value = matrix.add(sample.mask, resize_labels(labels, (height, width)))
                if on_score:
                    on_score(number, value)
        if on_sample:
            for sample in samples:
                on_sample(sample)
        if on_image:
            on_image(start + len(samples))
    return [matrix.scores() for matrix in matrices]
