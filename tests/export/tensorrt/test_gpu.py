"""The CUDA side of the runner on a real GPU, with each package that can do its calls; no TensorRT is needed."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

from fptk.core.errors import TargetUnavailableError
from fptk.core.preprocess import PreprocessSpec
from fptk.export.tensorrt.bindings_stream import BindingsStream
from fptk.export.tensorrt.driver import cuda_host
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.pycuda_stream import PycudaStream
from fptk.export.tensorrt.session import TensorRTSession
from fptk.export.tensorrt.stream import CudaStream

pytestmark = pytest.mark.gpu
SPEC = PreprocessSpec(size=(64, 96))
MIB = 1 << 20


@pytest.fixture(params=["pycuda", "cuda-bindings"])
def stream(request: pytest.FixtureRequest) -> Iterator[CudaStream]:
    """A stream of the first GPU."""
    host = cuda_host()
    if host.reason:
        pytest.skip(f"{host.reason}; {host.remedy}")
    kind, module = {"pycuda": (PycudaStream, "pycuda"), "cuda-bindings": (BindingsStream, "cuda")}[request.param]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{request.param} is not installed")
    stream = kind()
    with contextlib.closing(stream):
        yield stream


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def test_copies_there_and_back(stream: CudaStream) -> None:
    with stream.current():
        source, back = stream.pinned(MIB), stream.pinned(MIB)
        source[:], back[:] = noise(MIB), 0
        address = stream.allocate(MIB)
        assert address > 0
        stream.upload(address, source)
        stream.download(back, address)
        stream.synchronise()
    np.testing.assert_array_equal(back, noise(MIB))


def test_a_copy_of_a_part_leaves_the_rest(stream: CudaStream) -> None:
    with stream.current():
        host = stream.pinned(2 * MIB)
        host[:] = 7
        address = stream.allocate(2 * MIB)
        stream.upload(address, host)
        host[:MIB] = noise(MIB)
        stream.upload(address, host[:MIB])
        host[:] = 0
        stream.download(host, address)
        stream.synchronise()
    np.testing.assert_array_equal(host[:MIB], noise(MIB))
    assert (host[MIB:] == 7).all()


def test_marks_time_what_is_between_them(stream: CudaStream) -> None:
    """Sixty-four times the bytes take longer, and the marks see it."""
    with stream.current():
        host, address = stream.pinned(64 * MIB), stream.allocate(64 * MIB)
        marks = [stream.event() for _ in range(3)]
        stream.upload(address, host)  # the first copy also pays for what CUDA sets up
        marks[0].record()
        stream.upload(address, host[:MIB])
        marks[1].record()
        stream.upload(address, host)
        marks[2].record()
        stream.synchronise()
        small, large = marks[1].since(marks[0]), marks[2].since(marks[1])
        assert 0 < small < large
        assert marks[2].since(marks[0]) == pytest.approx(small + large, abs=0.01)


def test_a_graph_repeats_its_copies(stream: CudaStream) -> None:
    """A launch copies what the pinned memory holds at that time, not what it held at the capture."""
    with stream.current():
        source, back = stream.pinned(MIB), stream.pinned(MIB)
        address = stream.allocate(MIB)

        def work() -> None:
            stream.upload(address, source)
            stream.download(back, address)

        work()
        stream.synchronise()
        back[:] = 0
        launch = stream.capture(work)
        stream.synchronise()
        assert not back.any(), "a capture runs nothing"
        for seed in (1, 2):
            source[:] = noise(MIB, seed)
            launch()
            stream.synchronise()
            np.testing.assert_array_equal(back, noise(MIB, seed))


def test_a_failed_capture_leaves_the_stream_usable(stream: CudaStream) -> None:
    with stream.current():
        host, address = stream.pinned(MIB), stream.allocate(MIB)
        with pytest.raises(ZeroDivisionError):
            stream.capture(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
        host[:] = noise(MIB)
        stream.upload(address, host)
        host[:] = 0
        stream.download(host, address)
        stream.synchronise()
    np.testing.assert_array_equal(host, noise(MIB))


def test_more_memory_than_there_is_is_one_line(stream: CudaStream) -> None:
    with stream.current(), pytest.raises(TargetUnavailableError, match=r"^the GPU has no .* MiB of memory left"):
        stream.allocate(2 * cuda_host().gpus[0].memory)


class CopyingContext:
    """An engine in TensorRT's place: its labels are the first bytes of its images, copied by the GPU through a stage
    in pinned memory."""

    def __init__(self, stream: CudaStream, card: EngineCard) -> None:
        self.stream = stream
        self.card = card
        self.addresses: dict[str, int] = {}
        self.count = 0
        with stream.current():
            self.stage = stream.pinned(card.batch[1] * SPEC.size[0] * SPEC.size[1])

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count = shape[0]
        return True

    def execute_async_v3(self, handle: int) -> bool:
        assert handle == self.stream.handle
        stage = self.stage[: self.count * SPEC.size[0] * SPEC.size[1]]
        self.stream.download(stage, self.addresses[self.card.input_name])
        self.stream.upload(self.addresses[self.card.output_name], stage)
        return True


@pytest.mark.parametrize("capture", [False, True], ids=["plain", "graph"])
def test_the_session_moves_images_and_labels(stream: CudaStream, capture: bool) -> None:
    """Everything of the runner but TensorRT: buffers, batches, graphs for two batch sizes, times."""
    card = EngineCard(
        target="trt",
        precision="fp32",
        version="0",
        compute_capabilities=(),
        input_name="images",
        output_name="labels",
        size=SPEC.size,
        batch=(1, 4),
        preprocess_sha256=SPEC.sha256,
        engine_sha256="0",
        rebuild="",
    )
    session = TensorRTSession("copy", SPEC, card, CopyingContext(stream, card), stream, capture=capture)
    pixels = SPEC.size[0] * SPEC.size[1]
    with session:
        for seed in range(3):
            images = noise(6 * pixels * 3, seed).reshape(6, *SPEC.size, 3) % 19
            labels = session(images)
            batches = (images[:4], images[4:])
            expected = [batch.reshape(-1)[: len(batch) * pixels].reshape(-1, *SPEC.size) for batch in batches]
            np.testing.assert_array_equal(labels, np.concatenate(expected))
        times = session.gpu_times
        assert times is not None
        assert min(times.upload, times.compute, times.download) > 0
        assert session.compute_ms() == times.compute
