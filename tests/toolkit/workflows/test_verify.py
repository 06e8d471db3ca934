"""``fptk verify`` on engines that compute wrongly, on other processors, in a base install, and side by side."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import fptk as package
from fptk.core.classes import CLASSES
from fptk.core.cpu import INSTRUCTION_SETS, ISA_VARIABLE, cpu_family, family_under, host_instruction_sets
from fptk.core.dataset import UInt8Array
from fptk.export.bundle import read_bundle, record_files, write_manifest
from fptk.export.targets.onnxruntime import OnnxRuntimeSession
from fptk.workflows.verify import read_reports, verify_bundle

pytestmark = pytest.mark.usefixtures("quick_timing")
Command = Callable[..., Any]

BASE_INSTALL = ("torch", "onnx", "onnx_ir", "onnxscript", "openvino", "nncf", "safetensors", "matplotlib", "accelerate")
"""Packages that a base install lacks."""


def copy(proven: Path, precision: str, folder: Path) -> Path:
    return Path(shutil.copytree(proven / f"onnx-{precision}", folder))


def sealed(folder: Path) -> Path:
    """The bundle with the hashes of its files as they are now."""
    write_manifest(read_bundle(folder).model_copy(update={"files": record_files(folder)}), folder)
    return folder


def change_constant(folder: Path, suffix: str, change: Callable[[Any], Any]) -> Path:
    """Replace the one constant of the graph whose name ends so; hashes are corrected."""
    model = onnx.load(folder / "model.onnx")
    (constant,) = (each for each in model.graph.initializer if each.name.endswith(suffix))
    changed = change(numpy_helper.to_array(constant).copy())
    constant.CopyFrom(numpy_helper.from_array(changed, constant.name))
    onnx.save(model, folder / "model.onnx")
    return sealed(folder)


def classifier_scale(folder: Path) -> str:
    """Name of the scales of the int8 weights that have one column for each class."""
    model = onnx.load(folder / "model.onnx")
    weights = {
        each.name
        for each in model.graph.initializer
        if [*each.dims][1:] == [len(CLASSES)] and each.data_type == onnx.TensorProto.INT8
    }
    (name,) = (
        str(node.input[1])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in weights
    )
    return name


def largest_classes(folder: Path) -> list[str]:
    """The judged classes of a bundle, the largest first."""
    golden = read_bundle(folder).golden
    assert golden is not None
    assert golden.agreement is not None
    assert golden.limits is not None
    pixels = golden.agreement.class_pixels
    return sorted(golden.limits.classes, key=lambda name: -pixels[name])


@pytest.mark.parametrize("nth", [0, 3, 8])
def test_a_weight_scale_times_eight_is_refused_and_its_class_named(nth: int, proven: Path, tmp_path: Path) -> None:
    folder = copy(proven, "int8", tmp_path / "b")
    name = largest_classes(folder)[nth]

    def times_eight(scale: Any) -> Any:
        scale[CLASSES.index(name)] *= 8
        return scale

    found = verify_bundle(change_constant(folder, classifier_scale(folder), times_eight))
    assert (found.verdict, found.exit_code) == ("refused", 4)
    assert f"{name} " in found.reason.partition("IoU with FP32 by class: ")[2].partition(";")[0]


def test_two_classes_exchanged_are_refused_and_both_named(proven: Path, tmp_path: Path, fptk: Command) -> None:
    folder = copy(proven, "fp32", tmp_path / "b")
    first, second = largest_classes(folder)[-2:]

    def exchange(weight: Any) -> Any:
        pair = [CLASSES.index(first), CLASSES.index(second)]
        weight[pair] = weight[pair[::-1]]
        return weight

    finished = fptk("verify", change_constant(folder, "classifier.weight", exchange))
    assert finished.code == 4
    last = finished.err.strip().splitlines()[-1]
    named = [part.split() for part in last.partition("IoU with FP32 by class: ")[2].partition(";")[0].split(", ")]
    assert {name for name, *_ in named[:2]} == {first, second}
    assert all(float(iou) < 50 for _, iou, *_ in named[:2])


def test_the_engine_of_another_network_is_refused_and_its_worst_class_named(proven: Path, tmp_path: Path) -> None:
    """The same architecture with other weights; the hashes are right."""
    import torch

    from fptk.export.onnx import export_onnx, serving_module
    from fptk.models import create_model

    folder = copy(proven, "fp32", tmp_path / "b")
    spec = read_bundle(folder).preprocess
    torch.manual_seed(1)
    module = serving_module(create_model("microsegformer"), spec, "deploy", "onnxruntime")
    export_onnx(module, folder / "model.onnx", spec)
    sealed(folder)
    found = verify_bundle(folder)
    assert found.verdict == "refused"
    assert found.lowest_class is not None
    name, iou = found.lowest_class
    assert f"{name} {100 * iou:.2f} %" in found.reason
    assert [each.name for each in found.checks if each.outcome == "failed"] == ["golden", "golden", "photograph"]


class Faulty(OnnxRuntimeSession):
    """Gives noise for one class, as a wrong kernel does on some processor."""

    def _infer(self, images: UInt8Array) -> UInt8Array:
        labels = super()._infer(images)
        noise = np.random.default_rng(0).integers(0, len(CLASSES), labels.shape, np.uint8)
        found: UInt8Array = np.where(labels == np.bincount(labels.ravel()).argmax(), noise, labels)
        return found


def test_a_kernel_fault_is_refused_where_it_shows(
    proven: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copy(proven, "int8", tmp_path / "b")
    assert verify_bundle(folder).passed
    monkeypatch.setattr("fptk.export.targets.onnxruntime.OnnxRuntimeSession", Faulty)
    found = verify_bundle(folder)
    assert found.verdict == "refused"
    assert "IoU with FP32 by class" in found.reason


def test_a_base_install_is_enough_for_an_onnx_bundle(proven: Path, tmp_path: Path) -> None:
    """In a process that cannot import torch, nor anything else of the extras."""
    folder = copy(proven, "int8", tmp_path / "b")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({BASE_INSTALL!r}))\n"
        f"sys.argv = ['fptk', 'verify', {str(folder)!r}]\n"
        "from fptk.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pass" in done.stdout


def test_the_value_says_what_the_table_shows(proven: Path) -> None:
    found = package.verify(proven / "onnx-fp32")
    assert found.passed
    again = package.verify(read_bundle(proven / "onnx-fp32").at(proven / "onnx-fp32"))
    assert again.model_copy(update={"latency": found.latency, "checks": found.checks}) == found
    assert [each.name for each in found.checks] == [
        "manifest", "files", "runtime", "processor", "engine", "golden", "photograph", "latency"
    ]  # fmt: skip
    assert found.agreement is not None
    assert found.agreement.pixels > 0.999
    assert found.least_agreement == pytest.approx(found.agreement.pixels - 0.005, abs=1e-3)
    assert found.latency is not None
    assert found.latency_at_export is not None
    assert package.verify(proven / "nothing").verdict == "damaged"


def test_with_images_the_whole_gate_runs(proven: Path, faces_folder: Path, fptk: Command) -> None:
    """The bundle was built without a gate and its network lies nowhere near: on record that, not a verdict."""
    finished = fptk("verify", proven / "onnx-fp32", "--data", faces_folder, "--json", "-")
    assert finished.code in (0, 4), finished.err
    (bundle,) = json.loads(finished.out)["bundles"]
    gate = [each for each in bundle["checks"] if each["name"] == "gate"]
    assert len(gate) == 1
    assert fptk("verify", proven / "onnx-fp32", "--eval-images", 1).code == 2


def test_an_older_bundle_is_judged_on_images_or_not_at_all(proven: Path, tmp_path: Path, fptk: Command) -> None:
    folder = copy(proven, "fp32", tmp_path / "b")
    values = json.loads((folder / "fptk.json").read_text())
    values |= {"schema_version": 2, "golden": None, "latency": None}
    (folder / "fptk.json").write_text(json.dumps(values))
    assert read_bundle(folder).schema_version == 2
    finished = fptk("verify", folder)
    assert finished.code == 2
    assert "holds no golden samples (schema version 2)" in finished.err.splitlines()[-1]


def test_other_versions_are_worth_a_note(proven: Path, tmp_path: Path) -> None:
    folder = copy(proven, "fp32", tmp_path / "b")
    bundle = read_bundle(folder)
    write_manifest(bundle.model_copy(update={"tools": {**bundle.tools, "onnxruntime": "1.0.0"}}), folder)
    found = verify_bundle(folder)
    assert found.passed
    (note,) = (each.text for each in found.checks if each.name == "runtime")
    assert note.endswith("exported with 1.0.0")


def test_a_result_is_never_written_into_a_bundle(proven: Path, tmp_path: Path, fptk: Command) -> None:
    folder = copy(proven, "fp32", tmp_path / "b")
    finished = fptk("verify", folder, "--json", folder / "golden" / "result.json")
    assert finished.code == 2
    assert "lies inside bundle" in finished.err.splitlines()[-1]
    assert not (folder / "golden" / "result.json").exists()


def test_machines_side_by_side(proven: Path, tmp_path: Path, fptk: Command) -> None:
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    assert fptk("verify", proven, "--json", a).code == 0
    other = json.loads(a.read_text())
    other["host"]["cpu"] = "Another CPU"
    other["bundles"][1] |= {"verdict": "refused"}
    b.write_text(json.dumps(other))
    finished = fptk("verify", "--compare", a, b)
    assert finished.code == 0, finished.err
    rows = [line.split() for line in finished.out.splitlines() if "pass" in line or "refused" in line]
    assert len(rows) == 4
    assert [row[:2] for row in rows[::2]] == [["onnx", "fp32"], ["onnx", "int8"]]
    assert [row[-1] for row in rows] == ["pass", "pass", "pass", "refused"]
    assert finished.out.count("Another CPU") == 2
    assert read_reports([b])[0].exit_code == 4
    a.write_text('{"bundles": 3}')
    damaged = fptk("verify", "--compare", a, b)
    assert damaged.code == 2
    assert "is no result of `fptk verify --json`" in damaged.err.splitlines()[-1]
    assert fptk("verify", "--compare", b, "--threads", 1).code == 2


def test_the_family_follows_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ISA_VARIABLE, raising=False)
    assert family_under(ISA_VARIABLE) == family_under(None) == cpu_family()
    for each in host_instruction_sets():
        monkeypatch.setenv(ISA_VARIABLE, each.name.lower())
        assert family_under(ISA_VARIABLE) == each.family
        assert family_under(None) == cpu_family()
    monkeypatch.setenv(ISA_VARIABLE, "no such set")
    assert family_under(ISA_VARIABLE) == cpu_family()


@pytest.mark.slow
def test_an_openvino_bundle_passes_under_every_instruction_set(checkpoint: Path, tmp_path: Path) -> None:
    """Those that the bundle promises and this host offers, each in a process of its own."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    (bundle,) = package.build(
        checkpoint, targets=["openvino"], precisions=["int8"], gate=None, out=tmp_path, calib_size=4
    )
    offered = host_instruction_sets()
    assert {each.name for each in offered} <= {each.name for each in INSTRUCTION_SETS}
    for each in offered:
        command = [sys.executable, "-m", "fptk", "verify", str(bundle.folder)]
        environment = {**os.environ, ISA_VARIABLE: each.name}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
        assert done.returncode == 0, f"{each.name}: {done.stderr}"
