"""Small networks that are not fptk's, built node by node as other exporters leave them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIZE = 64
CLASSES = 5
DESCRIPTION: dict[str, Any] = {
    "channels": "rgb",
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "classes": CLASSES,
}


@dataclass
class Small:
    """A network of two strided convolutions with BatchNorm, a decoder and a classifier, with the ways to write it."""

    layout: str = "NCHW"
    pixels: str = "float32"
    inside: bool = False
    """Whether it scales pixels of 0-255 itself; it does where these are uint8."""
    end: str = "logits"
    """``logits``, ``probabilities``, ``labels``, ``labels4`` (N, 1, H, W) or ``coarse``: logits at stride 4."""
    mode: str = "half_pixel"
    """Of the last upsampling."""
    open: tuple[int, ...] = ()
    """Dimensions of the input left open."""
    opset: int = 17
    classes: int = CLASSES
    seed: int = 0
    size: int = SIZE

    def model(self) -> Any:
        """The ``onnx.ModelProto``."""
        from onnx import TensorProto, helper, numpy_helper

        kind = TensorProto.FLOAT if self.pixels == "float32" else TensorProto.UINT8
        shape: list[Any] = [1, 3, self.size, self.size] if self.layout == "NCHW" else [1, self.size, self.size, 3]
        for index in self.open:
            shape[index] = f"open{index}"
        nodes = [*self._front(), *self._body(), *self._end()]
        labels, read = self.end.startswith("labels"), {name for node in nodes for name in node.input}
        sides = [None] * (3 if self.end == "labels" else 4)
        result = helper.make_tensor_value_info("out", TensorProto.INT64 if labels else TensorProto.FLOAT, sides)
        graph = helper.make_graph(
            nodes,
            "small",
            [helper.make_tensor_value_info("images", kind, shape)],
            [result],
            [numpy_helper.from_array(value, name) for name, value in self._weights().items() if name in read],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)

    def save(self, path: Path) -> Path:
        """Write it."""
        import onnx

        onnx.save(self.model(), str(path))
        return path

    def _front(self) -> list[Any]:
        from onnx import TensorProto, helper

        nodes, name = [], "images"
        if self.pixels == "uint8":
            nodes.append(helper.make_node("Cast", [name], ["f"], to=TensorProto.FLOAT))
            name = "f"
        if self.inside or self.pixels == "uint8":
            nodes.append(helper.make_node("Div", [name, "hundred"], ["scaled"]))
            name = "scaled"
        if self.layout == "NHWC":
            nodes.append(helper.make_node("Transpose", [name], ["nchw"], perm=[0, 3, 1, 2]))
            name = "nchw"
        conv = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        return [*nodes, helper.make_node("Conv", [name, "w1"], ["c1"], name="stem", **conv)]

    def _body(self) -> list[Any]:
        from onnx import helper

        conv = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        return [
            helper.make_node("BatchNormalization", ["c1", "g1", "h1", "m1", "v1"], ["n1"], name="norm1"),
            helper.make_node("Relu", ["n1"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], name="deep", **conv),
            helper.make_node("BatchNormalization", ["c2", "g1", "h1", "m1", "v1"], ["n2"], name="norm2"),
            helper.make_node("Relu", ["n2"], ["labels"]),  # a name that fptk gives its own output
        ]

    def _end(self) -> list[Any]:
        from onnx import TensorProto, helper

        classify = helper.make_node("Conv", ["up" if self.end != "coarse" else "labels", "w3", "b3"], ["few"], name="c")
        if self.end == "coarse":
            return [classify, helper.make_node("Identity", ["few"], ["out"])]
        scales = {"mode": "linear", "coordinate_transformation_mode": self.mode}
        roi = "none" if self.opset < 13 else ""
        nodes = [
            helper.make_node("Resize", ["labels", roi, "two"], ["up"], mode="linear"),
            classify,
            helper.make_node("Resize", ["few", roi, "two"], ["full"], **scales),
        ]
        if self.end == "logits":
            return [*nodes, helper.make_node("Identity", ["full"], ["out"])]
        if self.end == "probabilities":
            return [*nodes, helper.make_node("Softmax", ["full"], ["out"], axis=1)]
        keep = int(self.end == "labels4")
        nodes.append(helper.make_node("ArgMax", ["full"], ["winner"], axis=1, keepdims=keep))
        return [*nodes, helper.make_node("Cast", ["winner"], ["out"], to=TensorProto.INT64)]

    def _weights(self) -> dict[str, npt.NDArray[np.generic]]:
        rng = np.random.default_rng(self.seed)
        width = 16

        def normal(*shape: int) -> npt.NDArray[np.float32]:
            return rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32)

        return {
            "hundred": np.float32(100),
            "none": np.zeros(0, np.float32),
            "two": np.array([1, 1, 2, 2], np.float32),
            "w1": normal(width, 3, 3, 3),
            "w2": normal(width, width, 3, 3),
            "b2": normal(width, 1)[:, 0],
            "w3": normal(self.classes, width, 1, 1),
            "b3": normal(self.classes, 1)[:, 0] / 4,
            "g1": rng.uniform(0.5, 1.5, width).astype(np.float32),
            "h1": rng.normal(0, 0.2, width).astype(np.float32),
            "m1": rng.normal(0, 0.2, width).astype(np.float32),
            "v1": rng.uniform(0.5, 1.5, width).astype(np.float32),
        }
