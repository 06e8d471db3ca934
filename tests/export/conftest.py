"""The graph that the targets build from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from fptk.data.synthetic import SyntheticFaces
from fptk.dataset import UInt8Array
from fptk.preprocess import PreprocessSpec

SPEC = PreprocessSpec(size=(64, 64))


@pytest.fixture(scope="session")
def graph(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The untrained network's deploy form as ONNX, with one metadata entry."""
    from fptk.export.onnx_export import export_onnx
    from fptk.models import load_checkpoint
    from fptk.pipeline import serving_module

    network, card = load_checkpoint(checkpoint)
    path = tmp_path_factory.mktemp("graph") / "fp32.onnx"
    module = serving_module(network, card.preprocess, "deploy")
    return export_onnx(module, path, card.preprocess, metadata={"fptk.model": card.model})


@pytest.fixture(scope="session")
def images() -> UInt8Array:
    """uint8 (4, 64, 64, 3)."""
    faces = SyntheticFaces(4, (64, 64), seed=1)
    return np.stack([faces[i].image for i in range(4)])


@pytest.fixture(scope="session")
def stream(images: UInt8Array) -> Callable[[], Iterable[UInt8Array]]:
    """The images as a calibration stream."""
    return lambda: (images[i : i + 1] for i in range(len(images)))
