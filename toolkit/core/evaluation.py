"""One evaluation for every session: the PyTorch reference, and each engine as it was built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fptk.core.classes import check_same
from fptk.core.dataset import FaceParsingDataset, Sample, UInt8Array
from fptk.core.errors import InputError
from fptk.core.metrics import ConfusionMatrix, Scores
from fptk.core.preprocess import PreprocessSpec, resize_labels
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session


def predict(session: Session, image: UInt8Array) -> UInt8Array:
    """Label one photograph at its own size.

    Args:
        session: any engine.
        image: uint8 (H, W, 3) RGB.

    Returns:
        Labels, uint8 (H, W), indices of the session's classes.
    """
    labels = session(session.spec.apply(image)[None])[0]
    height, width = image.shape[:2]
    return resize_labels(labels, (height, width))


def predictions(
    session: Session, dataset: FaceParsingDataset, *, batch: int = 1, listener: Listener = SILENT
) -> Iterator[tuple[Sample, UInt8Array]]:
    """Label every image of a data set.

    Each image goes through ``session.spec``; each label map is brought to the size of its truth by nearest neighbour,
    so that sessions of different input sizes answer the same question.

    Args:
        session: any engine.
        dataset: images with their true masks.
        batch: images per call of the session.
        listener: is told how many images are done.

    Yields:
        Sample and labels, uint8 (H, W) as its mask, in the order of the data set.

    Raises:
        InputError: the data set is empty, has other classes than the session, or one of its files is damaged.
    """
    for sample, (labels,) in joint_predictions([session], dataset, batch=batch, listener=listener):
        yield sample, labels


def joint_predictions(
    sessions: Sequence[Session], dataset: FaceParsingDataset, *, batch: int = 1, listener: Listener = SILENT
) -> Iterator[tuple[Sample, list[UInt8Array]]]:
    """As :func:`predictions` with several sessions in one pass, so that each image is decoded once.

    Yields:
        Sample, and the labels of each session in order.
    """
    if len(dataset) == 0:
        raise InputError(f"{dataset.name} holds no image to evaluate on")
    for session in sessions:
        check_same(session.classes, session.name, dataset.classes, dataset.name)
    what = sessions[0].name if len(sessions) == 1 else "scoring"
    with listener.counting(what, len(dataset)) as update:
        for start in range(0, len(dataset), batch):
            samples = [dataset[i] for i in range(start, min(start + batch, len(dataset)))]
            prepared: dict[PreprocessSpec, UInt8Array] = {}
            found = []
            for session in sessions:
                if session.spec not in prepared:
                    prepared[session.spec] = np.stack([session.spec.apply(sample.image) for sample in samples])
                found.append(session(prepared[session.spec]))
            for sample, labels in zip(samples, zip(*found, strict=True), strict=True):
                height, width = sample.mask.shape
                yield sample, [resize_labels(each, (height, width)) for each in labels]
            update(start + len(samples))


def evaluate(session: Session, dataset: FaceParsingDataset, *, batch: int = 1, listener: Listener = SILENT) -> Scores:
    """Score a session on a data set; see :func:`predictions` for arguments and errors."""
    return evaluate_all([session], dataset, batch=batch, listener=listener)[0]


def evaluate_all(
    sessions: Sequence[Session], dataset: FaceParsingDataset, *, batch: int = 1, listener: Listener = SILENT
) -> list[Scores]:
    """Score several sessions in one pass over the data set: one :class:`Scores` per session, in order."""
    matrices = [ConfusionMatrix(session.classes) for session in sessions]
    for sample, labels in joint_predictions(sessions, dataset, batch=batch, listener=listener):
        for matrix, each in zip(matrices, labels, strict=True):
            matrix.add(sample.mask, each)
    return [matrix.scores() for matrix in matrices]
