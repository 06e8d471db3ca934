"""The PyTorch network in the ways in which a device may run it: graph, precision, compiled or not, as a CUDA graph.

A variant takes uint8 (N, H, W, 3) images that lie on its device and leaves uint8 (N, H, W) labels there. Its weights
are converted once: there is no autocast, and pixels are normalized in float32 before they are rounded.
"""

from __future__ import annotations

import contextlib
import functools
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fptk.core.preprocess import PreprocessSpec
from fptk.models.deploy import to_deploy
from fptk.models.deploy.serving import Serving
from fptk.models.engine_form import EngineForm
from fptk.models.network import FaceParsingNetwork

Call = Callable[[Tensor], Tensor]

ORIGINAL, DEPLOY = "original graph", "deploy form"

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Weights and activations by the name of the precision; ``tf32`` lets a GPU round the factors of its products."""

TORCH_FORM = EngineForm(label_map="plain", channels_last=True)
"""PyTorch keeps the memory of convolutions and tokens channels-last, so that no layout is changed by a copy."""


@dataclass(frozen=True)
class Mode:
    """How a module is called."""

    compiler: str | None
    """Mode of ``torch.compile``; ``None`` runs the module as it is."""
    captured: bool = False
    """Whether the call is recorded once as a CUDA graph and replayed."""


MODES = {
    "eager": Mode(None),
    "eager, CUDA graph": Mode(None, captured=True),
    "compiled": Mode("default"),
    "compiled, CUDA graph": Mode("default", captured=True),
    "compiled reduce-overhead": Mode("reduce-overhead"),
    "compiled max-autotune": Mode("max-autotune-no-cudagraphs"),
}


@dataclass(frozen=True)
class Variant:
    """One way to run the network."""

    graph: str
    """:data:`ORIGINAL` or :data:`DEPLOY`."""
    precision: str
    """Key of :data:`DTYPES`."""
    mode: str
    """Key of :data:`MODES`."""

    @property
    def label(self) -> str:
        """What a table or an error calls it."""
        return f"{self.graph}, {self.precision}, {self.mode}"


class ServedIn(Serving):
    """Pixels to labels with weights and activations of one dtype.

    Args:
        model: network or deploy form; converted in place.
        spec: normalization.
        dtype: of weights and activations.
    """

    def __init__(self, model: nn.Module, spec: PreprocessSpec, dtype: torch.dtype) -> None:
        super().__init__(model, spec)
        self.dtype = dtype
        self.model.to(dtype=dtype)

    def _normalized(self, images: Tensor) -> Tensor:
        return super()._normalized(images).to(self.dtype)


class Variants:
    """Builds the variants of one network; those that differ in the call only share their module.

    Args:
        network: in evaluation mode, float32, on the CPU; it is left alone.
        spec: normalization and size.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, network: FaceParsingNetwork, spec: PreprocessSpec, device: str) -> None:
        self._network = network
        self._spec = spec
        self.device = torch.device(device)
        self._module = functools.cache(self._build)
        self._call = functools.cache(self._compile)
        self._pool = functools.cache(SharedPool)

    def runner(self, variant: Variant) -> Runner:
        """The variant, ready to be called with batches; nothing is compiled before its first call."""
        mode = MODES[variant.mode]
        call = self._call(variant.graph, variant.precision, mode.compiler)
        return Runner(variant, call, self.device, self._pool)

    def _build(self, graph: str, precision: str) -> nn.Module:
        network = self._network
        model = network.original() if graph == ORIGINAL else to_deploy(network, engine=TORCH_FORM)
        served = ServedIn(model.eval().requires_grad_(False), self._spec, DTYPES[precision])
        for weight in served.parameters():
            if weight.dim() == 4:  # of a convolution
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
        return served.to(self.device)

    def _compile(self, graph: str, precision: str, compiler: str | None) -> Call:
        module = self._module(graph, precision)
        if compiler is None:
            return module
        call = _own_code(_caller(module), f"{graph}_{precision}_{compiler}")
        compiled: Call = torch.compile(call, mode=compiler, fullgraph=True, dynamic=False)
        return compiled


def _caller(module: nn.Module) -> types.FunctionType:
    def call(images: Tensor) -> Tensor:
        labels: Tensor = module(images)
        return labels

    assert isinstance(call, types.FunctionType)
    return call


