"""Reading an ONNX file that others wrote: what it must be, and what it says of its own input and output."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.calibration.onnx_graph import Graph, attribute, infer_types, load_model, refuse_quantized
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.files import kind_of
from fptk.export.foreign.description import FILE, Channels, Layout, NetworkDescription, Upsampling
from fptk.export.onnx_external import external_data

if TYPE_CHECKING:
    import onnx

OPSETS = (11, 22)
"""Lowest and highest version of the operator set: below, a Resize says too little of what it does; above, no target was
tried."""

_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass(frozen=True)
class Interface:
    """How a network is fed and read, every question answered."""

    input: str
    """Name of its input."""
    pixels: Literal["float32", "uint8"]
    """Type of its input."""
    layout: Layout
    channels: Channels
    mean: tuple[float, float, float] | None
    """In the order red, green, blue, of pixels scaled to 0-1; ``None`` where the network normalizes by itself."""
    std: tuple[float, float, float] | None
    size: tuple[int, int]
    """Height and width of its images."""
    output: str
    """Name of the tensor of scores or labels."""
    kind: Literal["scores", "labels"]
    class_axis: int
    """Of scores, 1 or 3; 0 for labels."""
    shape: tuple[int, ...]
    """Of the output for one image."""
    upsampling: Upsampling

    @property
    def coarse_size(self) -> tuple[int, int]:
        """Height and width of the output."""
        sides = self.shape[1:3] if self.class_axis == 3 else self.shape[-2:]
        return sides[0], sides[1]

    @property
    def is_full_size(self) -> bool:
        """Whether the output has a value for each pixel of the image."""
        return self.coarse_size == self.size


def read_network(path: Path) -> onnx.ModelProto:
    """Load and check the file: float32, of standard operators, its weights finite and in its own folder.

    Raises:
        InputError: it is not, or ``onnx`` is not installed.
    """
    if kind_of(path, "network") != "file":
        raise InputError(f"network {path} is no regular file; give an ONNX file")
    _check_external(path)
    model = load_model(path)
    import onnx

    graph = Graph(model)
    if not OPSETS[0] <= graph.opset <= OPSETS[1]:
        raise InputError(
            f"{path} is of opset {graph.opset}; fptk takes {OPSETS[0]} to {OPSETS[1]}: export it with one of these"
        )
    _check_operators(path, model)
    refuse_quantized(model, str(path))
    try:
        onnx.checker.check_model(model)
        infer_types(model)
    except Exception as error:  # onnx raises bare errors of several kinds
        raise InputError(f"{path} is not a valid ONNX model: {_one_line(error)}") from error
    _check_weights(path, model)
    return model


def _check_external(path: Path) -> None:
    """Refuse weights outside the file's folder before anything opens them."""
    folder = path.resolve().parent
    for name in external_data(path):
        place = PurePosixPath(name)
        inside = not place.is_absolute() and ".." not in place.parts and "\\" not in name
        if not inside or not (folder / name).resolve().is_relative_to(folder):
            raise InputError(f"{path} has weights outside its folder, in {name[:80]}; move them beside it")
        if kind_of(folder / name, "weights") != "file":
            raise InputError(f"{path} has weights in {name[:80]}, which is not beside it; copy both files")


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    if model.functions:
        raise InputError(f"{path} holds functions of its own ({model.functions[0].name}); export it with them inlined")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise InputError(
                f"{path} holds {node.op_type} of {node.domain}, which is no standard operator; export the network for "
                "no particular engine"
            )
        if node.op_type in _CONTROL_FLOW:
            raise InputError(f"{path} holds {node.op_type}: its way depends on the image; export it without branches")
        if node.op_type in _RANDOM:
            raise InputError(
                f"{path} holds {node.op_type}: its labels would differ from call to call; export it without"
            )
        if _is_training(model, node):
            raise InputError(f"{path} was exported in training mode ({node.name}); export it in evaluation mode")


def _is_training(model: onnx.ModelProto, node: Any) -> bool:
    """Whether a node does what it does in a training."""
    if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
        mode = Graph(model).constant(node.input[2])
        return mode is None or bool(mode)
    return node.op_type == "BatchNormalization" and bool(attribute(node, "training_mode", 0))


