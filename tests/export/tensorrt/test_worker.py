"""The builder asks each TensorRT for what it has: 10.x, 11.x and RTX, imitated by what their Python modules hold."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.export.tensorrt import build
from fptk.export.tensorrt.build import BuildFailedError, build_engine
from fptk.export.tensorrt.options import TensorRTOptions
from fptk.export.tensorrt.product import TENSORRT, TENSORRT_RTX, Product
from fptk.export.tensorrt.wheel import make_logger, network_flags
from fptk.export.tensorrt.worker import Job, configure


class Recorder:
    """A builder's configuration that remembers what was set and called."""

    def __init__(self) -> None:
        object.__setattr__(self, "seen", {})

    def __setattr__(self, name: str, value: Any) -> None:
        self.seen[name] = value

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.seen[name] = (*arguments, *named.values())
            return SimpleNamespace(name=name)

        return call


def names(*members: str) -> Any:
    return SimpleNamespace(**{member: member for member in members})


FAKE_TRT = SimpleNamespace(
    ProfilingVerbosity=names("DETAILED"),
    MemoryPoolType=names("WORKSPACE"),
    HardwareCompatibilityLevel=names("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"),
    BuilderFlag=names("VERSION_COMPATIBLE", "GPU_FALLBACK"),
    DeviceType=names("DLA", "GPU"),
    ComputeCapability=names("CURRENT", "SM80", "SM86", "SM89", "SM120"),
)


def settings(product: Product, tmp_path: Path, batch: int = 1, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    job = Job(
        target=product.target,
        onnx=tmp_path / "m.onnx",
        engine=tmp_path / "m.engine",
        log=tmp_path / "m.log",
        outcome=tmp_path / "m.json",
        options=TensorRTOptions(**options),
        timing_cache=tmp_path / "timing.cache" if product.timing_cache else None,
    )
    entry = SimpleNamespace(name="images", shape=(batch, 64, 64, 3))
    network = SimpleNamespace(get_input=lambda index: entry)
    profile, config = Recorder(), Recorder()
    builder = SimpleNamespace(create_optimization_profile=lambda: profile)
    configure(FAKE_TRT, builder, network, config, product, job)
    return config.seen, profile.seen


def test_asks_for_a_detailed_listing_and_little_else_by_default(tmp_path: Path) -> None:
    config, profile = settings(TENSORRT, tmp_path)
    assert config.pop("profiling_verbosity") == "DETAILED"
    assert set(config) == {"create_timing_cache", "set_timing_cache"}
    assert profile == {}


def test_tensorrt_gets_its_options(tmp_path: Path) -> None:
    (tmp_path / "old.cache").write_bytes(b"timings")
    config, _ = settings(
        TENSORRT,
        tmp_path,
        workspace_mib=256,
        optimization_level=4,
        hardware_compatibility="ampere_plus",
        version_compatible=True,
        timing_cache=tmp_path / "old.cache",
    )
    assert config["set_memory_pool_limit"] == ("WORKSPACE", 256 << 20)
    assert config["builder_optimization_level"] == 4
    assert config["hardware_compatibility_level"] == "AMPERE_PLUS"
    assert config["set_flag"] == ("VERSION_COMPATIBLE",)
    assert config["create_timing_cache"] == (b"timings",)


def test_a_dla_falls_back_to_the_gpu(tmp_path: Path) -> None:
    config, _ = settings(TENSORRT, tmp_path, dla_core=1)
    assert (config["default_device_type"], config["DLA_core"], config["set_flag"]) == ("DLA", 1, ("GPU_FALLBACK",))


def test_rtx_gets_compute_capabilities_and_no_timing_cache(tmp_path: Path) -> None:
    config, _ = settings(TENSORRT_RTX, tmp_path, sm=(86, 89))
    assert config["num_compute_capabilities"] == 2
    assert config["set_compute_capability"] == ("SM89", 1)
    assert "set_timing_cache" not in config


def test_rtx_builds_for_the_gpu_of_the_host_where_asked_to(tmp_path: Path) -> None:
    config, _ = settings(TENSORRT_RTX, tmp_path, sm="current")
    assert config["num_compute_capabilities"] == 1
    assert config["set_compute_capability"] == ("CURRENT", 0)


@pytest.mark.parametrize(("asked", "shapes"), [(None, (1, 1, 1)), ((1, 4, 8), (1, 4, 8))])
def test_an_open_batch_gets_a_profile(asked: Any, shapes: tuple[int, int, int], tmp_path: Path) -> None:
    config, profile = settings(TENSORRT, tmp_path, batch=-1, dynamic_batch=asked)
    assert profile["set_shape"] == ("images", *((batch, 64, 64, 3) for batch in shapes))
    assert "add_optimization_profile" in config


def test_networks_are_strongly_typed_where_there_is_a_choice() -> None:
    ten = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0, STRONGLY_TYPED=1))
    without = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())
    assert network_flags(ten) == 2
    assert network_flags(without) == 0


