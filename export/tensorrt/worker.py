"""Builds one engine in a process of its own: ``python -m fptk.export.tensorrt.worker JOB.json``.

TensorRT keeps the first logger that a process gives it, and some graphs end its process with a segmentation fault; a
process for each build confines both. The job is a JSON file of :class:`Job`, the answer a JSON file of
:class:`Outcome`. This module imports TensorRT (or TensorRT-RTX) and nothing of fptk that needs more than the base.
"""

from __future__ import annotations

import faulthandler
import importlib
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.product import PRODUCTS, Product
from fptk.export.tensorrt.wheel import make_logger, network_flags


class Job(BaseModel):
    """What to build."""

    model_config = ConfigDict(frozen=True)

    target: str
    onnx: Path
    engine: Path
    log: Path
    """File that every message goes to, one a line behind ``[F]``, ``[E]``, ``[W]``, ``[I]`` or ``[V]``."""
    outcome: Path
    options: TensorRTOptions
    timing_cache: Path | None = None
    """File to write the updated timing cache to."""


class Outcome(BaseModel):
    """What came of it."""

    model_config = ConfigDict(frozen=True)

    version: str
    """Version of TensorRT or TensorRT-RTX."""
    seconds: float = 0.0
    """Time of the build itself."""
    parse_errors: tuple[str, ...] = ()
    """What the ONNX parser rejected, each with its node."""
    inspector: str = ""
    """JSON of the engine inspector; empty where there is no GPU to inspect the engine with."""


def run(job: Job) -> Outcome:
    """Build the engine of ``job`` and write it.

    Raises:
        RuntimeError: the builder gave no engine; the log says why.
    """
    product = PRODUCTS[job.target]
    trt = importlib.import_module(product.module)
    with job.log.open("w", encoding="utf-8", buffering=1) as stream:
        logger = make_logger(trt, stream.write)
        builder = trt.Builder(logger)
        network = builder.create_network(network_flags(trt))
        parser = trt.OnnxParser(network, logger)
        if not parser.parse_from_file(str(job.onnx)):
            errors = tuple(_describe(parser.get_error(index)) for index in range(parser.num_errors))
            return Outcome(version=trt.__version__, parse_errors=errors or ("the parser gave no reason",))
        config = builder.create_builder_config()
        configure(trt, builder, network, config, product, job)
        started = time.monotonic()
        plan = builder.build_serialized_network(network, config)
        seconds = time.monotonic() - started
        if plan is None:
            raise RuntimeError("the builder gave no engine")
        data = bytes(plan)
        job.engine.write_bytes(data)
        cache = config.get_timing_cache() if job.timing_cache else None
        if job.timing_cache and cache is not None:
            job.timing_cache.write_bytes(bytes(cache.serialize()))
        inspector = ""
        if not product.builds_without_gpu:
            inspector = inspect(trt, logger, data, version_compatible=job.options.version_compatible)
        return Outcome(version=trt.__version__, seconds=round(seconds, 3), inspector=inspector)


def configure(trt: Any, builder: Any, network: Any, config: Any, product: Product, job: Job) -> None:
    """Apply the options of ``job`` to ``config``."""
    options = job.options
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    add_profile(builder, network, config, options)
    if product.builds_without_gpu:
        names = [f"SM{capability}" for capability in options.compute_capabilities(product)] or ["CURRENT"]
        config.num_compute_capabilities = len(names)
        for index, name in enumerate(names):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    else:
        _configure_tensorrt(trt, config, job)


def _configure_tensorrt(trt: Any, config: Any, job: Job) -> None:
    options = job.options
    level = options.hardware_compatibility.upper()
    if level != "NONE":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if job.timing_cache:
        known = options.timing_cache
        content = known.read_bytes() if known is not None and known.is_file() else b""
        # A cache of another GPU or version is ignored with a warning, not taken over.
        config.set_timing_cache(config.create_timing_cache(content), ignore_mismatch=False)


def add_profile(builder: Any, network: Any, config: Any, options: TensorRTOptions) -> None:
    """The optimisation profile of an input with an open batch: the asked-for range, or batch 1 alone."""
    entry = network.get_input(0)
    shape = tuple(entry.shape)
    if shape[0] != -1:
        return
    profile = builder.create_optimization_profile()
    low, best, high = options.dynamic_batch or (1, 1, 1)
    profile.set_shape(entry.name, (low, *shape[1:]), (best, *shape[1:]), (high, *shape[1:]))
    config.add_optimization_profile(profile)


def inspect(trt: Any, logger: Any, plan: bytes, *, version_compatible: bool) -> str:
    """JSON of the engine inspector. Only where there is a GPU: deserialising without a driver ends the process."""
    runtime = trt.Runtime(logger)
    if version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _describe(error: Any) -> str:
    name, kind = error.node_name(), error.node_operator()
    where = f"{name} ({kind}): " if name or kind else ""
    # Without a driver every refusal drags a complaint about CUDA behind it.
    text = str(error.desc()).split("[checkMacros.cpp::catchCudaError")[0]
    return where + " ".join(text.split())


def main(arguments: list[str]) -> int:
    """Run the job file named by ``arguments``; 0 where it left an outcome, 1 where the builder failed."""
    faulthandler.enable()
    job = Job.model_validate_json(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        outcome = run(job)
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    job.outcome.write_text(outcome.model_dump_json(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
