"""Kernel faults: an int8 engine against its own graph in float arithmetic.

Quantization rounds, and a gentler calibration rounds less. A kernel that computes wrongly is another thing: no
calibration repairs it. The two are told apart without any truth. The engine runs a few images; the same graph runs
them again with no int8 kernel, every Q/DQ pair executed as it is written. Both have rounded alike, so the two label
maps may differ no more than rounding explains. Where they do, the graph is cut behind one int8 layer after the other
and run both ways: a layer that is wrong although all int8 layers before it are right is at fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from fptk.calibration.onnx_cpu import open_cpu_session
from fptk.calibration.onnx_graph import COMPUTE_OPS, Graph, load_model
from fptk.calibration.openvino_cpu import compile_model, openvino_core
from fptk.calibration.openvino_forms import reads_int8
from fptk.core.cpu import cpu_model
from fptk.core.dataset import UInt8Array
from fptk.core.host import tool_versions

if TYPE_CHECKING:
    import onnx

Float32 = npt.NDArray[np.float32]

LEAST_DISAGREEMENT = 0.01
"""Share of the pixels that rounding alone may turn: int8 kernels round ties and sums otherwise than float ones."""

WRONG = 0.5
"""Relative error of a layer, ||int8 - float|| / ||float||, above which it is wrong. Rounding gave at most 0.1 in the
deepest layers of every network tried, wrong kernels at least 1."""

NOT_TOLD = "not told"
"""Kernel of a layer where the engine does not tell."""

LARGEST_ERROR = 1e6
"""What the error of a layer that gave infinities or NaN is recorded as."""


class KernelFault(BaseModel):
    """A layer whose int8 kernel computes wrongly on one processor."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: str
    """Name in the engine's graph."""
    op_type: str
    """Its operator."""
    kernel: str
    """Implementation that ran, where the engine tells."""
    error: float
    """||int8 - float|| / ||float|| of the layer's output."""
    processor: str
    """Model name of the processor that computed it wrongly."""
    version: str
    """Package and version of the engine."""


