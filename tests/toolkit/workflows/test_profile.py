"""A profile of one bundle: its nodes, or why there are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fptk.core.errors import InputError, TargetUnavailableError
from fptk.export.bundle import read_bundle, write_manifest
from fptk.export.targets.base import Probe
from fptk.export.targets.onnxruntime import OnnxRuntimeTarget
from fptk.workflows.profile import profile_bundles

BUNDLE = Path(__file__).parents[2] / "fixtures" / "bundles" / "version-1"


def test_every_node_of_the_engine_has_a_time() -> None:
    (profile,) = profile_bundles([BUNDLE], threads=1).engines
    assert profile.label == read_bundle(BUNDLE).label
    assert any(node.ran for node in profile.nodes)
    assert all(node.milliseconds >= 0 for node in profile.nodes)


def test_a_bundle_without_an_engine_says_why(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    unbuilt = {"engine": None, "files": {}, "unavailable": "no GPU in the exporting host"}
    write_manifest(read_bundle(folder).model_copy(update=unbuilt), folder)
    with pytest.raises(InputError, match="no GPU in the exporting host"):
        profile_bundles([folder])


def test_an_engine_that_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeTarget, "probe", lambda _: Probe(False, False, "no ONNX Runtime", "install it"))
    with pytest.raises(TargetUnavailableError, match="no ONNX Runtime; install it"):
        profile_bundles([BUNDLE])
