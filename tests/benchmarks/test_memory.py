"""Peak memory is that of one inference in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fptk.benchmarks.memory import peak_memory
from fptk.core.classes import CELEBAMASK
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.preprocess import PreprocessSpec
from fptk.export.engine_process import engine_command

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").is_file(), reason="peak memory is read from /proc, which this system lacks"
)

ALLOCATES = """
import sys
import numpy as np
from fptk.benchmarks.own_process import answer
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

class Hungry(Session):
    def _infer(self, images):
        np.ones({megabytes} << 20, np.uint8)
        return np.zeros(images.shape[:3], np.uint8)

before = np.ones(200 << 20, np.uint8)
print(answer(Hungry("hungry", PreprocessSpec(size=(32, 32))), sys.argv[-1]))
"""


def test_only_what_the_first_inference_adds_is_counted() -> None:
    """200 MB of weights are not, 64 MB of activations are."""
    peak = peak_memory([sys.executable, "-c", ALLOCATES.format(megabytes=64)])
    assert peak is not None
    assert 60 << 20 < peak < 100 << 20


IN_A_CHILD = """
import subprocess, sys
import numpy as np
from fptk.benchmarks.own_process import answer
from fptk.core.preprocess import PreprocessSpec
from fptk.core.session import Session

CHILD = "before = b'1' * (100 << 20); print(flush=True); input(); b'1' * (64 << 20); print(flush=True); input()"

class Parent(Session):
    def __init__(self, *given):
        super().__init__(*given)
        self.child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1)
        self.child.stdout.readline()

    def _infer(self, images):
        self.child.stdin.write(b"\\n")
        self.child.stdin.flush()
        self.child.stdout.readline()
        return np.zeros(images.shape[:3], np.uint8)

session = Parent("parent", PreprocessSpec(size=(32, 32)))
print(answer(session, sys.argv[-1]))
session.child.kill()
"""


def test_an_engine_in_a_child_process_is_counted() -> None:
    peak = peak_memory([sys.executable, "-c", IN_A_CHILD])
    assert peak is not None
    assert 60 << 20 < peak < 100 << 20


def test_an_engine_that_fails_is_an_error_with_its_message() -> None:
    with pytest.raises(RuntimeError, match="no such engine"):
        peak_memory([sys.executable, "-c", "raise SystemExit('no such engine')"])


@pytest.mark.parametrize(
    ("ends", "kind", "message"),
    [
        (
            "import os; os.kill(os.getpid(), 11)",
            TargetUnavailableError,
            "the engine crashed its runtime here with SIGSEGV",
        ),
        ("import sys; sys.stderr.write('noise\\nno bf16\\n'); sys.exit(3)", TargetUnavailableError, "no bf16"),
        ("import sys; sys.stderr.write('no graph\\n'); sys.exit(2)", InputError, "no graph"),
    ],
)
def test_an_engine_that_cannot_run_is_told_from_a_fault_of_ours(ends: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=f"^{message}$"):
        peak_memory([sys.executable, "-c", ends])


@pytest.mark.slow
def test_memory_grows_with_the_image(checkpoint: Path, tmp_path: Path) -> None:
    """Four times the pixels need more than twice the activations."""
    from fptk.export.onnx import export_onnx, serving_module
    from fptk.models import load_checkpoint

    network, _ = load_checkpoint(checkpoint)
    peaks = []
    for side in (256, 512):
        spec = PreprocessSpec(size=(side, side))
        path = export_onnx(serving_module(network, spec, "original", "onnxruntime"), tmp_path / f"{side}.onnx", spec)
        peaks.append(peak_memory(engine_command("onnx", path, spec, CELEBAMASK, threads=1)) or 0)
    assert peaks[1] > 2 * peaks[0] > 0
