"""A foreign network in fptk's contract: the same labels as its file, in every form, however it was written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fptk.core.dataset import UInt8Array
from fptk.core.errors import InputError
from fptk.export.foreign.proof import TIE
from fptk.export.foreign.session import upsample
from fptk.export.foreign.source import OnnxSource
from fptk.export.network_source import GraphRequest
from fptk.models.engine_form import ENGINES

from .networks import DESCRIPTION, Small

FORMS = ("onnxruntime", "openvino", "tensorrt")
INSIDE = {"normalization": "inside", "mean": None, "std": None}
WRITTEN: list[tuple[Small, dict[str, Any]]] = [
    (Small(), {}),
    (Small(), {"channels": "bgr"}),
    (Small(layout="NHWC"), {"channels": "bgr"}),
    (Small(layout="NHWC", open=(0,)), {}),
    (Small(pixels="uint8"), INSIDE),
    (Small(pixels="uint8", layout="NHWC"), {**INSIDE, "channels": "bgr"}),
    (Small(inside=True), INSIDE),
    (Small(end="probabilities"), {}),
    (Small(end="labels"), {}),
    (Small(end="labels4", mode="align_corners"), {}),
    (Small(end="coarse"), {}),
    (Small(end="coarse"), {"upsampling": "align-corners"}),
    (Small(mode="align_corners", open=(0, 2, 3), opset=13), {"size": [64, 64]}),
    (Small(mode="asymmetric", opset=20), {}),
    (Small(end="probabilities", opset=11), {}),
]


def described(**fields: Any) -> dict[str, Any]:
    """The description of the small network with other fields; ``None`` leaves one out."""
    return {key: value for key, value in {**DESCRIPTION, **fields}.items() if value is not None}


def by_hand(path: Path, network: Small, fields: dict[str, Any], images: UInt8Array) -> npt.NDArray[np.float64]:
    """Scores (N, C, H, W) of every pixel, from the file in ONNX Runtime and this test's own arithmetic alone."""
    import onnxruntime

    x: Any = images
    if network.pixels == "float32":
        x = images.astype(np.float32)
        if not fields.get("normalization"):
            x = (x / 255 - np.float32(DESCRIPTION["mean"])) / np.float32(DESCRIPTION["std"])
    x = x[..., ::-1] if fields.get("channels") == "bgr" else x
    x = x.transpose(0, 3, 1, 2) if network.layout == "NCHW" else x
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    out = np.concatenate([session.run(None, {"images": np.ascontiguousarray(each[None])})[0] for each in x])
    if network.end.startswith("labels"):
        return np.eye(network.classes)[out.reshape(-1, 64, 64)].transpose(0, 3, 1, 2)
    if network.end == "coarse":
        out = upsample(out, (64, 64), aligned=fields.get("upsampling") == "align-corners")
    return out.astype(np.float64)


@pytest.mark.parametrize(("network", "fields"), WRITTEN)
def test_every_form_gives_the_labels_of_the_file(
    network: Small, fields: dict[str, Any], images: UInt8Array, tmp_path: Path
) -> None:
    import onnxruntime

    path = network.save(tmp_path / "net.onnx")
    given = described(**fields)
    if fields.get("channels") == "bgr" and "mean" in given:  # the means are the network's, so in its order
        given |= {"mean": given["mean"][::-1], "std": given["std"][::-1]}
    scores = by_hand(path, network, fields, images)
    source = OnnxSource(path, given)
    with source.session() as session:
        assert_same_labels(session(images), scores)
    for graph, form in (("original", "onnxruntime"), *(("deploy", form) for form in FORMS)):
        request = GraphRequest(ENGINES[form], graph, 1, lambda: images)  # type: ignore[arg-type]
        source.write_onnx(tmp_path / "wrapped.onnx", request)
        engine = onnxruntime.InferenceSession(tmp_path / "wrapped.onnx", providers=["CPUExecutionProvider"])
        (entry,), (result,) = engine.get_inputs(), engine.get_outputs()
        assert (entry.name, entry.type, entry.shape) == ("images", "tensor(uint8)", [1, 64, 64, 3])
        assert (result.name, result.type, result.shape) == ("labels", "tensor(uint8)", [1, 64, 64])
        labels = np.concatenate([engine.run(None, {"images": image[None]})[0] for image in images])
        assert_same_labels(labels, scores)


def assert_same_labels(labels: UInt8Array, scores: npt.NDArray[np.float64]) -> None:
    """Every label is the best class of its pixel, or as good as it; more than one label comes out."""
    chosen = np.take_along_axis(scores, labels[:, None].astype(np.int64), axis=1)[:, 0]
    assert np.all(scores.max(axis=1) - chosen <= TIE * np.abs(scores).max())
    assert np.mean(labels == scores.argmax(axis=1)) > 0.9999
    assert len(np.unique(labels)) > 1


def test_an_open_batch_takes_any_number_of_images(images: UInt8Array, tmp_path: Path) -> None:
    import onnxruntime

    path = Small(open=(0,)).save(tmp_path / "net.onnx")
    scores = by_hand(path, Small(), {}, images)
    for form in FORMS:
        request = GraphRequest(ENGINES[form], "deploy", None, lambda: images)
        OnnxSource(path, DESCRIPTION).write_onnx(tmp_path / "wrapped.onnx", request)
        engine = onnxruntime.InferenceSession(tmp_path / "wrapped.onnx", providers=["CPUExecutionProvider"])
        for count in (1, 3):
            (labels,) = engine.run(None, {"images": images[:count]})
            assert_same_labels(labels, scores[:count])


def test_a_batch_that_the_file_fixes_cannot_be_opened(images: UInt8Array, tmp_path: Path) -> None:
    source = OnnxSource(Small().save(tmp_path / "net.onnx"), DESCRIPTION)
    request = GraphRequest(ENGINES["tensorrt"], "deploy", None, lambda: images)
    with pytest.raises(InputError, match="takes 1 image at a time; export it with an open batch"):
        source.write_onnx(tmp_path / "wrapped.onnx", request)
