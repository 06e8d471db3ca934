"""A run with everything that a report can show, its names chosen to do harm, and the page about it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fptk.benchmarks.photo import PhotoSplit
from fptk.benchmarks.processors import ProcessorMatrix, ProcessorRow
from fptk.benchmarks.quick import LatencyFigures
from fptk.benchmarks.report import BenchReport, Row
from fptk.calibration.gate import GatePolicy, evaluate_gate
from fptk.calibration.report import FloatLayer, QuantReport
from fptk.calibration.sensitivity import GroupSensitivity, Sensitivity
from fptk.core.files import write_json, write_text
from fptk.core.precision import Precision
from fptk.export.bundle import MANIFEST, Bundle, read_bundle, write_manifest
from fptk.export.record import FallbackAttempt, FallbackRecord
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.workflows.verify import Check, Verification, VerifyReport

SCRIPT = "<script>alert('x')</script>"
IMAGE = '"><img src="https://example.org/x.png" onerror="alert(1)">'
STYLE = "</style><style>@import url(https://example.org/x.css)"
MATH = "$\\frac{1}{0}$ \uffff & \u202eevil \x1b[31m"
"""Names that would do something if a page let them."""


def linked(source: Path, target: Path) -> Bundle:
    """A copy of a bundle that shares its files, but for a manifest of its own."""
    shutil.copytree(source, target, copy_function=os.link)
    (target / MANIFEST).unlink()
    return read_bundle(source)


def quantized(bundle: Bundle) -> Bundle:
    """The bundle as if it were INT8, passed at the second attempt, with all that is on record of such."""
    assert bundle.evaluation is not None
    policy = GatePolicy(min_class_pixels=0)
    verdict = evaluate_gate(bundle.evaluation.reference, bundle.evaluation.engine, policy)
    refused = verdict.refused_because(SCRIPT)
    attempts = (
        FallbackAttempt(candidate="default", settings={}, passed=False, skipped="", seconds=2, verdict=refused),
        FallbackAttempt(candidate=IMAGE, settings={}, passed=True, skipped="", seconds=3, verdict=verdict),
    )
    rows = (
        ProcessorRow(
            instruction_set="AVX2",
            family="avx2",
            promised=True,
            status="measured",
            agreement=0.99,
            mean_miou=0.5,
            milliseconds=3.25,
        ),
        ProcessorRow(instruction_set="AMX", family="amx", promised=True, status="not tested", reason=STYLE),
    )
    build = bundle.build.model_copy(
        update={
            "fallback": FallbackRecord(passed=IMAGE, attempts=attempts),
            "sensitivity": Sensitivity(
                rows=(GroupSensitivity(group=MATH, nodes=("n",), snr_db=12.5),),
                unmeasured=(),
                images=2,
                settings={},
                seconds=1,
            ),
            "quantizer": QuantReport(
                engine="onnx",
                settings={},
                quantised=("a", "b"),
                kept_float=(FloatLayer(name=SCRIPT, op_type="Conv", reason=IMAGE),),
                images=2,
                calibration_sha256=None,
                source_sha256="0" * 64,
                seconds=1,
                versions={},
            ),
        }
    )
    matrix = ProcessorMatrix(processor=SCRIPT, images=2, threads=None, reference_mean_miou=0.5, rows=rows)
    changes = {"precision": Precision.INT8, "gate": verdict, "build": build, "processors": matrix}
    return bundle.model_copy(update=changes)


@pytest.fixture(scope="session")
def full_run(cpu_bundles: Path, checkpoint: Path, row: Row, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: curves, an INT8 engine that passed beside its FP32 engine, a refused one, measurements."""
    folder = tmp_path_factory.mktemp("report") / "run"
    run = RunFolder(folder)
    small = {"data.synthetic": {"train": 4, "val": 5, "size": 64}, "data.size": 64}
    facts = {"train_set": SCRIPT, "train_images": 4, "val_set": MATH, "val_images": 5, "parameters": 1}
    run.start(Recipe.load("demo", small), [], facts)
    shutil.copy(checkpoint, run.best)
    shutil.copy(checkpoint, run.last)
    scores = {"f1": 0.5, "f1_challenge": 0.5, "miou": 0.4, "f1_nobg": 0.5, "pixel_accuracy": 0.9}
    record = {"images": 8, "size": 64, "lr": 1e-3, "loss": 2.0, "images_per_s": 9.0, "seconds": 1.0, **scores}
    for epoch in (1, 2, 3):
        run.append({**record, "step": epoch, "epoch": float(epoch), "loss": 2.0 / epoch})
    result = {"finished": True, "step": 3, "parameters": 1, "best_f1": 0.5, "best_step": 3, "seconds": 9.0}
    run.finish({**result, "scores": scores})

    float_bundle = linked(cpu_bundles / "onnx-fp32", run.bundles / "onnx-fp32")
    write_manifest(float_bundle.model_copy(update={"command": IMAGE}), run.bundles / "onnx-fp32")
    int8 = quantized(linked(cpu_bundles / "onnx-fp32", run.bundles / "onnx-int8"))
    write_manifest(int8, run.bundles / "onnx-int8")
    other = linked(cpu_bundles / "openvino-fp32", run.rejected / "openvino-fp32")
    assert int8.judged is not None
    changes = {"gate": int8.judged.refused_because(STYLE), "host": {**other.host, "cpu": SCRIPT}, "tools": {IMAGE: "1"}}
    write_manifest(other.model_copy(update=changes), run.rejected / "openvino-fp32")

    known = {"checkpoint_sha256": float_bundle.checkpoint_sha256, "photo": PhotoSplit(1, 2, 3, 6), "target": "onnx"}
    timed = [replace(row, **known, precision=name, calls_ms=(4.0, 5.0, 9.0), note=MATH) for name in ("fp32", "int8")]
    conditions = {"mode": "latency", "threads": 2, "batch": 1, "photo": [1024, 1024]}
    bench = BenchReport(host={"cpu": IMAGE, "isa": ["avx2"]}, conditions=conditions, reference=None, rows=timed)
    write_json(run.bench, bench.as_dict())
    return folder


@pytest.fixture(scope="session")
def verified(full_run: Path) -> Path:
    """What another machine said of the run's bundles."""
    latency = LatencyFigures(p50_ms=7.5, p90_ms=8, calls=5, threads=None, cores=4)
    found = Verification(
        folder="x",
        label="onnx int8",
        verdict="refused",
        reason=IMAGE,
        checks=(Check(name="golden", outcome="failed", text=SCRIPT),),
        latency=latency,
        lowest_class=("hair", 0.25),
        photograph=0.5,
    )
    report = VerifyReport(host={"cpu": SCRIPT, "cores": 4}, tools={"onnxruntime": "9"}, bundles=(found,))
    path = full_run.parent / "elsewhere.json"
    write_text(path, report.model_dump_json())
    return path


@pytest.fixture(scope="session")
def report_path(full_run: Path, verified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page about the run."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    pytest.importorskip("jinja2", reason="jinja2 is not installed")
    from fptk.report.page import write_report
    from fptk.report.sources import ReportRequest

    out = tmp_path_factory.mktemp("page") / "report.html"
    return write_report(ReportRequest((full_run,), verified=(verified,)), out)
