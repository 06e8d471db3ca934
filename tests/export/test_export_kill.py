"""``fptk export`` killed at random moments: what stood before stands, or what was being made stands whole."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from fptk.export.bundle import find_bundles, open_bundle

pytestmark = pytest.mark.slow
KILLS = 8


@pytest.fixture
def start(checkpoint: Path, faces_folder: Path, tmp_path: Path) -> Callable[[], subprocess.Popen[bytes]]:
    """Start an export of two engines into the same folder, in a process of its own."""
    command = [sys.executable, "-m", "fptk", "export", "--target", "onnx", "--fp32", "--int8", "--no-gate"]
    command += [str(checkpoint), "--data", str(faces_folder), "--calib-size", "4", "--out", str(tmp_path)]
    return lambda: subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_kill_leaves_the_old_bundles_or_the_new_ones(
    start: Callable[[], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    began = time.monotonic()
    assert start().wait(timeout=300) == 0
    whole = time.monotonic() - began
    dice, killed = random.Random(0), 0
    known = read_all(tmp_path)
    for _ in range(KILLS):
        process = start()
        time.sleep(dice.uniform(0.3, 1.05) * whole)  # before that it only imports
        process.send_signal(signal.SIGKILL)
        killed += process.wait(timeout=60) == -signal.SIGKILL
        found = read_all(tmp_path)
        assert found.keys() == known.keys() == {"onnx-fp32", "onnx-int8"}
        assert all(found[name] >= known[name] for name in known)
        known = found
    assert killed > 0, "no export lived long enough to be killed"
    assert start().wait(timeout=300) == 0
    assert all(made > known[name] for name, made in read_all(tmp_path).items())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [], "the last export swept up"


def read_all(folder: Path) -> dict[str, datetime]:
    """When each listed bundle was made; every file's hash is checked and every engine loaded."""
    made: dict[str, datetime] = {}
    for path in find_bundles(folder / "bundles"):
        bundle, session = open_bundle(path, threads=1)
        session.close()
        made[path.name] = bundle.created
    return made