class Agreement(BaseModel):
    """Label maps of an int8 engine, of its graph in float arithmetic, and of the FP32 network, on the same images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: int
    """How many were labelled."""
    engine: float
    """Share of the pixels that the engine labels as its own graph in float arithmetic does."""
    simulation: float
    """Share of the pixels that this graph labels as the FP32 network does: what quantization itself turns."""

    @property
    def explained(self) -> bool:
        """Whether rounding explains the difference between engine and simulation.

        Rounding in a kernel is no coarser than rounding to int8 in the first place, so it should turn no more pixels.
        """
        return 1 - self.engine <= max(LEAST_DISAGREEMENT, 1 - self.simulation)


def measure_agreement(engine: UInt8Array, simulation: UInt8Array, reference: UInt8Array) -> Agreement:
    """Compare three stacks of label maps, uint8 (N, H, W) each."""
    return Agreement(
        images=len(engine),
        engine=float((engine == simulation).mean()),
        simulation=float((simulation == reference).mean()),
    )


def wrong_layers(
    names: Iterable[str], before: Mapping[str, Iterable[str]], error_of: Callable[[str], float]
) -> dict[str, float]:
    """Layers that are wrong while every int8 layer before them is right, with their relative errors.

    Args:
        names: the int8 layers, in the order of the graph.
        before: names of the int8 layers that a layer depends on.
        error_of: measures the relative error of a layer; not asked about layers behind a wrong one.
    """
    wrong: dict[str, float] = {}
    for name in names:
        if wrong.keys().isdisjoint(before[name]) and (error := error_of(name)) > WRONG:
            wrong[name] = error
    return wrong


def relative_error(value: Float32, reference: Float32) -> float:
    """||value - reference|| / ||reference||, at most :data:`LARGEST_ERROR`, which NaN counts as too."""
    difference = float(np.linalg.norm((value.astype(np.float64) - reference).ravel()))
    scale = float(np.linalg.norm(reference.astype(np.float64).ravel()))
    error = difference / max(scale, 1e-12)
    return error if error < LARGEST_ERROR else LARGEST_ERROR


def openvino_faults(path: Path, images: UInt8Array, *, precision_hint: str = "f32") -> list[KernelFault]:
    """The int8 layers of an OpenVINO file that this processor computes wrongly.

    Args:
        path: ``.xml`` with its ``.bin`` beside it.
        images: uint8 (N, H, W, 3); the first one is run.
        precision_hint: float type that the engine runs with.
    """
    model = _read(path)
    types = {each.get_friendly_name(): each.get_type_name() for each in _int8_operations(model)}
    kernels: dict[str, str] = {}

    def error_of(name: str) -> float:
        native, kernels[name] = _run_up_to(path, name, images[:1], precision_hint=precision_hint)
        simulated, _ = _run_up_to(path, name, images[:1], float_only=True)
        return relative_error(native, simulated)

    found = wrong_layers(types, _openvino_ancestors(model, types), error_of)
    return _faults(found, types, kernels, f"openvino {tool_versions('openvino')['openvino']}")


def _read(path: Path) -> Any:
    return openvino_core().read_model(path)


def _int8_operations(model: Any) -> list[Any]:
    """Operations that multiply quantized values, in the order of the graph."""
    arithmetic = {"Convolution": 1, "GroupConvolution": 1, "ConvolutionBackpropData": 1, "MatMul": 1}
    arithmetic |= {"ScaledDotProductAttention": 2}
    return [
        operation
        for operation in model.get_ordered_ops()
        if (ports := arithmetic.get(operation.get_type_name()))
        and all(reads_int8(operation, port) for port in range(ports))
    ]


def _run_up_to(path: Path, name: str, images: UInt8Array, **options: Any) -> tuple[Float32, str]:
    """Output of one layer, and the kernel that computed it, in a graph that ends there.

    The layer is not read off in the whole graph: what reads it there may do so in place, and OpenVINO 2026.4.1 then
    hands out overwritten memory.
    """
    import openvino

    model = _read(path)
    layer = next(each for each in model.get_ops() if each.get_friendly_name() == name)
    compiled = compile_model(openvino.Model([layer], model.get_parameters()), profile=True, **options)
    request = compiled.create_infer_request()
    value = np.array(request.infer([images])[0], np.float32)
    kernels = {info.node_name: info.exec_type for info in request.profiling_info}
    return value, kernels.get(name, NOT_TOLD)


def _openvino_ancestors(model: Any, names: Iterable[str]) -> dict[str, set[str]]:
    wanted = set(names)
    above: dict[str, set[str]] = {}
    for operation in model.get_ordered_ops():
        reached: set[str] = set()
        for port in operation.inputs():
            source = port.get_source_output().get_node().get_friendly_name()
            reached |= above.get(source, set()) | ({source} & wanted)
        above[operation.get_friendly_name()] = reached
    return {name: above[name] for name in names}


def onnx_faults(path: Path, images: UInt8Array) -> list[KernelFault]:
    """The int8 layers of a Q/DQ file that ONNX Runtime computes wrongly on this processor.

    Args:
        path: ONNX file.
        images: uint8 (N, H, W, 3); the first one is run.
    """
    model = load_model(path)
    taps = _tap_int8_layers(model)
    if not taps:
        return []
    feed = {model.graph.input[0].name: images[:1]}
    data, outputs = model.SerializeToString(), list(taps.values())

    def run(*, float_only: bool) -> dict[str, Float32]:
        values = open_cpu_session(data, float_only=float_only).run(outputs, feed)
        return dict(zip(taps, values, strict=True))

    native, simulated = run(float_only=False), run(float_only=True)
    errors = {name: relative_error(native[name], simulated[name]) for name in taps}
    found = wrong_layers(taps, _onnx_ancestors(model, taps), errors.__getitem__)
    types = {node.name: node.op_type for node in model.graph.node}
    version = f"onnxruntime {tool_versions('onnxruntime')['onnxruntime']}"
    return _faults(found, types, {}, version)


def _tap_int8_layers(model: onnx.ModelProto) -> dict[str, str]:
    """Give every layer between Q/DQ pairs an output of its own, in place; tensor names by node name.

    A layer whose result is quantized is read behind that, by a DequantizeLinear of its own: read in front of it, the
    layer could not be fused into its integer kernel.
    """
    from onnx import ValueInfoProto, helper

    graph = Graph(model)
    taps: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type not in COMPUTE_OPS or not all(graph.is_dequantized(name) for name in node.input[:2]):
            continue
        tensor = node.output[0]
        quantize = [each for each in graph.consumers[tensor] if each.op_type == "QuantizeLinear"]
        if quantize:
            tensor = f"{node.name}/tapped"
            inputs = [quantize[0].output[0], *quantize[0].input[1:]]
            model.graph.node.append(helper.make_node("DequantizeLinear", inputs, [tensor], name=tensor))
        taps[node.name] = tensor
    model.graph.output.extend(ValueInfoProto(name=name) for name in taps.values())
    return taps


def _onnx_ancestors(model: onnx.ModelProto, names: Iterable[str]) -> dict[str, set[str]]:
    wanted = set(names)
    above: dict[str, set[str]] = {}
    by_node: dict[str, set[str]] = {}
    for node in model.graph.node:
        reached: set[str] = set().union(*(above.get(name, set()) for name in node.input))
        by_node[node.name] = reached
        for name in node.output:
            above[name] = reached | ({node.name} & wanted)
    return {name: by_node[name] for name in wanted}


def _faults(
    found: Mapping[str, float], types: Mapping[str, str], kernels: Mapping[str, str], version: str
) -> list[KernelFault]:
    return [
        KernelFault(
            layer=name,
            op_type=types[name],
            kernel=kernels.get(name, NOT_TOLD),
            error=error,
            processor=cpu_model(),
            version=version,
        )
        for name, error in found.items()
    ]
