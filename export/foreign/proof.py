"""The proof of a foreign network's graph: the same labels as its file gives, on images, ties aside.

Float arithmetic rounds, and a rewrite rounds otherwise. Two classes of a pixel are a tie where the reference's scores
of them differ by at most :data:`TIE` of its largest score: there either label may come out. Everywhere else labels must
be equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.dataset import UInt8Array
from fptk.export.foreign.file import Interface
from fptk.export.foreign.session import feed, full_scores, labels_of
from fptk.export.onnx import INPUT_NAME

if TYPE_CHECKING:
    import onnx

TIE = 1e-4
"""Largest error of a rewrite, and largest distance of two scores that are a tie, as shares of the largest score."""


class RewriteRecord(BaseModel):
    """What became of one rewrite of a foreign network."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kept: bool
    """Whether it is part of the engine."""
    summary: str
    """What it does, or why it was dropped."""
    images: int
    """Images that it was tried on."""
    relative_error: float | None
    """Largest difference of a score, as a share of the largest score; ``None`` where only labels were compared."""
    turned_pixels: int
    """Pixels that got another label: ties, where it was kept."""

    @property
    def objection(self) -> str:
        """Why it was dropped."""
        return self.summary.removeprefix("dropped: ")

    @property
    def told(self) -> str:
        """One line for people."""
        error = "" if self.relative_error is None else f", scores off by {self.relative_error:.1e} of the largest"
        proven = f" (on {self.images} images{error}, {self.turned_pixels} pixels turned)" if self.kept else ""
        return f"{self.name}: {self.summary}{proven}"


class Proof:
    """Compares graphs with the file that they come from.

    Args:
        raw: the network's own output for each image.
        interface: how it is fed and read.
        images: uint8 (N, H, W, 3).
    """

    def __init__(self, raw: Sequence[npt.NDArray[Any]], interface: Interface, images: UInt8Array) -> None:
        self.interface, self.images = interface, images
        self._raw = raw
        self._largest = max(float(np.abs(raw).max(initial=0)) for raw in self._raw) or 1.0

    def network(self, name: str, summary: str, model: onnx.ModelProto, interface: Interface) -> RewriteRecord:
        """Compare the output of a rewritten network with the file's."""
        session = open_cpu_session(model.SerializeToString())
        error, turned, wrong = 0.0, 0, 0
        for image, raw in zip(self.images, self._raw, strict=True):
            (found,) = session.run([interface.output], {interface.input: feed(image[None], interface)})
            if found.shape != raw.shape:
                return self._record(name, summary, None, 0, f"its output is {list(found.shape)}, not {list(raw.shape)}")
            if interface.kind == "scores":
                error = max(error, float(np.abs(found - raw).max()) / self._largest)
            counts = self._compare(raw, labels_of(found, self.interface)[0])
            turned, wrong = turned + counts[0], wrong + counts[1]
        objection = f"it turns {wrong} pixels that are no ties" if wrong else ""
        if error > TIE:
            objection = f"its scores are off by {error:.1e} of the largest"
        return self._record(name, summary, error if interface.kind == "scores" else None, turned, objection)

    def labels(self, name: str, summary: str, model: onnx.ModelProto, batch: int | None) -> RewriteRecord:
        """Compare the labels of a whole graph with those of the file."""
        session = open_cpu_session(model.SerializeToString())
        parts = [self.images] if batch is None else [image[None] for image in self.images]
        labels = np.concatenate([session.run(None, {INPUT_NAME: part})[0] for part in parts])
        counts = [self._compare(raw, each) for raw, each in zip(self._raw, labels, strict=True)]
        wrong = sum(each[1] for each in counts)
        objection = f"it turns {wrong} pixels that are no ties" if wrong else ""
        return self._record(name, summary, None, sum(each[0] for each in counts), objection)

    def _compare(self, raw: npt.NDArray[Any], labels: UInt8Array) -> tuple[int, int]:
        """Pixels of one image whose label is another than the file's, and those of them that are no ties."""
        differs = labels_of(raw, self.interface)[0] != labels
        turned = int(differs.sum())
        if not turned or self.interface.kind == "labels":
            return turned, turned
        scores = full_scores(raw, self.interface)[0][:, differs]  # (C, turned)
        chosen = np.take_along_axis(scores, labels[differs][None].astype(np.int64), axis=0)[0]
        return turned, int((scores.max(axis=0) - chosen > TIE * self._largest).sum())

    def _record(self, name: str, summary: str, error: float | None, turned: int, objection: str) -> RewriteRecord:
        return RewriteRecord(
            name=name,
            kept=not objection,
            summary=f"dropped: {objection}" if objection else summary,
            images=len(self.images),
            relative_error=error,
            turned_pixels=turned,
        )
