"""Small hand-built ONNX networks with the engines' input and output convention, and data sets to feed them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.core.classes import CELEBAMASK, NUM_CLASSES
from fptk.core.dataset import Sample, UInt8Array
from fptk.core.metrics import ConfusionMatrix, Scores
from fptk.core.progress import Listener, Update

SIZE = 32
"""Side of the test images."""


class Faces:
    """A data set in memory.

    Args:
        samples: its images and masks.
        name: its name.
    """

    classes = CELEBAMASK

    def __init__(self, samples: Sequence[Sample], name: str = "faces") -> None:
        self.name = name
        self.samples = list(samples)
        self.reads = 0

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return self.samples[index]

    def content_hash(self, index: int) -> str:
        return hashlib.sha256(self.samples[index].image.tobytes()).hexdigest()


def striped(seed: int, classes: Sequence[int], noise: float = 6.0) -> Sample:
    """An image of horizontal stripes, one per entry of ``classes``, in the class's palette colour with noise."""
    rng = np.random.default_rng(seed)
    rows = np.array(classes, np.uint8)[np.arange(SIZE) * len(classes) // SIZE]
    mask = np.repeat(rows[:, None], SIZE, axis=1)
    image = np.array(CELEBAMASK.palette)[mask] + rng.normal(0, noise, (SIZE, SIZE, 3))
    return Sample(np.clip(image, 0, 255).astype(np.uint8), mask, f"face-{seed}")


def nearest_color_network(tmp: Path) -> Path:
    """A network whose class k wins where the pixel lies nearest (L1) to palette colour k.

    Each class has six hidden channels of its own, the positive and negative parts of pixel minus colour; the classifier
    sums them with weight -1. It is exact on the images of :func:`striped`.
    """
    from onnx import helper

    colors = np.array(CELEBAMASK.palette, np.float32)
    weight = np.zeros((6 * NUM_CLASSES, 3, 1, 1), np.float32)
    bias = np.zeros(6 * NUM_CLASSES, np.float32)
    classify = np.zeros((NUM_CLASSES, 6 * NUM_CLASSES, 1, 1), np.float32)
    for k in range(NUM_CLASSES):
        for c in range(3):
            for sign, channel in ((1, 6 * k + 2 * c), (-1, 6 * k + 2 * c + 1)):
                weight[channel, c] = sign
                bias[channel] = -sign * colors[k, c] / 255
                classify[k, channel] = -1
    constants = {
        "zero": np.zeros(3, np.float32),
        "scale": np.full(3, 1 / 255, np.float32),
        "w1": weight,
        "b1": bias,
        "w2": classify,
        "b2": np.zeros(NUM_CLASSES, np.float32),
    }
    nodes = [
        *_head(),
        helper.make_node("Conv", ["x", "w1", "b1"], ["h1"], name="distances"),
        helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
        helper.make_node("Conv", ["h2", "w2", "b2"], ["logits"], name="classifier"),
        *_tail(),
    ]
    return _write(tmp / "nearest.onnx", nodes, constants)


def attention_network(tmp: Path, seed: int = 0, outlier: float = 1.0) -> Path:
    """A random network with every kind of layer: strided and depthwise convolutions, attention, MatMul and Gemm.

    Args:
        tmp: folder for the file.
        seed: of the weights.
        outlier: factor on one channel of the LayerNorm before the MLP, which makes per-tensor activation scales coarse.
    """
    from onnx import helper

    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        return (rng.normal(0, scale / np.sqrt(fan_in), shape)).astype(np.float32)

    C = 16
    gamma = np.ones(C, np.float32)
    gamma[3] = outlier
    constants = {
        "zero": np.full(3, 127.5, np.float32),
        "scale": np.full(3, 1 / 60, np.float32),
        "w1": normal(C, 3, 3, 3),
        "b1": normal(C, scale=0.1),
        "wd": normal(C, 1, 3, 3),
        "gamma": gamma,
        "beta": np.zeros(C, np.float32),
        "wq": normal(C, C),
        "wk": normal(C, C),
        "w_fc1": normal(C, 2 * C),
        "w_fc2": normal(2 * C, C),
        "w_gate": normal(C, C),
        "gate_bias": normal(C, scale=0.1),
        "w2": normal(NUM_CLASSES, C, 1, 1),
        "b2": normal(NUM_CLASSES, scale=0.1),
        "tokens": np.array([1, C, SIZE * SIZE // 4], np.int64),
        "grid": np.array([1, C, SIZE // 2, SIZE // 2], np.int64),
        "pixels": np.array([1, C, 1, 1], np.int64),
        "flat": np.array([1, C], np.int64),
        "scales": np.array([1, 1, 2, 2], np.float32),
    }
    nodes = [
        *_head(),
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="embed", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c1", "wd"], ["c2"], name="depthwise", group=C, pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["c2", "tokens"], ["t1"]),
        helper.make_node("Transpose", ["t1"], ["t2"], perm=[0, 2, 1]),
        helper.make_node("LayerNormalization", ["t2", "gamma", "beta"], ["t3"], name="norm"),
        helper.make_node("MatMul", ["t3", "wq"], ["q"], name="q"),
        helper.make_node("MatMul", ["t3", "wk"], ["k"], name="k"),
        helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["p"]),
        helper.make_node("MatMul", ["p", "t3"], ["mixed"], name="mix"),
        helper.make_node("MatMul", ["mixed", "w_fc1"], ["m1"], name="fc1"),
        helper.make_node("Gelu", ["m1"], ["m2"]),
        helper.make_node("MatMul", ["m2", "w_fc2"], ["m3"], name="fc2"),
        helper.make_node("Add", ["m3", "t3"], ["m4"]),
        helper.make_node("Transpose", ["m4"], ["m5"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["m5", "grid"], ["g1"]),
        helper.make_node("GlobalAveragePool", ["g1"], ["pool"]),
        helper.make_node("Reshape", ["pool", "flat"], ["pooled"]),
        helper.make_node("Gemm", ["pooled", "w_gate", "gate_bias"], ["g2"], name="gate"),
        helper.make_node("Sigmoid", ["g2"], ["g3"]),
        helper.make_node("Reshape", ["g3", "pixels"], ["g4"]),
        helper.make_node("Mul", ["g1", "g4"], ["g5"]),
        helper.make_node("Conv", ["g5", "w2", "b2"], ["low"], name="classifier"),
        helper.make_node("Resize", ["low", "", "scales"], ["logits"], mode="linear"),
        *_tail(),
    ]
    return _write(tmp / f"attention-{seed}-{outlier:g}.onnx", nodes, constants)


def _head() -> list[object]:
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", ["images"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["f", "zero"], ["centred"]),
        helper.make_node("Mul", ["centred", "scale"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["x"], perm=[0, 3, 1, 2]),
    ]


def _tail() -> list[object]:
    from onnx import TensorProto, helper

    return [
        helper.make_node("ArgMax", ["logits"], ["winner"], axis=1, keepdims=0),
        helper.make_node("Cast", ["winner"], ["labels"], to=TensorProto.UINT8),
    ]


def _write(path: Path, nodes: Sequence[object], constants: dict[str, npt.NDArray[np.generic]]) -> Path:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, [1, SIZE, SIZE])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, {"fptk.model": "test"})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path


def run(path: Path, images: Sequence[UInt8Array]) -> UInt8Array:
    """Label maps of an ONNX file, uint8 (N, H, W), with every Q/DQ pair executed in float as it is written.

    ONNX Runtime's int8 kernels saturate on processors without VNNI; a test of what stands in a file is not about them.
    """
    session = open_cpu_session(path, float_only=True)
    return np.concatenate([session.run(None, {"images": image})[0] for image in images])


def score(path: Path, dataset: Faces) -> Scores:
    """Scores of an ONNX file on a data set."""
    matrix = ConfusionMatrix()
    predictions = run(path, [sample.image[None] for sample in dataset.samples])
    for sample, prediction in zip(dataset.samples, predictions, strict=True):
        matrix.add(sample.mask, prediction)
    return matrix.scores()


def smooth_noise(count: int = 4, seed: int = 0) -> list[UInt8Array]:
    """Images of random 4x4 blocks, uint8 (1, 32, 32, 3) each."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 1, SIZE // 4, SIZE // 4, 3), dtype=np.uint8)
    return [np.ascontiguousarray(image.repeat(4, 1).repeat(4, 2)) for image in coarse]


class Steps(Listener):
    """Keeps every step of every counter: its number, the total, and the text."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int, str | None]] = []

    @contextmanager
    def counting(self, what: str, total: int, *, still: bool = False) -> Iterator[Update]:
        def update(done: int, text: str | None = None) -> None:
            self.heard.append((done, total, text))
            self.on_step(done)

        yield update

    def on_step(self, done: int) -> None:
        """What a test does at a step."""


def stream(images: Sequence[UInt8Array]) -> Callable[[], Iterator[UInt8Array]]:
    """A source of passes over a list of (1, H, W, 3) batches."""
    return lambda: iter(images)
