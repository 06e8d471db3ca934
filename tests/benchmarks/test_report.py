"""The recommendation follows the figures, and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fptk.benchmarks.report import BenchReport, Row, raise_if_refused, recommend
from fptk.core.errors import GateRefusedError


def report(rows: list[Row], isa: list[str]) -> BenchReport:
    return BenchReport(host={"isa": isa}, conditions={}, reference=None, rows=rows)


def test_fastest_that_passed_is_recommended(row: Row) -> None:
    """A refused engine is not, however fast."""
    rows = [row, replace(row, precision="int8", fps=40.0, verdict="refused"), replace(row, target="onnx", fps=25.0)]
    assert "onnx fp32 (25.0 FPS)" in (recommend(report(rows, ["avx2"])) or "")


@pytest.mark.parametrize(("isa", "words"), [(["avx2"], "no VNNI"), (["avx2", "avx512_vnni"], "with VNNI")])
def test_int8_is_compared_with_fp32_of_the_same_engine(row: Row, isa: list[str], words: str) -> None:
    rows = [row, replace(row, precision="int8", fps=16.0), replace(row, target="onnx", precision="int8", fps=19.0)]
    sentence = recommend(report(rows, isa)) or ""
    assert "openvino fp32" in sentence
    assert "0.80x" in sentence
    assert words in sentence


def test_bf16_is_recommended_where_it_is_fastest(row: Row) -> None:
    """INT8's ratio to FP32 is still told."""
    rows = [row, replace(row, precision="bf16", fps=73.0), replace(row, precision="int8", fps=50.0)]
    sentence = recommend(report(rows, ["avx512_vnni"])) or ""
    assert "openvino bf16 (73.0 FPS); INT8 runs at 2.50x the speed of FP32 in openvino" in sentence


def test_a_recommendation_by_throughput_says_so(row: Row) -> None:
    """The fastest with several requests at once need not be the fastest for one."""
    found = replace(report([row], ["avx2"]), conditions={"mode": "throughput"})
    assert (recommend(found) or "").startswith("fastest here with several requests at once among what passed the gate")


def test_nothing_is_recommended_without_a_verdict(row: Row) -> None:
    assert recommend(report([replace(row, verdict="not judged")], [])) is None


def test_a_verdict_from_another_machine_recommends_nothing(row: Row) -> None:
    """It is left out, with one sentence that says so; one from this machine's export counts."""
    foreign = replace(row, precision="int8", fps=90.0, accuracy="manifest", measured_on="another processor")
    sentence = recommend(report([foreign], [])) or ""
    assert (
        sentence == "nothing is recommended: openvino int8 passed on another machine; run with --data DIR to judge here"
    )
    both = recommend(report([row, foreign], [])) or ""
    assert "openvino fp32 (20.0 FPS); left out: openvino int8, judged on another machine" in both
    assert "openvino int8 (90.0 FPS)" in (recommend(report([row, replace(foreign, same_machine=True)], [])) or "")


def test_the_network_as_written_is_shown_and_not_recommended(row: Row) -> None:
    assert "20.0 FPS" in (recommend(report([row, replace(row, graph="original", fps=21.0)], [])) or "")


def test_the_fastest_of_several_checkpoints_is_not_recommended(row: Row) -> None:
    """Fast-SCNN passes by its own measure; that it is faster does not make it the engine to ship."""
    other = replace(row, network="fastscnn", checkpoint_sha256="1" * 64, fps=60.0)
    assert recommend(report([row, other], ["avx2"])) is None


def test_a_report_prints_as_a_table(row: Row) -> None:
    lines = str(report([row, replace(row, target="onnx", graph="original", fps=None, p50_ms=None)], [])).splitlines()
    assert lines == [
        "engine               mIoU   FPS  p50 ms   MB  verdict",
        "openvino fp32       70.00  20.0    50.0  7.0  pass",
        "onnx fp32 original  70.00     -       -  7.0  pass",
    ]


def test_refused_engines_are_named_with_their_reason_and_where_it_is_from(row: Row) -> None:
    refused = replace(row, verdict="refused", reason="mIoU -3")
    foreign = replace(refused, target="onnx", accuracy="manifest", measured_on="another processor")
    raise_if_refused(report([row], []))
    with pytest.raises(GateRefusedError) as caught:
        raise_if_refused(report([row, refused, replace(refused, precision="int8"), foreign], []))
    assert str(caught.value) == (
        "openvino fp32, openvino int8: mIoU -3; onnx fp32: mIoU -3 (from the manifest, judged on another processor)"
    )