def _check_weights(path: Path, model: onnx.ModelProto) -> None:
    from onnx import TensorProto, numpy_helper

    wide = {TensorProto.FLOAT16: "float16", TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64"}
    for entry in model.graph.initializer:
        if entry.data_type in wide and np.prod(entry.dims) > 1:
            raise InputError(f"{path} holds {wide[entry.data_type]} weights ({entry.name}); export it in float32")
        if entry.data_type == TensorProto.FLOAT and not np.isfinite(numpy_helper.to_array(entry)).all():
            raise InputError(f"{path} holds weights that are not finite ({entry.name}); the training diverged")


def count_parameters(model: onnx.ModelProto) -> int:
    """Numbers in the float tensors that the file holds: the learnable ones, and what BatchNorm counted."""
    from onnx import TensorProto

    floats = [entry for entry in model.graph.initializer if entry.data_type == TensorProto.FLOAT]
    return sum(int(np.prod(entry.dims)) for entry in floats)


def read_interface(path: Path, model: onnx.ModelProto, description: NetworkDescription) -> Interface:
    """What the file and its description say together.

    Raises:
        InputError: they contradict each other, something is missing, or the network does not label pixels.
    """
    name, pixels, shape = _input(path, model)
    layout = _layout(path, shape, description)
    size = _size(path, shape, layout, description)
    _check_said(path, description, pixels)
    mean, std = description.rgb_normalization if description.mean else (None, None)
    open_batch = not isinstance(shape[0], int)
    if not open_batch and shape[0] != 1:
        raise InputError(f"{path} takes {shape[0]} images at once; export it with a batch of 1, or an open one")
    output = _output(path, model, description)
    partial = Interface(
        input=name,
        pixels=pixels,
        layout=layout,
        channels=description.channels or "rgb",
        mean=mean,
        std=std,
        size=size,
        output=output,
        kind="labels",
        class_axis=0,
        shape=(),
        upsampling=description.upsampling,
    )
    return _read_output(path, partial, description)


def _input(path: Path, model: onnx.ModelProto) -> tuple[str, Literal["float32", "uint8"], tuple[int | None, ...]]:
    """Name, type and shape of the only input that is no weight."""
    from onnx import TensorProto

    weights = {entry.name for entry in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise InputError(f"{path} has {len(inputs)} inputs ({names}), expected one: the images")
    kind, shape = Graph(model).types[inputs[0].name]
    if kind not in (TensorProto.FLOAT, TensorProto.UINT8):
        found = str(TensorProto.DataType.Name(kind)).lower()
        raise InputError(f"{path} takes images of {found}; fptk feeds float32 or uint8: export it in float32")
    if shape is None or len(shape) != 4:
        raise InputError(f"{path} takes {list(shape or ())}, not a batch of images of four dimensions")
    return str(inputs[0].name), "float32" if kind == TensorProto.FLOAT else "uint8", shape


def _layout(path: Path, shape: tuple[int | None, ...], description: NetworkDescription) -> Layout:
    can_be: list[Layout] = []
    if shape[1] in (3, None) and shape[2] != 3:
        can_be.append("NCHW")
    if shape[3] in (3, None) and shape[2] != 3:
        can_be.append("NHWC")
    if shape[1] == 3 and shape[3] is None:
        can_be = ["NCHW"]
    if shape[3] == 3 and shape[1] is None:
        can_be = ["NHWC"]
    if not can_be:
        raise InputError(f"{path} takes {_sides(shape)}, not color images: no dimension holds 3 channels")
    if description.layout and description.layout not in can_be:
        raise InputError(f"{path} takes {_sides(shape)}, which is not {description.layout}; correct layout in {FILE}")
    if len(can_be) == 2 and not description.layout:
        raise InputError(_missing(path, ["layout (NCHW or NHWC)"]))
    return description.layout or can_be[0]


def _size(
    path: Path, shape: tuple[int | None, ...], layout: Layout, description: NetworkDescription
) -> tuple[int, int]:
    """Height and width: the file's where it fixes them, else the description's."""
    fixed = shape[2:] if layout == "NCHW" else shape[1:3]
    given = description.size
    sides = []
    for what, side, wanted in zip(("height", "width"), fixed, given or (None, None), strict=True):
        if side is None and wanted is None:
            raise InputError(_missing(path, [f"size (its {what} is open; HEIGHT, WIDTH in pixels)"]))
        if side is not None and wanted not in (None, side):
            raise InputError(f"{path} is made for a {what} of {side}, and size says {wanted}; leave size out")
        sides.append(side or wanted or 0)
    return sides[0], sides[1]


def _check_said(path: Path, description: NetworkDescription, pixels: str) -> None:
    """Check that the description answers what no file can."""
    missing = []
    if description.channels is None:
        missing.append("channels (rgb or bgr)")
    if description.mean is None and description.normalization is None and pixels == "float32":
        missing.append("mean and std (or normalization: inside)")
    if description.classes is None:
        missing.append("classes (their names, celebamask, or how many)")
    if missing:
        raise InputError(_missing(path, missing))
    if description.mean is not None and pixels == "uint8":
        raise InputError(f"{path} takes uint8 images, so it normalizes them itself; leave out mean and std")


def _missing(path: Path, what: list[str]) -> str:
    return f"{path} does not say its {'; its '.join(what)}: write it into {FILE} beside it, or give --network KEY=VALUE"


def _output(path: Path, model: onnx.ModelProto, description: NetworkDescription) -> str:
    names = [str(value.name) for value in model.graph.output]
    if description.output is not None:
        if description.output not in names:
            raise InputError(f"{path} has no output '{description.output}'; it has {', '.join(names)[:200]}")
        return description.output
    if len(names) != 1:
        raise InputError(_missing(path, [f"output (one of {', '.join(names)[:200]})"]))
    return names[0]


def _read_output(path: Path, partial: Interface, description: NetworkDescription) -> Interface:
    """The interface with what one run tells of the output: shape inference does not see through every exporter."""
    shape = (1, 3, *partial.size) if partial.layout == "NCHW" else (1, *partial.size, 3)
    image = np.full(shape, 127, np.uint8) if partial.pixels == "uint8" else np.full(shape, 0.25, np.float32)
    try:
        session = open_cpu_session(path, optimized=False)
        result = np.asarray(session.run([partial.output], {partial.input: image})[0])
    except TargetUnavailableError:
        raise
    except Exception as error:  # onnxruntime's exception classes share no public base
        raise InputError(
            f"ONNX Runtime cannot run {path} on one image of {partial.size}: {_one_line(error)}"
        ) from error
    if np.issubdtype(result.dtype, np.floating):
        return _read_scores(path, partial, result, description)
    return _read_labels(path, partial, result)


_PASSES_LABELS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape")
"""Operators that may stand between an argmax and the labels."""


def scores_behind(model: onnx.ModelProto, output: str) -> tuple[str, int] | None:
    """Name and class axis of the float scores (N, C, H, W) or (N, H, W, C) whose lowest best class the labels are.

    Args:
        model: the network.
        output: its labels.

    Returns:
        ``None`` where the labels come from anything else.
    """
    from onnx import TensorProto

    graph = Graph(model)
    node = graph.producer.get(output)
    while node is not None and node.op_type in _PASSES_LABELS:
        node = graph.producer.get(node.input[0])
    if node is None or node.op_type != "ArgMax" or attribute(node, "select_last_index", 0):
        return None
    axis, shape = attribute(node, "axis", 0) % 4, graph.shape(node.input[0])
    floats = graph.element_type(node.input[0]) == TensorProto.FLOAT
    return (node.input[0], axis) if floats and axis in (1, 3) and (shape is None or len(shape) == 4) else None


def _read_labels(path: Path, partial: Interface, result: Any) -> Interface:
    height, width = partial.size
    squeezed = result.shape in ((1, height, width), (1, 1, height, width), (1, height, width, 1), (height, width))
    if not squeezed or not np.issubdtype(result.dtype, np.integer):
        raise InputError(
            f"{path} gives {result.dtype} {list(result.shape)} for one image; fptk takes scores (N, classes, h, w) or "
            f"labels (N, {height}, {width})"
        )
    return replace(partial, kind="labels", class_axis=0, shape=tuple(result.shape))


def _read_scores(path: Path, partial: Interface, result: Any, description: NetworkDescription) -> Interface:
    classes = description.num_classes
    shape = tuple(result.shape)
    if len(shape) != 4 or max(shape[1:]) < 2:
        kind = "a classifier, it seems: " if len(shape) == 2 else ""
        raise InputError(
            f"{path} gives {result.dtype} {list(shape)} for one image: {kind}fptk takes scores "
            "(N, classes, h, w) or labels"
        )
    axes = [axis for axis in (1, 3) if shape[axis] == classes]
    if len(axes) == 2:
        axes = [1] if partial.layout == "NCHW" else [3]
    if not axes:
        found = shape[1] if partial.layout == "NCHW" else shape[3]
        raise InputError(
            f"{path} gives scores of {found} classes {list(shape)}, and classes names {classes}; correct it"
        )
    if result.dtype != np.float32:
        raise InputError(f"{path} gives {result.dtype} scores; export it in float32")
    if not np.isfinite(result).all():
        raise InputError(f"{path} gives scores that are not finite for a gray image; its weights or sizes are damaged")
    found = replace(partial, kind="scores", class_axis=axes[0], shape=shape)
    if any(coarse > side for coarse, side in zip(found.coarse_size, found.size, strict=True)):
        raise InputError(f"{path} gives scores of {found.coarse_size}, larger than its images of {found.size}")
    return found


def _sides(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('?' if side is None else str(side) for side in shape)})"


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
