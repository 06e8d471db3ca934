"""The GPU session: buffers once, batches cut to the profile, graphs, times; CUDA and TensorRT are imitated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from fptk.core.preprocess import PreprocessSpec
from fptk.export.tensorrt.engine_card import EngineCard
from fptk.export.tensorrt.session import GpuTimes, TensorRTSession

SPEC = PreprocessSpec(size=(32, 64))


def card(batch: tuple[int, int] = (1, 1)) -> EngineCard:
    return EngineCard(
        target="trt",
        precision="int8",
        version="10.13.0",
        compute_capabilities=("8.7",),
        input_name="images",
        output_name="labels",
        size=SPEC.size,
        batch=batch,
        preprocess_sha256=SPEC.sha256,
        engine_sha256="0",
        rebuild="trtexec",
    )


class FakeEvent:
    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.time = -1.0

    def record(self) -> None:
        self.stream.enqueue(lambda: setattr(self, "time", self.stream.clock))

    def since(self, start: Any) -> float:
        assert start.time >= 0 and self.time >= 0, "the marks were not passed yet"  # noqa: PT018
        return self.time - float(start.time)


class FakeStream:
    """Work waits in a queue until someone synchronises, as on a GPU; device memory is a dictionary."""

    def __init__(self) -> None:
        self.handle = 77
        self.memory: dict[int, Any] = {}
        self.allocations = 0
        self.queue: list[Callable[[], None]] = []
        self.clock = 0.0
        self.depth = 0
        self.capturing = False
        self.captures = 0
        self.closed = 0

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.depth += 1
        yield
        self.depth -= 1

    def enqueue(self, work: Callable[[], None]) -> None:
        assert self.depth, "the CUDA context is not current in this thread"
        self.queue.append(work)

    def pinned(self, nbytes: int) -> Any:
        self.allocations += 1
        return np.full(nbytes, 255, np.uint8)

    def allocate(self, nbytes: int) -> int:
        self.allocations += 1
        address = 1000 * self.allocations
        self.memory[address] = np.zeros(nbytes, np.uint8)
        return address

    def upload(self, address: int, host: Any) -> None:
        def work() -> None:
            self.memory[address][: host.size] = host
            self.clock += 2

        self.enqueue(work)

    def download(self, host: Any, address: int) -> None:
        def work() -> None:
            host[:] = self.memory[address][: host.size]
            self.clock += 1

        self.enqueue(work)

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        assert not self.queue, "work was pending when the capture began"
        self.captures += 1
        work()
        recorded, self.queue = self.queue, []
        return lambda: self.queue.extend(recorded)

    def synchronise(self) -> None:
        for work in self.queue:
            work()
        self.queue = []

    def close(self) -> None:
        self.closed += 1


class FakeContext:
    """An engine whose label is the red value modulo 19."""

    def __init__(self, stream: FakeStream) -> None:
        self.stream = stream
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        self.shapes_set = 0
        self.enqueued = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        self.shapes_set += 1
        return True

    def execute_async_v3(self, handle: int) -> bool:
        assert handle == self.stream.handle
        self.enqueued += 1
        count = int(np.prod(self.shape))

        def work() -> None:
            images = self.stream.memory[self.addresses["images"]][:count].reshape(self.shape)
            result = (images[..., 0] % 19).reshape(-1)
            self.stream.memory[self.addresses["labels"]][: result.size] = result
            self.stream.clock += 5

        self.stream.enqueue(work)
        return True


def open_session(batch: tuple[int, int] = (1, 1), *, capture: bool = False) -> tuple[TensorRTSession, FakeContext]:
    stream = FakeStream()
    context = FakeContext(stream)
    return TensorRTSession("trt int8", SPEC, card(batch), context, stream, capture=capture), context


def faces(count: int) -> Any:
    return np.random.default_rng(count).integers(0, 256, (count, *SPEC.size, 3), dtype=np.uint8)


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(
    ("batch", "count"), [((1, 1), 1), ((1, 1), 3), ((1, 4), 4), ((1, 4), 7), ((2, 4), 6), ((4, 4), 8)]
)
def test_labels_of_any_number_of_images(batch: tuple[int, int], count: int, capture: bool) -> None:
    session, _ = open_session(batch, capture=capture)
    images = faces(count)
    with session:
        for _ in range(2):
            np.testing.assert_array_equal(session(images), images[..., 0] % 19)


def test_allocates_once() -> None:
    session, context = open_session((1, 4))
    before = context.stream.allocations
    first = session(faces(4))
    second = session(faces(3))
    assert context.stream.allocations == before == 4
    # A later call must not write into labels that were given out.
    np.testing.assert_array_equal(first, faces(4)[..., 0] % 19)
    assert second.shape == (3, *SPEC.size)


def test_sets_a_shape_only_when_it_changes() -> None:
    session, context = open_session((1, 4))
    for count in (4, 4, 8, 2, 2, 4):
        session(faces(count))
    assert context.shapes_set == 3


def test_captures_one_graph_a_batch_size_after_a_first_run() -> None:
    session, context = open_session((1, 4), capture=True)
    for count in (4, 2, 4, 2):
        session(faces(count))
    assert context.stream.captures == 2
    assert context.enqueued == 4, "once to warm up and once to capture, for each of two batch sizes"


def test_tells_transfers_from_compute() -> None:
    session, _ = open_session((1, 2))
    assert session.gpu_times is None
    session(faces(4))
    assert session.gpu_times == GpuTimes(upload=4.0, compute=10.0, download=2.0)
    assert session.gpu_times.total(transfers=True) == 16.0
    assert session.gpu_times.total(transfers=False) == session.compute_ms() == 10.0


def test_refuses_a_batch_below_the_profile() -> None:
    session, _ = open_session((4, 8))
    with pytest.raises(ValueError, match="batches of 4 to 8, got 3"):
        session(faces(3))
    with pytest.raises(ValueError, match="expected uint8 images of shape"):
        session(faces(4).astype(np.float32))


def test_closing_twice_frees_once() -> None:
    session, context = open_session()
    session.close()
    session.close()
    assert context.stream.closed == 1


def test_an_engine_that_will_not_run_is_no_silent_answer() -> None:
    session, context = open_session()
    context.execute_async_v3 = lambda handle: False  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="could not enqueue"):
        session(faces(1))
    other, context = open_session()
    context.set_input_shape = lambda name, shape: False  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="refuses the input shape"):
        other(faces(1))
