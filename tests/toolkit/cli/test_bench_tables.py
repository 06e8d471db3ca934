"""The tables of ``fptk bench``: the caption says what they stand on."""

from __future__ import annotations

from dataclasses import replace

from fptk.benchmarks.report import BenchReport, Row
from fptk.cli.bench_tables import render, render_roofline

CONDITIONS = {"threads": 1, "batch": 1, "interleaved_rounds": 1}


def report(*rows: Row) -> BenchReport:
    return BenchReport(host={"cpu": "x", "isa": []}, conditions=CONDITIONS, reference=None, rows=list(rows))


def test_rows_that_differ_in_their_unjudged_classes_say_which(row: Row) -> None:
    judged = replace(row, judged_classes=("skin", "hair"), unjudged_classes=("hat",))
    other = replace(judged, target="onnx", judged_classes=("skin",), unjudged_classes=("hair", "hat"))
    one = str(render(report(judged, judged)).caption)
    assert "too little of: hat\n" in f"{one}\n"
    two = str(render(report(judged, other)).caption)
    assert "too little of: hat (openvino fp32); hair, hat (onnx fp32)" in two


def test_engines_of_several_checkpoints_are_named(row: Row) -> None:
    other = replace(row, network="fastscnn", checkpoint_sha256="1" * 64, fps=60.0)
    networks = list(render(report(row, other)).columns[0].cells)
    assert networks == ["microsegformer 000000", "fastscnn 111111"]


def test_the_network_as_written_is_told_from_its_deploy_form(row: Row) -> None:
    targets = list(render(report(row, replace(row, graph="original"))).columns[0].cells)
    assert targets == ["openvino", "openvino original"]


def test_a_precision_without_a_measured_limit_says_so(row: Row) -> None:
    limits = {
        "gmacs_per_s": {"fp32": 50.0, "bf16": None, "int8": 200.0},
        "memory_gb_per_s": 10.0,
        "notes": {"bf16": "this processor has no bf16 arithmetic"},
    }
    rows = [
        replace(row, macs=1_000_000_000, roofline_ms=20.0, roofline_fraction=0.4),
        replace(row, precision="bf16", macs=1_000_000_000),
    ]
    table = render_roofline(BenchReport({"cpu": "x", "isa": []}, {**CONDITIONS, "limits": limits}, None, rows))
    assert "fp32 50.0, bf16 not measured, int8 200.0; memory 10.0 GB/s" in str(table.title)
    assert "bf16: this processor has no bf16 arithmetic" in str(table.caption)
    assert [list(column.cells) for column in table.columns[3:]] == [
        ["20.0", "not measured"],
        ["50.0", "50.0"],
        ["40%", "-"],
    ]