def test_the_log_carries_every_severity() -> None:
    stream = io.StringIO()
    logger = make_logger(SimpleNamespace(ILogger=type("ILogger", (), {})), stream.write)
    for severity in range(5):
        logger.log(severity, f"message {severity}")
    assert stream.getvalue().splitlines()[::4] == ["[F] message 0", "[V] message 4"]


def run_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let the builder's process run ``code``, with the job's path as its argument."""
    script = tmp_path / "stand_in.py"
    script.write_text(code)
    monkeypatch.setattr(build, "worker_command", lambda job: [sys.executable, str(script), str(job)])


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed with SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL .most likely out of memory"),
        ("import nothing_of_this_name", "No module named 'nothing_of_this_name'"),
        ("import time; time.sleep(60)", "still building after 1 s"),
        ("pass", "could not build the engine"),
        (
            "import json, sys; log = json.load(open(sys.argv[1]))['log'];"
            "open(log, 'w').write('[I] fine\\n[E] no tactic for conv\\n[V] bye\\n'); sys.exit(1)",
            "could not build the engine: no tactic for conv",
        ),
    ],
    ids=["segfault", "killed", "import", "slow", "silent", "refused"],
)
def test_however_the_process_ends_there_is_one_error(
    code: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead(monkeypatch, tmp_path, code)
    (tmp_path / "model.engine").write_bytes(b"of an earlier build")
    with pytest.raises(BuildFailedError, match=reason) as caught:
        build_engine(TENSORRT_RTX, tmp_path / "m.onnx", tmp_path, TensorRTOptions(timeout=1))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model.engine").exists(), "an old engine must not pass for the new one"


def test_what_the_parser_rejects_is_the_files_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import json, sys; job = json.load(open(sys.argv[1])); open(job['log'], 'w').close();"
        "json.dump({'version': '10.13', 'parse_errors': ['bias_dq (DequantizeLinear): no']}, open(job['outcome'], 'w'))"
    )
    run_instead(monkeypatch, tmp_path, code)
    with pytest.raises(InputError, match=r"rejects m\.onnx: bias_dq"):
        build_engine(TENSORRT, tmp_path / "m.onnx", tmp_path, TensorRTOptions())


def test_verbose_messages_leave_the_log_of_a_good_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import json, sys; job = json.load(open(sys.argv[1])); open(job['engine'], 'w').write('plan');"
        "open(job['log'], 'w').write('[I] start\\n[V] Layers:\\nName: x\\n[W] slow\\n[W] slow\\n');"
        "json.dump({'version': '10.13', 'inspector': '{\"Layers\": []}'}, open(job['outcome'], 'w'))"
    )
    run_instead(monkeypatch, tmp_path, code)
    built = build_engine(TENSORRT, tmp_path / "m.onnx", tmp_path, TensorRTOptions())
    assert built.log.read_text() == "[I] start\n[W] slow\n[W] slow\n"
    assert built.warnings == ("slow",)
    assert built.timing_cache is None
