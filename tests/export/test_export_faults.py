"""A kernel that computes wrongly on this processor: the layer is named, kept in float, and the export goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.export.bundle import read_bundle

Command = Callable[..., Any]

Fault = Callable[[str], None]
"""Makes the layer of this name wrong."""

FAULT = -3.0
"""What a wrong kernel multiplies its result by."""


@pytest.fixture
def wrong_onnx_kernel(wrong_int8_layer: Callable[[Any, str], bytes], monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Let ONNX Runtime compute a layer wrongly wherever it runs it in int8."""
    from fptk.calibration import kernel_faults
    from fptk.calibration.onnx_cpu import open_cpu_session
    from fptk.export.targets import onnxruntime as target

    def inject(layer: str) -> None:
        def opened(model: Path | bytes, **options: Any) -> Any:
            return open_cpu_session(model if options.get("float_only") else wrong_int8_layer(model, layer), **options)

        monkeypatch.setattr(kernel_faults, "open_cpu_session", opened)
        monkeypatch.setattr(target, "open_cpu_session", opened)

    return inject


@pytest.fixture
def wrong_openvino_kernel(monkeypatch: pytest.MonkeyPatch) -> Fault:
    """Let OpenVINO compute a layer wrongly wherever it runs it in int8."""
    from openvino import opset13

    from fptk.calibration import kernel_faults
    from fptk.calibration.openvino_cpu import compile_model, openvino_core
    from fptk.calibration.openvino_forms import reads_fake_quantize
    from fptk.export.targets import openvino as target

    def inject(layer: str) -> None:
        def compiled(model: Any, **options: Any) -> Any:
            model = openvino_core().read_model(model) if isinstance(model, Path) else model
            for operation in model.get_ordered_ops() if not options.get("float_only") else ():
                if operation.get_friendly_name() == layer and reads_fake_quantize(operation):
                    readers = list(operation.output(0).get_target_inputs())
                    wrong = opset13.multiply(operation.output(0), opset13.constant(np.float32(FAULT)))
                    for reader in readers:
                        reader.replace_source_output(wrong.output(0))
            return compile_model(model, **options)

        monkeypatch.setattr(kernel_faults, "compile_model", compiled)
        monkeypatch.setattr(target, "compile_model", compiled)

    return inject


def export(fptk: Command, target: str, checkpoint: Path, faces: Path, out: Path) -> Any:
    limits = ("--max-miou-drop", 100, "--max-class-drop", 100, "--no-fallback")
    data = (checkpoint, "--data", faces, "--calib-size", 8, "--no-processor-matrix")
    return fptk("export", "--target", target, "--int8", *data, *limits, "--out", out)


def quantized_layer(folder: Path, containing: str) -> str:
    """Name of an int8 layer of an exported bundle."""
    quantizer = read_bundle(folder).build.quantizer
    assert quantizer is not None
    return next(name for name in quantizer.quantised if containing in name.lower())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_a_layer_that_this_processor_computes_wrongly_stays_float(
    target: str,
    fptk: Command,
    checkpoint: Path,
    faces_folder: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    sound = export(fptk, target, checkpoint, faces_folder, tmp_path / "sound")
    assert sound.code == 0, sound.err
    bundle = tmp_path / "sound" / "bundles" / f"{target}-int8"
    assert read_bundle(bundle).kernel_faults == ()
    layer = quantized_layer(bundle, "conv")

    request.getfixturevalue(f"wrong_{target}_kernel")(layer)
    mended = export(fptk, target, checkpoint, faces_folder, tmp_path / "mended")
    assert mended.code == 0, mended.err
    assert f"kernel fault: {layer}" in mended.err
    assert layer in mended.out
    manifest = read_bundle(tmp_path / "mended" / "bundles" / f"{target}-int8")
    (fault,) = manifest.kernel_faults
    assert fault.layer == layer
    assert fault.error > 0.5
    assert fault.processor
    assert manifest.build.quantizer is not None
    assert manifest.build.fallback is not None
    assert layer not in manifest.build.quantizer.quantised
    assert manifest.build.fallback.passed == "default"
