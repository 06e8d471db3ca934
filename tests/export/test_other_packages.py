"""A target of another package: a class and an entry point, and every command knows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TINY = '''
import shutil

from fptk.core.precision import Precision
from fptk.export.record import BuildRecord
from fptk.export.targets.base import BuildResult, Probe, Target, TargetOptions
from fptk.export.targets.onnxruntime import OnnxRuntimeSession


class TinyOptions(TargetOptions):
    effort: int = 1
    """How hard the builder thinks."""


class TinyTarget(Target):
    """Runs the ONNX file as it is."""

    name = "tiny"
    precisions = (Precision.FP32,)
    options = TinyOptions

    def probe(self):
        return Probe(True, True, versions={"tiny": "1.0"})

    def build(self, request):
        engine = request.folder / "engine.tiny"
        shutil.copyfile(request.onnx_path, engine)
        effort = request.options_as(TinyOptions).effort
        return BuildResult((engine,), BuildRecord(details={"effort": effort}))

    def load(self, path, spec, *, threads=None, precision_hint=None):
        return OnnxRuntimeSession(path, spec, threads=threads)
'''


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    """``fptk ARGUMENTS`` in a process that has the package of the target."""
    home = tmp_path / "packages"
    facts = home / "tiny_engine-1.0.dist-info"
    facts.mkdir(parents=True)
    (home / "tiny_engine.py").write_text(TINY)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-engine\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[fptk.targets]\ntiny = tiny_engine:TinyTarget\n")
    paths = os.pathsep.join([str(home), *filter(None, [os.environ.get("PYTHONPATH")])])

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fptk", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": paths}
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)

    return run


@pytest.mark.slow
def test_it_is_exported_measured_and_explained(tiny: Any, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    options = ("--target", "tiny", "--fp32", "--data", faces_folder, "-o", "effort=3", "--out", "out")
    exported = tiny("export", checkpoint, *options)
    assert exported.returncode == 0, exported.stderr
    bundle = tmp_path / "out" / "bundles" / "tiny-fp32"
    manifest = json.loads((bundle / "fptk.json").read_text())
    assert manifest["build"]["options"] == {"effort": 3}
    assert manifest["build"]["details"] == {"effort": 3}
    assert manifest["gate"]["passed"]
    assert manifest["tools"]["tiny"] == "1.0"
    measured = tiny("bench", bundle, "--fps", "--rounds", 1, "--json", "bench.json")
    assert measured.returncode == 0, measured.stderr
    (row,) = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert row["fps"] > 0
    assert "How hard the builder thinks." in tiny("doctor", "--options").stdout
    wrong = tiny("export", checkpoint, "--target", "tiny", "--fp32", "-o", "effort=much", "--out", "out")
    assert wrong.returncode == 2
    assert "effort=much" in wrong.stderr.strip().splitlines()[-1]
