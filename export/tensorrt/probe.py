"""Tries what TensorRT-RTX (or TensorRT) can do with the GPU of this host: builds a tiny engine and loads it.

Each try runs in a process of its own, for a library that doesn't know a GPU may end its process:
``python -m fptk.export.tensorrt.probe TARGET BUILT_FOR build|load``. Nothing here needs more than Python and the wheel.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fptk.core.crash import crash_of
from fptk.export.tensorrt.driver import CudaHost, cuda_host, wheel_version
from fptk.export.tensorrt.product import DEFAULT_SM, PRODUCTS, TENSORRT_RTX, Product
from fptk.export.tensorrt.wheel import make_logger, network_flags

GPU, ANY = "GPU", "any"


@dataclass(frozen=True)
class Probe:
    """What became of the tiny engine. ``dataclasses.asdict`` gives what JSON can hold."""

    product: str
    """``TensorRT-RTX`` or ``TensorRT``."""
    version: str = ""
    """Of its wheel; empty where none is installed."""
    gpu: str = ""
    """Name of the first GPU; empty where the driver has none."""
    compute_capability: str = ""
    """Of that GPU, e.g. ``9.0``."""
    built_for: str = ""
    """What the engine was compiled for: ``GPU`` (this one), ``any`` (no GPU named), or compute capabilities as
    ``80,86``; empty where none was built."""
    built: bool = False
    """An engine was built."""
    loaded: bool = False
    """An engine was built, deserialized, and got an execution context on this GPU."""
    reason: str = ""
    """Why it was not loaded, in one line; empty where it was."""
    seconds: float = 0.0
    """Time that all of it took."""


@dataclass(frozen=True)
class _Try:
    built_for: str
    built: bool = False
    loaded: bool = False
    reason: str = ""


def probe(limit_s: float, product: Product = TENSORRT_RTX) -> Probe:
    """Build a tiny engine and load it on the first GPU. Never raises: what goes wrong is the reason.

    TensorRT-RTX is asked to compile for this GPU first, then for none in particular, then for the list that fptk's
    engines are for. Without a GPU the engine is only built, for that list.

    Args:
        limit_s: seconds after which whatever still runs is stopped; must be positive.
        product: TensorRT-RTX or TensorRT.
    """
    started = time.monotonic()
    version, host = wheel_version(product), cuda_host()
    gpu, capability = (host.gpus[0].name, host.gpus[0].compute_capability) if host.gpus else ("", "")

    def result(best: _Try | None, reason: str) -> Probe:
        return Probe(
            product.title,
            version or "",
            gpu,
            capability,
            best.built_for if best and best.built else "",
            bool(best and best.built),
            bool(best and best.loaded),
            reason,
            round(time.monotonic() - started, 3),
        )

    if version is None:
        return result(None, f"the package {product.module} is not installed")
    if host.reason and not product.builds_without_gpu:
        return result(None, host.reason)
    best, reasons = None, []
    for choice in _choices(product, host):
        done = _try(product, choice, limit_s - (time.monotonic() - started), load=not host.reason)
        if done.loaded:
            return result(done, "")
        if best is None or (done.built and not best.built):
            best = done
        reasons.append(f"for {done.built_for}: {done.reason}" if host.gpus else done.reason or host.reason)
    return result(best, "; ".join(reasons))


def _choices(product: Product, host: CudaHost) -> Iterator[str]:
    """What to build for, in turn, in the words of :attr:`Probe.built_for`."""
    if host.gpus:
        yield GPU
    if product.builds_without_gpu:
        if host.gpus:
            yield ANY
        yield ",".join(map(str, DEFAULT_SM))


def _try(product: Product, built_for: str, limit_s: float, *, load: bool) -> _Try:
    """One try in a process of its own, which says on stdout how far it came."""
    if limit_s <= 0:
        return _Try(built_for, reason="there was no time left to try")
    command = [sys.executable, "-P", "-m", "fptk.export.tensorrt.probe"]
    command += [product.target, built_for, "load" if load else "build"]
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace")
    except OSError as error:
        return _Try(built_for, reason=f"its process did not start: {error.strerror}")
    try:
        out, err = process.communicate(timeout=limit_s)
        end = _end(process.returncode, err)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        end = f"it did not end within {limit_s:.0f} s"
    said = [json.loads(line) for line in out.splitlines() if line.startswith('{"')]
    stages = {each["stage"] for each in said if "stage" in each}
    errors = [str(each["error"]) for each in said if "error" in each]
    loaded = "loaded" in stages
    asked = loaded or (not load and "built" in stages)
    reason = "" if asked else " ".join((errors[0] if errors else end).split())
    return _Try(built_for, "built" in stages, loaded, reason)


def _end(code: int, err: str) -> str:
    lines = err.strip().splitlines()
    last = f": {lines[-1]}" if lines else ""
    crash = crash_of(code)
    return (f"its process was ended by {crash}" if crash else f"its process ended with code {code}") + last


def main(arguments: Sequence[str]) -> int:
    """Build, and load where asked to; tells of each stage and each error in one line of JSON on stdout."""
    target, built_for, task = arguments
    product = PRODUCTS[target]

    def tell(key: str, value: str) -> None:
        sys.stdout.write(json.dumps({key: value}) + "\n")
        sys.stdout.flush()

    def hear(message: str) -> None:
        if message.startswith(("[F]", "[E]")):
            tell("error", message[4:].strip())

    trt = importlib.import_module(product.module)
    logger = make_logger(trt, hear)
    plan = _build(trt, logger, _capabilities(product, built_for))
    if plan is None:
        return 1
    tell("stage", "built")
    if task == "load":
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        if engine is None or engine.create_execution_context() is None:
            return 1
        tell("stage", "loaded")
    return 0


def _capabilities(product: Product, built_for: str) -> list[str]:
    """Names in TensorRT-RTX's enumeration of compute capabilities; none leaves the builder its default."""
    if built_for == ANY or not product.builds_without_gpu:
        return []
    return ["CURRENT"] if built_for == GPU else [f"SM{capability}" for capability in built_for.split(",")]


def _build(trt: Any, logger: Any, capabilities: Sequence[str]) -> Any:
    """A serialized engine that doubles four numbers; ``None`` where the builder gives none."""
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt))
    entry = network.add_input("numbers", trt.float32, (1, 4))
    total = network.add_elementwise(entry, entry, trt.ElementWiseOperation.SUM).get_output(0)
    total.name = "doubled"
    network.mark_output(total)
    config = builder.create_builder_config()
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return builder.build_serialized_network(network, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
