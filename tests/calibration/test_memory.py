"""Memory of a calibration, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .networks import attention_network

PROGRAM = """
import json, resource, sys, pathlib
import numpy as np

source, count, estimator = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def images():
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)

if estimator == "openvino":
    import openvino
    from fptk.calibration.openvino_quantizer import quantize_openvino
    quantize_openvino(openvino.convert_model(source), images)
else:
    from fptk.calibration.onnx_quantizer import OnnxQuantSettings, quantize_onnx
    quantize_onnx(source, source.with_name("int8.onnx"), images, OnnxQuantSettings(range_estimator=estimator))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps(peak / 1024 if sys.platform != "darwin" else peak / 2**20))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read by the resource module, which Windows lacks")
@pytest.mark.parametrize("estimator", ["minmax", "percentile", "openvino"])
def test_peak_memory_does_not_grow_with_the_number_of_images(estimator: str, tmp_path: Path) -> None:
    if estimator == "openvino":
        pytest.importorskip("nncf", reason="nncf is not installed")
    source = attention_network(tmp_path)

    def peak_mib(count: int) -> float:
        command = [sys.executable, "-c", PROGRAM, str(source), str(count), estimator]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(json.loads(done.stdout))

    few, many = peak_mib(50), peak_mib(400)
    assert many < few + 8, f"{few:.0f} MiB at 50 images, {many:.0f} MiB at 400"
    assert many < 1500
