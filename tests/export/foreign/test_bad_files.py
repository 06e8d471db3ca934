"""ONNX files that cannot be exported, and descriptions that do not fit: each ends in one line that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from .networks import DESCRIPTION, Small

Change = Callable[[Any], None]


def node(op_type: str, *inputs: str, outputs: tuple[str, ...] = ("out",), **attributes: Any) -> Any:
    """An ONNX node; by default the one that makes the output."""
    from onnx import helper

    return helper.make_node(op_type, [*inputs], [*outputs], **attributes)


def instead_of_the_last(*nodes: Any) -> Change:
    """Other nodes for the one that makes the output; they start from ``full`` (1, 5, 64, 64)."""

    def change(model: Any) -> None:
        del model.graph.node[-1]
        model.graph.node.extend(nodes)

    return change


def opset(version: int) -> Change:
    """Another version of the operators."""

    def change(model: Any) -> None:
        model.opset_import[0].version = version

    return change


def sides(*dims: int | str) -> Change:
    """Another shape of the input."""

    def change(model: Any) -> None:
        for dim, side in zip(model.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
            dim.Clear()
            setattr(dim, "dim_param" if isinstance(side, str) else "dim_value", side)

    return change


def weights(value: float, kind: type[np.generic] = np.float32) -> Change:
    """Other values in the first convolution."""

    def change(model: Any) -> None:
        from onnx import numpy_helper

        (entry,) = (entry for entry in model.graph.initializer if entry.name == "w1")
        entry.CopyFrom(numpy_helper.from_array(np.full(entry.dims, value, kind), "w1"))

    return change


def elsewhere(location: str) -> Change:
    """Weights in another file."""

    def change(model: Any) -> None:
        from onnx import TensorProto

        entry = model.graph.initializer[0]
        entry.ClearField("raw_data")
        entry.data_location = TensorProto.EXTERNAL
        entry.external_data.add(key="location", value=location)

    return change


def another(field: str) -> Change:
    """A second input or output."""

    def change(model: Any) -> None:
        from onnx import TensorProto, helper

        name = "few" if field == "output" else "more"
        getattr(model.graph, field).append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4))

    return change


def training(model: Any) -> None:
    """BatchNorm as in a training."""
    from onnx import helper

    (norm,) = (each for each in model.graph.node if each.name == "norm1")
    norm.attribute.append(helper.make_attribute("training_mode", 1))
    norm.output.extend(["mean", "variance"])


def branch(model: Any) -> None:
    """A way that depends on the image."""
    from onnx import TensorProto, helper

    graphs = [
        helper.make_graph([node("Identity", "full", outputs=(name,))], name, [], [info])
        for name in ("then", "other")
        for info in [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4)]
    ]
    instead_of_the_last(
        node("ReduceMax", "full", outputs=("most",), keepdims=0),
        node("Cast", "most", outputs=("any",), to=TensorProto.BOOL),
        node("If", "any", then_branch=graphs[0], else_branch=graphs[1]),
    )(model)


def empty(model: Any) -> None:
    """No operator at all."""
    del model.graph.node[:]


BAD: dict[str, tuple[Change, str]] = {
    "classifier": (
        instead_of_the_last(node("GlobalAveragePool", "full", outputs=("g",)), node("Flatten", "g")),
        "a classifier, it seems",
    ),
    "one score": (instead_of_the_last(node("ReduceMax", "full", axes=[1])), "scores of 1 classes"),
    "two outputs": (another("output"), "does not say its output (one of out, few)"),
    "two inputs": (another("input"), "has 2 inputs (images, more)"),
    "quantized": (
        instead_of_the_last(node("QuantizeLinear", "full", "b", outputs=("q",)), node("DequantizeLinear", "q", "b")),
        "already quantised (it holds QuantizeLinear)",
    ),
    "opset 9": (opset(9), "is of opset 9; fptk takes 11 to 22"),
    "opset 24": (opset(24), "is of opset 24; fptk takes 11 to 22"),
    "open height": (sides(1, 3, "height", 64), "does not say its size (its height is open"),
    "gray": (sides(1, 1, 64, 64), "no dimension holds 3 channels"),
    "any layout": (sides(1, 3, "height", 3), "does not say its layout"),
    "odd size": (sides(1, 3, 72, 64), "size 72x64 is not a positive multiple of 32"),
    "batch of 4": (sides(4, 3, 64, 64), "takes 4 images at once"),
    "not finite": (weights(np.nan), "weights that are not finite (w1)"),
    "overflow": (weights(1e38), "scores that are not finite"),
    "float16": (weights(0, np.float16), "holds float16 weights (w1)"),
    "outside": (elsewhere("../secret.bin"), "weights outside its folder, in ../secret.bin"),
    "absolute": (elsewhere("/etc/passwd"), "weights outside its folder, in /etc/passwd"),
    "absent": (elsewhere("weights.bin"), "has weights in weights.bin, which is not beside it"),
    "custom": (instead_of_the_last(node("Magic", "full", domain="com.acme")), "holds Magic of com.acme"),
    "random": (instead_of_the_last(node("RandomNormalLike", "full")), "holds RandomNormalLike"),
    "branch": (branch, "holds If"),
    "training": (training, "was exported in training mode"),
    "no operator": (empty, "it has no nodes"),
    "dangling": (instead_of_the_last(node("Relu", "nothing")), "is not a valid ONNX model"),
    "unknown operator": (instead_of_the_last(node("Teleport", "full")), "is not a valid ONNX model"),
}


def one_line_of(finished: Any) -> str:
    """The message of a command that ended with exit code 2."""
    assert finished.code == 2, finished
    (line,) = (line for line in finished.err.splitlines() if line.startswith("fptk: "))
    assert "Traceback" not in finished.err
    return str(line)


def describe(folder: Path, **fields: Any) -> None:
    """Write the description of the small network with other fields; ``None`` leaves one out."""
    kept = {key: value for key, value in {**DESCRIPTION, **fields}.items() if value is not None}
    (folder / "network.yaml").write_text(yaml.safe_dump(kept))


@pytest.mark.parametrize("what", BAD)
def test_a_file_that_cannot_be_used_ends_in_one_line(what: str, fptk: Callable[..., Any], tmp_path: Path) -> None:
    import onnx

    change, expected = BAD[what]
    model = Small().model()
    if what == "quantized":
        from onnx import numpy_helper

        model.graph.initializer.append(numpy_helper.from_array(np.float32(0.1), "b"))
    change(model)
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.name == "small"
    describe(tmp_path)
    line = one_line_of(fptk("export", path, "--fp32", "--target", "onnx", "--out", tmp_path / "out"))
    assert expected in line
    assert "net.onnx" in line or what == "odd size"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "has no nodes"), (b"not a network", "no ONNX file"), (None, "ends inside|longer than")],
)
def test_no_onnx_at_all(content: bytes | None, expected: str, fptk: Callable[..., Any], tmp_path: Path) -> None:
    import re

    path = tmp_path / "net.onnx"
    path.write_bytes(Small().model().SerializeToString()[:-500] if content is None else content)
    describe(tmp_path)
    assert re.search(expected, one_line_of(fptk("export", path, "--fp32", "--out", tmp_path / "out")))


NOT_FITTING: list[tuple[dict[str, Any], list[str], str]] = [
    ({"channels": None, "mean": None, "std": None, "classes": None}, [], "its channels (rgb or bgr); its mean and std"),
    ({"classes": None}, [], "does not say its classes"),
    ({"classes": 19}, [], "gives scores of 5 classes [1, 5, 64, 64], and classes names 19"),
    ({"classes": 1}, [], "there are 1 of them; 2 to 255"),
    ({"classes": ["a", "b", "a", "c", "d"]}, [], "two classes have the name 'a'"),
    ({"classes": "faces"}, [], "classes: give the names of the classes, how many there are, or one of: celebamask"),
    ({"layout": "NHWC"}, [], "which is not NHWC"),
    ({"size": [32, 64]}, [], "is made for a height of 64, and size says 32"),
    ({"output": "logits"}, [], "has no output 'logits'; it has out"),
    ({"std": None}, [], "mean is given alone"),
    ({"std": [0.2, 0, 0.2]}, [], "std must be positive"),
    ({"normalization": "inside"}, [], "leave one out"),
    ({"colors": "rgb"}, [], "the keys are name, layout, channels"),
    ({}, ["channels=gray"], "--network channels: Input should be 'rgb' or 'bgr'"),
    ({}, ["bgr"], "--network bgr is no KEY=VALUE"),
    ({}, ["mean=0.5,["], "--network mean is not valid YAML"),
]


@pytest.mark.parametrize(("fields", "given", "expected"), NOT_FITTING)
def test_a_description_that_does_not_fit_ends_in_one_line(
    fields: dict[str, Any], given: list[str], expected: str, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    path = Small().save(tmp_path / "net.onnx")
    describe(tmp_path, **fields)
    words = [word for each in given for word in ("--network", each)]
    assert expected in one_line_of(fptk("export", path, "--fp32", "--out", tmp_path / "out", *words))


def test_a_description_is_for_an_onnx_file(fptk: Callable[..., Any], tmp_path: Path) -> None:
    line = one_line_of(fptk("export", tmp_path / "best.safetensors", "--network", "channels=rgb", "--out", tmp_path))
    assert "--network describes an ONNX file" in line
