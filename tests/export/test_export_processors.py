"""What an export promises about processors: precisions per target, bf16, ``--cpu``, the matrix, old bundles."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.benchmarks import processors
from fptk.calibration import openvino_cpu
from fptk.core.cpu import has_bf16, host_instruction_sets
from fptk.export.bundle import open_bundle, read_bundle
from fptk.export.targets import openvino
from fptk.export.targets.openvino import OpenVinoOptions, OpenVinoTarget

Command = Callable[..., Any]

VERSION_1 = Path(__file__).parents[1] / "fixtures" / "bundles" / "version-1"
"""Written by the code before schema 2; its engine was replaced by one that calls red pixels skin."""

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16 arithmetic")


@pytest.fixture
def export(fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> Command:
    """``fptk export`` of the untrained network, with a gate that lets everything pass."""

    def call(*arguments: object) -> Any:
        limits = ("--max-miou-drop", 100, "--max-class-drop", 100)
        options = (checkpoint, "--data", faces_folder, "--calib-size", 4, *limits, "--out", tmp_path)
        return fptk("export", *options, *arguments)

    return call


def built(folder: Path) -> set[str]:
    return {path.name for path in (folder / "bundles").iterdir()}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """The engines that an export goes on to build; none is built."""
    from fptk.export import exporter

    engines: list[tuple[str, str]] = []

    def note(self: Any, target: Any, precision: Any) -> Any:
        engines.append((target.name, str(precision)))

    monkeypatch.setattr(exporter._Exporter, "export", note)
    monkeypatch.setattr("fptk.cli.export.finish", lambda bundles: None)
    return engines


def test_a_precision_is_built_by_the_targets_that_have_it(export: Command, asked: list[tuple[str, str]]) -> None:
    finished = export("--target", "onnx", "--target", "openvino", "--fp32", "--fp16")
    assert finished.code == 0, finished.err
    assert asked == [("onnx", "fp32"), ("openvino", "fp32"), ("openvino", "fp16")]
    assert "onnx has no fp16: it builds fp32, int8" in finished.err


def test_a_precision_that_no_chosen_target_has_is_refused_before_anything_is_built(
    export: Command, tmp_path: Path
) -> None:
    finished = export("--target", "onnx", "--fp32", "--bf16")
    assert finished.code == 2
    assert "no chosen target builds bf16: onnx builds fp32, int8" in finished.err.strip().splitlines()[-1]
    assert not (tmp_path / "bundles").exists()


@pytest.mark.slow
@needs_bf16
def test_bf16_is_built_unasked_where_the_processor_has_it_and_loads_as_it_was_built(
    export: Command, tmp_path: Path, faces_folder: Path, fptk: Command
) -> None:
    assert export("--target", "openvino", "--bf16", "--fp32").code == 0
    folder = tmp_path / "bundles" / "openvino-bf16"
    manifest = read_bundle(folder)
    assert (manifest.schema_version, manifest.precision, manifest.precision_hint) == (3, "bf16", "bf16")
    assert manifest.processors is not None
    rows = {row.instruction_set: row.status for row in manifest.processors.rows}
    assert rows["AVX2"] == "not offered"
    assert rows[host_instruction_sets()[-1].name] == "measured"
    _, session = open_bundle(folder, threads=1)
    types = {node.kernel for node in nodes_of(folder)}
    assert any("bf16" in kernel.lower() for kernel in types), types
    session.close()
    assert fptk("eval", folder, "--data", faces_folder).code == 0


def nodes_of(folder: Path) -> list[Any]:
    """The nodes of a bundle's engine as a profile sees them."""
    from fptk.workflows.profile import profile_bundles

    nodes: list[Any] = profile_bundles([folder], 1).engines[0].nodes
    return nodes


@needs_bf16
def test_no_precision_option_adds_bf16_and_a_target_without_it_is_not_mentioned(
    export: Command, asked: list[tuple[str, str]]
) -> None:
    finished = export("--target", "onnx", "--target", "openvino")
    assert finished.code == 0, finished.err
    assert asked == [("onnx", "fp32"), ("onnx", "int8"), *(("openvino", each) for each in ("fp32", "bf16", "int8"))]
    assert "bf16" not in finished.err


