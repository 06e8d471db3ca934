"""``WebSession``: labels come through the pipe whole, and whatever ends the child is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.preprocess import PreprocessSpec
from fptk.export.web.session import WebSession

SPEC = PreprocessSpec(size=(64, 64))
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)


@pytest.fixture
def opened(with_npm: Path, with_node: Callable[..., None], tmp_path: Path) -> Callable[[str], WebSession]:
    """Opens an engine whose file holds a word for what its child does."""
    with_node()

    def load(kind: str) -> WebSession:
        path = tmp_path / "model.onnx"
        path.write_text(kind)
        return WebSession(path, SPEC, threads=1)

    return load


@pytest.mark.parametrize("kind", ["plain", "open batch"])
def test_labels_are_those_of_the_engine(opened: Callable[[str], WebSession], kind: str) -> None:
    with opened(kind) as session:
        assert session.compute_ms() is None
        assert np.array_equal(session(IMAGES), IMAGES[..., 0] % 19)
        assert np.array_equal(session(IMAGES[:1, ::-1].copy()), IMAGES[:1, ::-1, :, 0] % 19)
        assert session.compute_ms() == 12.5
        process = session._process
    assert process.returncode == 0
    session.close()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("broken", "cannot load .*model.onnx: no such format$"),
        ("channels", r"takes uint8 \[1, 64, 64, 4\], not uint8 images"),
        ("float", "gives float32"),
        ("two outputs", "has 2 outputs, expected one"),
    ],
)
def test_an_engine_that_does_not_fit_is_refused(opened: Callable[[str], WebSession], kind: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        opened(kind)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("fails", "cannot run .*model.onnx: a kernel failed$"),
        ("dies", r"cannot run .*model.onnx: node ended \(1\): out of memory$"),
        ("short", "gave 4095 labels for 1 images of 64x64"),
    ],
)
def test_a_call_that_fails_is_one_line(opened: Callable[[str], WebSession], kind: str, words: str) -> None:
    with opened(kind) as session, pytest.raises(InputError, match=words):
        session(IMAGES[:1])


def test_what_is_missing_is_exit_code_3(
    with_npm: Path, with_node: Callable[..., None], empty_machine: Path, tmp_path: Path
) -> None:
    with pytest.raises(TargetUnavailableError, match="node is not installed; install Node"):
        WebSession(tmp_path / "model.onnx", SPEC)
    with_node()
    with pytest.raises(InputError, match="does not exist"):
        WebSession(tmp_path / "model.onnx", SPEC)
    (empty_machine / "npm").unlink()
    (tmp_path / "model.onnx").write_text("plain")
    WebSession(tmp_path / "model.onnx", SPEC).close()  # the cache has it
