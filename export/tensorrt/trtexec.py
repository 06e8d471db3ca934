"""The commands of NVIDIA's own tools that rebuild an engine from its ONNX file, and that measure it as fptk does."""

from __future__ import annotations

import shlex

from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.product import Product

TIMING_CACHE_FILE = "timing.cache"
"""Name of the timing cache beside an engine."""

STREAMS = 2
"""Streams of a throughput: one copies while the other computes."""

_COMPATIBILITY = {"ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}


def trtexec_command(
    product: Product,
    onnx_name: str,
    engine_name: str,
    options: TensorRTOptions,
    *,
    input_name: str,
    size: tuple[int, int],
    open_batch: bool,
) -> str:
    """A shell command that makes the engine anew, to be run in the folder of the ONNX file.

    Args:
        product: TensorRT (``trtexec``) or TensorRT-RTX (``tensorrt_rtx``).
        onnx_name: file name of the ONNX file that carries the precision.
        engine_name: file name of the engine.
        options: settings of the build.
        input_name: name of the input tensor.
        size: height and width of the input.
        open_batch: whether the ONNX file leaves the batch open; only then do the tools take shapes.

    Source: *TensorRT: Command-Line Programs*; ``--stronglyTyped`` is needed on 10.x and without effect on 11.x.
    """
    words = [product.tool, f"--onnx={onnx_name}", f"--saveEngine={engine_name}", "--skipInference"]
    if open_batch:
        low, best, high = options.dynamic_batch or (1, 1, 1)
        for flag, batch in (("minShapes", low), ("optShapes", best), ("maxShapes", high)):
            words.append(f"--{flag}={input_name}:{batch}x{size[0]}x{size[1]}x3")
    if options.workspace_mib:
        words.append(f"--memPoolSize=workspace:{options.workspace_mib}")
    if options.optimization_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimization_level}")
    words.append("--profilingVerbosity=detailed")
    words += _product_flags(product, options)
    return shlex.join(words)


def measure_command(
    product: Product,
    engine_name: str,
    *,
    cuda_graph: bool,
    transfers: bool,
    shape: str | None,
    several: bool = False,
) -> str:
    """A shell command that times an engine as ``fptk bench`` does, to be run in the engine's folder.

    Its *GPU Compute Time* is what ``fptk bench --no-transfers`` shows. Its *Latency* is the GPU's part of what
    ``fptk bench`` shows with transfers: a caller also waits for the copies into and out of pinned memory.

    Args:
        product: TensorRT (``trtexec``) or TensorRT-RTX (``tensorrt_rtx``).
        engine_name: file name of the engine.
        cuda_graph: whether the engine is launched as one CUDA graph.
        transfers: count the copies to and from the GPU.
        shape: name and shape of the input, ``images:1x512x512x3``, where the engine leaves the batch open.
        several: time several inferences at once, each on a stream of its own (TensorRT only): its *Throughput*.

    Sources: *TensorRT: Command-Line Programs*; *TensorRT-RTX: Best Practices*. ``--useSpinWait``: fptk waits for its
    stream as CUDA does by default, by polling. ``--exposeDMA``: fptk overlaps no copy with another inference.
    """
    words = [product.tool, f"--loadEngine={engine_name}", "--useSpinWait"]
    if shape is not None:
        words.append(f"--shapes={shape}")
    if cuda_graph:
        words.append("--rtxCudaGraphStrategy=wholeGraph" if product.builds_without_gpu else "--useCudaGraph")
    if not transfers:
        words.append("--noDataTransfers")
    elif not product.builds_without_gpu and not several:
        words.append("--exposeDMA")
    if several:
        words.append(f"--infStreams={STREAMS}")
    return shlex.join(words)


def _product_flags(product: Product, options: TensorRTOptions) -> list[str]:
    if product.builds_without_gpu:
        capabilities = options.compute_capabilities(product)
        return [f"--computeCapabilities={','.join(map(str, capabilities))}"] if capabilities else ["--useGpu"]
    words = ["--stronglyTyped", f"--timingCacheFile={TIMING_CACHE_FILE}"]
    if options.hardware_compatibility != "none":
        words.append(f"--hardwareCompatibilityLevel={_COMPATIBILITY[options.hardware_compatibility]}")
    if options.version_compatible:
        words.append("--versionCompatible")
    if options.dla_core is not None:
        words += [f"--useDLACore={options.dla_core}", "--allowGPUFallback"]
    return words
