"""A bundle that proves itself: what the tests of ``fptk verify`` copy and break."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def proven(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``onnx-fp32`` and ``onnx-int8`` of the untrained network, each with golden samples."""
    import fptk

    out = tmp_path_factory.mktemp("proven")
    bundles = fptk.build(checkpoint, targets=["onnx"], gate=None, out=out, calib_size=4)
    return bundles[0].folder.parent


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time a few calls instead of a second of them, and verify bundles in this process, which is told that."""
    from fptk.workflows import verify, verify_apart

    def here(folder: Path, plan: verify.VerifyPlan, *, quiet: bool = True) -> verify.Verification:
        return verify.verify_bundle(folder, plan)

    monkeypatch.setattr(verify_apart, "verify_apart", here)
    monkeypatch.setattr("fptk.benchmarks.quick.SECONDS", 0.01)
