"""The recommendation follows the figures, and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fptk.benchmarks.report import BenchReport, Row, raise_if_refused, recommend
from fptk.core.errors import GateRefusedError

ROW = Row(
    network="microsegformer",
    checkpoint_sha256="0" * 64,
    target="openvino",
    precision="fp32",
    graph="deploy",
    miou=0.7,
    f1=0.8,
    delta_miou=0.0,
    fps=20.0,
    p50_ms=50.0,
    p90_ms=60.0,
    p99_ms=70.0,
    size_bytes=7_000_000,
    peak_bytes=None,
    macs=None,
    roofline_ms=None,
    roofline_fraction=None,
    verdict="pass",
    accuracy="measured",
)


def report(rows: list[Row], isa: list[str]) -> BenchReport:
    return BenchReport(host={"isa": isa}, conditions={}, reference=None, rows=rows)


def test_fastest_that_passed_is_recommended() -> None:
    """A refused engine is not, however fast."""
    rows = [ROW, replace(ROW, precision="int8", fps=40.0, verdict="refused"), replace(ROW, target="onnx", fps=25.0)]
    assert "onnx fp32 (25.0 FPS)" in (recommend(report(rows, ["avx2"])) or "")


@pytest.mark.parametrize(("isa", "words"), [(["avx2"], "no VNNI"), (["avx2", "avx512_vnni"], "with VNNI")])
def test_int8_is_compared_with_fp32_of_the_same_engine(isa: list[str], words: str) -> None:
    rows = [ROW, replace(ROW, precision="int8", fps=16.0), replace(ROW, target="onnx", precision="int8", fps=19.0)]
    sentence = recommend(report(rows, isa)) or ""
    assert "openvino fp32" in sentence
    assert "0.80x" in sentence
    assert words in sentence


def test_bf16_is_recommended_where_it_is_fastest() -> None:
    """INT8's ratio to FP32 is still told."""
    rows = [ROW, replace(ROW, precision="bf16", fps=73.0), replace(ROW, precision="int8", fps=50.0)]
    sentence = recommend(report(rows, ["avx512_vnni"])) or ""
    assert "openvino bf16 (73.0 FPS); INT8 runs at 2.50x the speed of FP32 in openvino" in sentence


def test_nothing_is_recommended_without_a_verdict() -> None:
    assert recommend(report([replace(ROW, verdict="not judged")], [])) is None


def test_a_verdict_from_another_machine_recommends_nothing() -> None:
    """It is left out, with one sentence that says so; one from this machine's export counts."""
    foreign = replace(ROW, precision="int8", fps=90.0, accuracy="manifest", measured_on="another processor")
    sentence = recommend(report([foreign], [])) or ""
    assert (
        sentence == "nothing is recommended: openvino int8 passed on another machine; run with --data DIR to judge here"
    )
    both = recommend(report([ROW, foreign], [])) or ""
    assert "openvino fp32 (20.0 FPS); left out: openvino int8, judged on another machine" in both
    assert "openvino int8 (90.0 FPS)" in (recommend(report([ROW, replace(foreign, same_machine=True)], [])) or "")


def test_the_network_as_written_is_shown_and_not_recommended() -> None:
    assert "20.0 FPS" in (recommend(report([ROW, replace(ROW, graph="original", fps=21.0)], [])) or "")


def test_the_fastest_of_several_checkpoints_is_not_recommended() -> None:
    """Fast-SCNN passes by its own measure; that it is faster does not make it the engine to ship."""
    other = replace(ROW, network="fastscnn", checkpoint_sha256="1" * 64, fps=60.0)
    assert recommend(report([ROW, other], ["avx2"])) is None


def test_a_report_prints_as_a_table() -> None:
    lines = str(report([ROW, replace(ROW, target="onnx", graph="original", fps=None, p50_ms=None)], [])).splitlines()
    assert lines == [
        "engine               mIoU   FPS  p50 ms   MB  verdict",
        "openvino fp32       70.00  20.0    50.0  7.0  pass",
        "onnx fp32 original  70.00     -       -  7.0  pass",
    ]


def test_refused_engines_are_named_with_their_reason_and_where_it_is_from() -> None:
    refused = replace(ROW, verdict="refused", reason="mIoU -3")
    foreign = replace(refused, target="onnx", accuracy="manifest", measured_on="another processor")
    raise_if_refused(report([ROW], []))
    with pytest.raises(GateRefusedError) as caught:
        raise_if_refused(report([ROW, refused, replace(refused, precision="int8"), foreign], []))
    assert str(caught.value) == (
        "openvino fp32, openvino int8: mIoU -3; onnx fp32: mIoU -3 (from the manifest, judged on another processor)"
    )
