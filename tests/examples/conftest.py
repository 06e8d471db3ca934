"""Bundles of the shipped weights and a photograph, for the programs in other languages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fptk as api
from fptk.core.classes import CELEBAMASK
from fptk.core.dataset import UInt8Array
from fptk.core.evaluation import predict
from fptk.core.preprocess import read_image
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import open_bundle

EXAMPLES = Path(__file__).parents[2] / "examples"
AGREEMENT = 0.999
"""Share of pixels that an FP32 engine in another language labels as fptk does."""
SIZES = [
    ((64, 64), (32, 32)),
    ((301, 229), (64, 96)),
    ((31, 45), (128, 64)),
    ((64, 100), (64, 32)),
    ((1, 1), (32, 32)),
    ((120, 90), (64, 64)),
    ((90, 120), (64, 64)),
    ((100, 40), (64, 64)),
    ((104, 84), (64, 64)),
    ((105, 84), (64, 64)),
]
"""Height and width before and after."""


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both CPU targets' FP32 bundles of the shipped weights."""
    out = tmp_path_factory.mktemp("bundles")
    api.build(precisions=("fp32",), gate=None, out=out)
    return out / "bundles"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic photograph of another size than the engines take."""
    path = tmp_path_factory.mktemp("photo") / "face.png"
    Image.fromarray(draw_face(0, 3, (720, 640))[0]).save(path)
    return path


def labels_of_fptk(bundle: Path, photo: Path) -> UInt8Array:
    _, session = open_bundle(bundle)
    with session:
        labels = predict(session, read_image(photo))
    assert len(np.unique(labels)) > 5
    return labels


def labels_of_mask(path: Path) -> UInt8Array:
    """The classes of a picture in their colors."""
    codes = [red << 16 | green << 8 | blue for red, green, blue in CELEBAMASK.palette]
    with Image.open(path) as mask:
        colors = np.asarray(mask.convert("RGB")).astype(np.int64)
    pixels = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    assert np.isin(pixels, codes).all()
    table = {code: index for index, code in enumerate(codes)}
    return np.vectorize(table.__getitem__, otypes=[np.uint8])(pixels)
