"""Opening an ONNX file in ONNX Runtime's CPU provider: the one place that says how fptk runs a graph there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fptk.core.errors import TargetUnavailableError


def open_cpu_session(
    model: Path | bytes,
    *,
    threads: int | None = None,
    float_only: bool = False,
    arena: bool = True,
    profile: Path | None = None,
    optimized: bool = True,
    save: Path | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession`` on the CPU.

    Args:
        model: file, or a serialized model.
        threads: intra-op threads; ``None`` is one per physical core.
        float_only: execute Q/DQ nodes as they are written and use no integer kernel: what the engine would compute if
            its kernels made no mistake.
        arena: keep freed memory for the next run: faster, but the peak of the largest run is kept for good.
        profile: folder that ONNX Runtime writes its node timings into when the profiling ends.
        optimized: let ONNX Runtime fuse and fold nodes; without, it computes each as the file states it.
        save: file that the graph is written to as it is run, after all fusions.

    Raises:
        TargetUnavailableError: onnxruntime is not installed.
        Exception: whatever ONNX Runtime raises for a model that it does not load; its classes share no public base.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise TargetUnavailableError("onnxruntime is not installed; run: pip install onnxruntime") from error
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = arena
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads:
        options.intra_op_num_threads = threads
    if float_only:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile / "onnxruntime")
    if save:
        options.optimized_model_filepath = str(save)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