def _own_code(function: types.FunctionType, name: str) -> types.FunctionType:
    """The function with a code object of its own.

    The compiler keeps what it made by code object, looks through all of it in each call, and gives up on a code object
    of more than eight versions.
    """
    code = function.__code__.replace(co_name="".join(each if each.isalnum() else "_" for each in name))
    return types.FunctionType(code, function.__globals__, code.co_name, None, function.__closure__)


class SharedPool:
    """The memory of all CUDA graphs that are captured; they never run side by side.

    A pool ends with its last graph, so that one of a single kernel is kept.
    """

    def __init__(self) -> None:
        self._first = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._first):
            self._kept = torch.zeros(1, device="cuda")

    @property
    def handle(self) -> Any:
        """What ``torch.cuda.graph`` takes as its pool."""
        return self._first.pool()


class Runner:
    """One variant on its device.

    Args:
        variant: what it is.
        call: labels of images, both on the device.
        device: where.
        pool: gives the memory of captured graphs; asked when one is captured.
    """

    warmup = 3
    """Calls before a batch size is timed or captured."""

    def __init__(self, variant: Variant, call: Call, device: torch.device, pool: Callable[[], SharedPool]) -> None:
        self.variant = variant
        self._call = call
        self._device = device
        self._pool = pool
        self._replay: Call | None = None

    def select(self) -> None:
        """Set torch's global flags to the variant's precision."""
        tf32 = self.variant.precision == "tf32"
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32

    def ready(self, images: Tensor) -> None:
        """Compile, warm up and capture for batches of this size.

        Args:
            images: uint8 (N, H, W, 3) on the device.
        """
        self.release()
        self.select()
        if not MODES[self.variant.mode].captured:
            for _ in range(self.warmup):
                self(images)
            return
        with _side_stream():  # what a capture needs once (handles, workspaces) is made on another stream than its own
            for _ in range(self.warmup):
                self(images)
        self._replay = self._captured(images)

    def release(self) -> None:
        """Forget what was captured; the next call runs without."""
        self._replay = None

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 (N, H, W) labels on the device, not waited for; those of a CUDA graph last until its next call."""
        if self._replay is not None:
            return self._replay(images)
        if MODES[self.variant.mode].compiler == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        return self._call(images)

    def _captured(self, images: Tensor) -> Call:
        taken = images.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool().handle):
            labels = self._call(taken)

        def replay(batch: Tensor) -> Tensor:
            taken.copy_(batch)
            graph.replay()
            return labels

        replay(images)
        torch.cuda.synchronize(self._device)
        return replay


@contextlib.contextmanager
def _side_stream() -> Iterator[None]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """No gradients, cuDNN's fastest convolution of each size; torch's flags are as before afterwards."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before[1:]


def timed(runner: Runner, images: Tensor, calls: int = 1) -> float:
    """Milliseconds of one call out of ``calls`` in a row, images and labels on the device.

    On a GPU the time between two events around the calls: it holds the gaps in which the GPU waits for the host.
    """
    runner.select()
    if images.device.type != "cuda":
        start = time.perf_counter()
        for _ in range(calls):
            runner(images)
        return 1e3 * (time.perf_counter() - start) / calls
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    for _ in range(calls):
        runner(images)
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / calls


def timed_with_copies(runner: Runner, images: Tensor, device: torch.device) -> float:
    """Milliseconds from images in host memory (pinned for a GPU) to labels there, by the host's clock."""
    runner.select()
    start = time.perf_counter()
    labels_of(runner, images, device)
    return 1e3 * (time.perf_counter() - start)


def labels_of(runner: Runner, images: Tensor, device: torch.device) -> Tensor:
    """uint8 (N, H, W) labels in host memory of uint8 (N, H, W, 3) images there."""
    labels = runner(images.to(device, non_blocking=True))
    return labels.cpu() if labels.is_cuda else labels.clone()


def busy_ms(runner: Runner, images: Tensor, calls: int) -> float:
    """Milliseconds that the GPU worked in one call: the sum of its kernels and copies, from torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    runner.select()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(calls):
            runner(images)
        torch.cuda.synchronize(images.device)
    events = [event for event in profiler.key_averages() if event.device_type.name == "CUDA"]
    return float(sum(event.self_device_time_total for event in events)) / 1e3 / calls
