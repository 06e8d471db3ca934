"""Compiling for OpenVINO's CPU plugin: the one place that says how fptk runs a graph there."""

from __future__ import annotations

from typing import Any

from fptk.core.cpu import has_bf16
from fptk.core.errors import InputError, TargetUnavailableError

BF16_OR_F32 = "bf16-or-f32"
"""Precision hint of an engine that is right in both: bf16 where the processor has it, float32 elsewhere."""

PRECISION_HINTS = ("f32", "bf16", BF16_OR_F32)
"""Types of the float arithmetic, but for the last in OpenVINO's spelling of ``INFERENCE_PRECISION_HINT``."""


NO_BF16 = "this processor has no bf16 arithmetic, and OpenVINO would compute in float32 without a word"


def compile_model(
    model: Any,
    *,
    threads: int | None = None,
    precision_hint: str = "f32",
    float_only: bool = False,
    profile: bool = False,
    throughput: bool = False,
) -> Any:
    """Compile a graph for one stream on the CPU, or for as many as give the highest throughput.

    The precision hint is pinned: by default the plugin computes in bfloat16 where the processor has it, and an FP32
    engine would not be one.

    Args:
        model: ``openvino.Model``, or the path of an IR or ONNX file.
        threads: threads of one inference, or of all streams together; ``None`` leaves OpenVINO its default.
        precision_hint: one of :data:`PRECISION_HINTS`.
        float_only: execute FakeQuantize as it is written, in float, and use no int8 kernel (the plugin's
            ``LP_TRANSFORMS_MODE``): what the engine would compute if its kernels made no mistake.
        profile: collect node timings.
        throughput: let OpenVINO choose the streams, by its performance hint ``THROUGHPUT``.

    Raises:
        InputError: the precision hint is another.
        TargetUnavailableError: OpenVINO is not installed, or it would compute in another type than the hint's.
        RuntimeError: OpenVINO cannot read or compile the graph.
    """
    if precision_hint not in PRECISION_HINTS:
        raise InputError(f"precision hint '{precision_hint}' is unknown; choose from {', '.join(PRECISION_HINTS)}")
    core = openvino_core()
    config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": resolved(precision_hint), "PERF_COUNT": profile}
    config |= {"PERFORMANCE_HINT": "THROUGHPUT"} if throughput else {"NUM_STREAMS": "1"}
    if threads:
        config["INFERENCE_NUM_THREADS"] = threads
    if float_only:
        config["LP_TRANSFORMS_MODE"] = "NO"
    if precision_hint == "bf16" and not has_bf16():
        raise TargetUnavailableError(f"{NO_BF16}; run the FP32 or INT8 engine here")
    return core.compile_model(model, "CPU", config)


def resolved(precision_hint: str) -> str:
    """What a precision hint is on this processor: ``f32`` or ``bf16``."""
    if precision_hint != BF16_OR_F32:
        return precision_hint
    return "bf16" if has_bf16() else "f32"


def openvino_core() -> Any:
    """A new ``openvino.Core``.

    Raises:
        TargetUnavailableError: OpenVINO is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise TargetUnavailableError("openvino is not installed; run: pip install 'fptk[openvino]'") from error
    return openvino.Core()


def first_input_shape(compiled: Any) -> list[int | None]:
    """Sides of the compiled model's first input; ``None`` for an open one."""
    return [side.get_length() if side.is_static else None for side in compiled.input(0).get_partial_shape()]