def fptk_under(isa: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """``fptk`` in a process whose instruction sets are limited."""
    command = [sys.executable, "-m", "fptk", *map(str, arguments)]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": isa}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_bf16_on_a_processor_without_it_ends_with_3_and_the_reason(
    checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    """OpenVINO would compute in float32 without a word."""
    options = (checkpoint, "--data", faces_folder, "--out", tmp_path)
    done = fptk_under("AVX2", "export", "--target", "openvino", "--bf16", *options)
    assert done.returncode == 3, done.stderr
    assert "no bf16 arithmetic" in done.stderr.strip().splitlines()[-1]
    assert read_bundle(tmp_path / "bundles" / "openvino-bf16").verdict == "unavailable"


@pytest.mark.slow
@needs_bf16
def test_a_bf16_bundle_does_not_run_where_there_is_no_bf16(export: Command, tmp_path: Path, faces_folder: Path) -> None:
    assert export("--target", "openvino", "--bf16", "--no-processor-matrix").code == 0
    done = fptk_under("AVX2", "eval", tmp_path / "bundles" / "openvino-bf16", "--data", faces_folder)
    assert done.returncode == 3, done.stderr
    assert "no bf16 arithmetic" in done.stderr


def weight_levels(folder: Path) -> int:
    """Largest int8 weight of a Q/DQ file."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(folder / "model.onnx"))
    weights = [numpy_helper.to_array(each) for each in model.graph.initializer]
    return max(int(np.abs(each.astype(np.int16)).max()) for each in weights if each.dtype == np.int8 and each.ndim > 1)


@pytest.mark.slow
def test_the_promise_decides_the_weight_range_and_not_the_exporting_host(export: Command, tmp_path: Path) -> None:
    quick = ("--target", "onnx", "--int8", "--no-processor-matrix")
    folder = tmp_path / "bundles" / "onnx-int8"
    for cpu, levels in ((None, 64), ("avx2", 64), ("vnni", 127), ("amx", 127)):
        finished = export(*quick, *(("-o", f"cpu={cpu}") if cpu else ()))
        assert finished.code == 0, finished.err
        assert read_bundle(folder).cpu == (cpu or "any")
        assert weight_levels(folder) == levels


def test_int8_rest_names_a_type_that_the_target_has(export: Command) -> None:
    refused = export("--target", "openvino", "--int8", "-o", "int8_rest=fp16")
    assert refused.code == 2
    assert "'auto', 'fp32' or 'bf16'" in refused.err.strip().splitlines()[-1]


@pytest.mark.slow
@needs_bf16
def test_int8_has_its_float_rest_in_bf16_where_there_is_bf16_and_runs_elsewhere_in_float32(
    export: Command, tmp_path: Path, faces_folder: Path
) -> None:
    assert export("--target", "openvino", "--int8").code == 0
    folder = tmp_path / "bundles" / "openvino-int8"
    manifest = read_bundle(folder)
    assert manifest.precision_hint == "bf16-or-f32"
    assert any("bf16" in node.kernel.lower() for node in nodes_of(folder))
    assert manifest.processors is not None
    here = [
        row
        for row in manifest.processors.rows
        if row.instruction_set in {each.name for each in host_instruction_sets()}
    ]
    assert {row.status for row in here} == {"measured"}
    done = fptk_under("AVX2", "eval", folder, "--data", faces_folder)
    assert done.returncode == 0, done.stderr
    profile = fptk_under("AVX2", "profile", folder)
    assert profile.returncode == 0, profile.stderr


@pytest.mark.parametrize(("has", "hint"), [(True, "bf16"), (False, "f32")])
def test_a_hint_for_both_is_what_the_processor_has(has: bool, hint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_cpu, "has_bf16", lambda: has)
    assert openvino_cpu.resolved("bf16-or-f32") == hint
    assert [openvino_cpu.resolved(each) for each in ("f32", "bf16")] == ["f32", "bf16"]


@pytest.mark.parametrize("has", [True, False])
def test_the_gentlest_change_of_an_int8_engine_is_a_float32_rest(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes first, and what is tried after it keeps it."""
    monkeypatch.setattr(openvino, "has_bf16", lambda: has)
    target = OpenVinoTarget()
    tried = list(itertools.islice(target.candidates(lambda: pytest.fail("not yet"), OpenVinoOptions()), 3))
    assert [each.extra.get("int8_rest") for each in tried] == ([None, "fp32", "fp32"] if has else [None] * 3)
    assert tried[0].name == "default"
    assert (tried[1].name == "float32 rest") == has
    settled = target.candidates(lambda: pytest.fail("not yet"), OpenVinoOptions(int8_rest="bf16"))
    assert not any(each.extra for each in itertools.islice(settled, 3))


@pytest.mark.slow
def test_the_matrix_is_printed_and_kept(export: Command, tmp_path: Path) -> None:
    finished = export("--target", "openvino", "--target", "onnx", "--fp32")
    assert finished.code == 0, finished.err
    lines = finished.out.splitlines()
    manifest = read_bundle(tmp_path / "bundles" / "openvino-fp32")
    assert manifest.processors is not None
    assert manifest.processors.images == 4
    _, _, notes = finished.out.partition("not tested: ")
    for row in manifest.processors.rows:
        if row.agreement is None:
            assert row.instruction_set in notes
        else:
            assert any({row.instruction_set, f"{100 * row.agreement:.2f}"} <= set(line.split()) for line in lines)
    native = read_bundle(tmp_path / "bundles" / "onnx-fp32").processors
    assert native is not None
    assert [row.instruction_set for row in native.rows if row.status == "measured"] == ["native"]
    assert export("--target", "openvino", "--fp32", "--no-processor-matrix").code == 0
    assert read_bundle(tmp_path / "bundles" / "openvino-fp32").processors is None


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "code"), [("any", 4), ("vnni", 0)])
def test_an_engine_that_is_wrong_on_a_promised_instruction_set_is_refused(
    cpu: str, code: int, export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX Runtime engine stands in that would be wrong without VNNI; nothing gentler mends it."""
    real = processors.measure_processors

    def measured(request: Any, images: Any, limits: Any, listener: Any) -> Any:
        matrix = real(request, images, None, listener)
        rows = list(matrix.rows)
        avx2 = next(index for index, row in enumerate(rows) if row.family == "avx2")
        figures = {"status": "measured", "agreement": 0.3, "mean_miou": 0.01, "milliseconds": 1.0}
        rows[avx2] = rows[avx2].model_copy(update=figures)
        judged = processors.mark_failed(rows, matrix.reference_mean_miou, limits)
        return matrix.model_copy(update={"rows": tuple(judged)})

    monkeypatch.setattr("fptk.export.attempt.measure_processors", measured)
    finished = export("--target", "onnx", "--int8", "-o", f"cpu={cpu}", "--no-fallback")
    assert finished.code == code, finished.err
    if code:
        assert "wrong on a promised processor: AVX2 30.00 % of pixels" in finished.err.strip().splitlines()[-1]
        refused = read_bundle(tmp_path / "rejected" / "onnx-int8")
        assert refused.verdict == "refused"
        assert any({"AVX2", "30.00", "refused"} <= set(line.split()) for line in finished.out.splitlines())


@pytest.mark.slow
def test_a_graph_with_a_form_that_is_wrong_somewhere_is_refused_with_its_layer(
    export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fptk.export.findings import ERROR, Finding

    finding = Finding("patch-convolution", ERROR, "node_conv2d_1", "noise on AMX; keep it in float")
    monkeypatch.setattr("fptk.export.targets.openvino.lint_openvino", lambda *_: [finding])
    finished = export("--target", "openvino", "--fp32")
    assert finished.code == 4, finished.err
    assert "node_conv2d_1" in finished.err.strip().splitlines()[-1]
    refused = read_bundle(tmp_path / "rejected" / "openvino-fp32")
    assert (refused.verdict, refused.engine) == ("refused", None)


def test_a_bundle_of_version_1_still_loads(fptk: Command, tmp_path: Path) -> None:
    assert json.loads((VERSION_1 / "fptk.json").read_text())["schema_version"] == 1
    manifest, session = open_bundle(VERSION_1)
    assert (manifest.cpu, manifest.kernel_faults, manifest.processors, manifest.precision_hint) == (
        None,
        (),
        None,
        None,
    )
    assert manifest.judged is not None
    assert manifest.judged.passed
    image = np.zeros((1, 512, 512, 3), np.uint8)
    image[:, :100, :, 0] = 255
    with session:
        labels = session(image)
    assert labels[0, 0, 0] == 1
    assert labels.sum() == 100 * 512
    finished = fptk("bench", VERSION_1, "--fps", "--rounds", 1)
    assert finished.code == 0, finished.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("export", "--max-miou-drop", "nan"),
        ("export", "--max-class-drop", "inf"),
        ("export", "--max-miou-drop", "-1"),
        ("export", "--calib-size", "100000000000"),
        ("bench", "--batch", "100000000"),
        ("bench", "--rounds", "1000000000"),
        ("bench", "--threads", "1000000000000"),
        ("eval", "--eval-images", "99999999999999"),
        ("ablate", "lmsa", "--epochs", "nan"),
        ("ablate", "lmsa", "--jobs", "100000"),
        ("data", "synth", "--out", "faces", "--size", "1000000"),
    ],
    ids=" ".join,
)
def test_a_number_without_sense_is_refused_and_the_bound_is_named(arguments: tuple[str, ...], fptk: Command) -> None:
    finished = fptk(*arguments)
    assert finished.code == 2
    last = finished.err.strip().splitlines()[-1]
    assert "is not in the range" in last or "is not a finite number" in last, finished.err
