"""The tiny engine: how far it comes with TensorRT-RTX as installed, and with wheels that fail in each way."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from fptk.export.tensorrt import probe as module
from fptk.export.tensorrt.driver import CudaHost, Gpu, cuda_host
from fptk.export.tensorrt.probe import probe
from fptk.export.tensorrt.product import TENSORRT

STAND_IN = '''
"""What the probe calls of the wheel; HOW says which call fails."""
import os, signal, sys, time
from types import SimpleNamespace as Names

HOW = os.environ["HOW"].split()
class ILogger: pass
NetworkDefinitionCreationFlag = Names()
ElementWiseOperation = Names(SUM=0)
ComputeCapability = Names(CURRENT="CURRENT", SM80="80", SM86="86", SM89="89", SM120="120")
float32 = "float32"

class Builder:
    def __init__(self, logger): self.logger = logger
    def create_network(self, flags):
        doubled = Names(get_output=lambda index: Names(name=""))
        return Names(
            add_input=lambda *given: "numbers", add_elementwise=lambda *given: doubled, mark_output=lambda tensor: None
        )
    def create_builder_config(self):
        asked = []
        return Names(asked=asked, set_compute_capability=lambda name, index: asked.append(name))
    def build_serialized_network(self, network, config):
        if "refuses-" + ",".join(config.asked) in HOW:
            self.logger.log(2, "a warning")
            self.logger.log(1, "SM 90 is\\nnot supported")
            return None
        if "hangs" in HOW:
            time.sleep(60)
        return ",".join(config.asked)

class Runtime:
    def __init__(self, logger): self.logger = logger
    def deserialize_cuda_engine(self, plan):
        if "crashes-" + plan in HOW:
            os.kill(os.getpid(), signal.SIGSEGV)
        return Names(create_execution_context=lambda: None if "no-context" in HOW else "context")
'''
DEFAULT = "80,86,89,120"
CRASHED, ENDED = "its process was ended by SIGSEGV", "its process ended with code 1"


@pytest.fixture
def on_h100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], module.Probe]:
    """Probes a host with an H100, whose wheel fails as told."""
    (tmp_path / "tensorrt_rtx.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(module, "wheel_version", lambda product: "1.7.1")
    monkeypatch.setattr(module, "cuda_host", lambda: CudaHost("13.0", (Gpu("H100", "9.0", 80 << 30),)))

    def run(how: str, limit_s: float = 30) -> module.Probe:
        monkeypatch.setenv("HOW", how)
        return probe(limit_s)

    return run


@pytest.mark.parametrize(
    ("how", "built_for", "loaded", "reason"),
    [
        ("", "GPU", True, ""),
        ("refuses-CURRENT", "any", True, ""),
        ("crashes-CURRENT crashes-", DEFAULT, True, ""),
        (
            f"refuses-CURRENT refuses- refuses-{DEFAULT}",
            "",
            False,
            f"for GPU: SM 90 is not supported; for any: SM 90 is not supported; for {DEFAULT}: SM 90 is not supported",
        ),
        (
            f"refuses-CURRENT crashes- crashes-{DEFAULT}",
            "any",
            False,
            f"for GPU: SM 90 is not supported; for any: {CRASHED}; for {DEFAULT}: {CRASHED}",
        ),
        ("no-context", "GPU", False, f"for GPU: {ENDED}; for any: {ENDED}; for {DEFAULT}: {ENDED}"),
    ],
    ids=["takes", "takes any", "takes the list", "refuses", "refuses and crashes", "no context"],
)
def test_says_how_far_it_came(
    on_h100: Callable[[str], module.Probe], how: str, built_for: str, loaded: bool, reason: str
) -> None:
    found = on_h100(how)
    assert (found.built_for, found.built, found.loaded, found.reason) == (built_for, built_for != "", loaded, reason)
    assert (found.product, found.version, found.gpu, found.compute_capability) == (
        "TensorRT-RTX",
        "1.7.1",
        "H100",
        "9.0",
    )


def test_what_hangs_is_stopped(on_h100: Callable[[str, float], module.Probe]) -> None:
    started = time.monotonic()
    found = on_h100("hangs", 2)
    assert time.monotonic() - started < 10
    assert not found.built
    late = "there was no time left to try"
    assert found.reason == f"for GPU: it did not end within 2 s; for any: {late}; for {DEFAULT}: {late}"


def test_a_missing_wheel_is_a_reason() -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed here")
    assert probe(5, TENSORRT).reason == "the package tensorrt is not installed"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="the package tensorrt_rtx is missing")
def test_builds_with_the_wheel_as_installed() -> None:
    if cuda_host().gpus:
        pytest.skip("this host has a GPU, which the gpu test asks")
    found = probe(60)
    assert found.built
    assert not found.loaded
    assert found.built_for == DEFAULT
    assert found.reason == cuda_host().reason
    assert json.loads(json.dumps(asdict(found))) == asdict(found)


@pytest.mark.gpu
def test_the_wheel_and_this_gpu() -> None:
    """What a refused GPU can do is for the record; an engine that loads must have been built."""
    found = probe(60)
    if not found.loaded:
        pytest.skip(f"{found.product} {found.version} on {found.gpu or 'no GPU'}: {found.reason}")
    assert found.built
    assert found.reason == ""
