"""Engines that crash their runtime: ``fptk verify`` and ``fptk bench`` say so, and go on with the others."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fptk.workflows.verify import VerifyPlan
from fptk.workflows.verify_apart import verify_apart, verify_bundles

CRASHES = """
import os, sys

here = os.path.dirname(__file__)
sys.path.remove(here)
del sys.modules[__name__]
import onnxruntime

load = onnxruntime.InferenceSession
def crash(model, *arguments, **options):
    if "crashes" in str(model):
        {how}
    return load(model, *arguments, **options)
onnxruntime.InferenceSession = crash
"""
"""A runtime that ends the process on some engines; the rest of it is the real one."""


@pytest.fixture
def bundles(proven: Path, tmp_path: Path) -> tuple[Path, Path]:
    """One bundle whose engine will crash, and one that will not."""
    names = ("a-crashes", "b-works")
    folders = (Path(shutil.copytree(proven / "onnx-fp32", tmp_path / name)) for name in names)
    return next(folders), next(folders)


def runtime(folder: Path, how: str) -> dict[str, str]:
    """The environment in which onnxruntime ends a process so."""
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(CRASHES.format(how=how))
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])}


def fptk(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command where onnxruntime crashes; its result as JSON goes to standard output."""
    environment = {**os.environ, **runtime(folder / "fake", "os.kill(os.getpid(), 11)")}
    command = [sys.executable, "-m", "fptk", *map(str, arguments), "--json", "-"]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)


def test_a_crash_is_one_verdict_and_the_next_bundle_gets_its_own(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    done = fptk(tmp_path, "verify", *bundles)
    assert done.returncode == 3, done.stderr
    crashed, passed = json.loads(done.stdout)["bundles"]
    assert (crashed["verdict"], crashed["label"], passed["verdict"]) == ("cannot run", "onnx fp32", "pass")
    assert crashed["manifest_sha256"] == passed["manifest_sha256"]
    assert crashed["reason"].startswith("the engine crashed its runtime here with SIGSEGV; update the runtime")
    assert [each["outcome"] for each in crashed["checks"]] == ["failed"]
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "a-crashes" in last
    assert "SIGSEGV" in last
    assert "b-works" not in last


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="bench measures memory apart on Linux alone")
def test_a_benchmark_goes_on_without_an_engine_that_crashes(bundles: tuple[Path, Path], tmp_path: Path) -> None:
    done = fptk(tmp_path, "bench", *bundles, "--fps", "--rounds", 1)
    assert done.returncode == 0, done.stderr
    crashed, timed = json.loads(done.stdout)["rows"]
    assert (crashed["fps"], crashed["note"]) == (None, "the engine crashed its runtime here with SIGSEGV")
    assert timed["fps"] > 0
    assert timed["peak_bytes"] > 0
    (tmp_path / "alone").mkdir()
    alone = fptk(tmp_path / "alone", "bench", bundles[0], "--fps", "--rounds", 1)
    assert alone.returncode == 3
    assert (
        alone.stderr.strip().splitlines()[-1].startswith("fptk: no engine could be timed here; onnx fp32: the engine ")
    )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL (most likely out of memory)"),
        ("os.abort()", "SIGABRT"),
        ("os.kill(os.getpid(), 40)", "signal 40"),
    ],
)
def test_what_ended_the_process_is_named(
    how: str, said: str, bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in runtime(tmp_path / "fake", how).items():
        monkeypatch.setenv(name, value)
    found = verify_apart(bundles[0], VerifyPlan())
    assert (found.verdict, found.exit_code) == ("cannot run", 3)
    assert f" with {said}; " in found.reason


def test_a_process_that_ends_without_a_verdict_is_a_fault_of_ours(
    bundles: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in runtime(tmp_path / "fake", "os._exit(1)").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="a-crashes ended with exit code 1 and no verdict"):
        verify_apart(bundles[0], VerifyPlan())


def test_the_process_gets_the_whole_plan(bundles: tuple[Path, Path], faces_folder: Path) -> None:
    plan = VerifyPlan(faces_folder, images=2, threads=1).checked()
    (found,) = verify_bundles(bundles[1:], plan).bundles
    checks: dict[str, Any] = {each.name: each for each in found.checks}
    assert found.latency is not None
    assert found.latency.threads == 1
    assert checks["gate"].text.startswith("onnx fp32 labels ")  # an untrained network is refused


def test_the_folder_of_a_bundle_lends_no_code(bundles: tuple[Path, Path]) -> None:
    """A downloaded folder may hold a file that is called like a package."""
    (bundles[1] / "numpy.py").write_text("raise SystemExit('run')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "fptk", "verify", "."], capture_output=True, text=True, cwd=bundles[1]
    )
    assert done.returncode == 0, done.stderr
