"""``fptk bench`` with tiny engines: throughput, and the stages of a photograph."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fptk.export.targets.onnxruntime import OnnxRuntimeTarget

Command = Callable[..., Any]

openvino = pytest.importorskip("openvino", reason="openvino is not installed")


@pytest.fixture
def bundles(cpu_bundles: Path) -> list[Path]:
    """FP32 engines of the untrained network for ONNX Runtime and OpenVINO."""
    return [cpu_bundles / "onnx-fp32", cpu_bundles / "openvino-fp32"]


def words_of(text: str) -> str:
    """What is printed, without the line breaks of a narrow terminal."""
    return " ".join(text.split())


def test_throughput_states_what_is_in_flight(fptk: Command, bundles: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    options = ("--fps", "--mode", "throughput", "--threads", 2, "--rounds", 2)
    finished = fptk("bench", *bundles, *options, "--json", path)
    assert finished.code == 0, finished.err
    report = json.loads(path.read_text())
    assert report["conditions"]["mode"] == "throughput"
    assert report["conditions"]["photo"] is None
    onnx, other = report["rows"]
    assert onnx["concurrency"] == {"requests": 2, "streams": 2, "threads": 2}
    assert other["concurrency"]["threads"] == 2
    assert other["concurrency"]["requests"] >= other["concurrency"]["streams"] >= 1
    for row in (onnx, other):
        assert row["fps"] > 0
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["photo"] is None
        assert row["peak_bytes"] is None, "that of a single call would be misread"
    said = words_of(finished.out)
    assert "2 threads, batch 1, throughput, 2 interleaved rounds" in said
    assert "at once: 2 requests in 2 streams on 2 threads" in said
    assert "benchmark_app -m model.xml" in said
    assert "photograph" not in said


def test_throughput_has_accuracy_beside_it(
    fptk: Command, bundles: list[Path], faces_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    options = ("--mode", "throughput", "--rounds", 1, "--data", faces_folder, "--json", path)
    finished = fptk("bench", bundles[0], *options)
    assert finished.code == 0, finished.err
    (row,) = json.loads(path.read_text())["rows"]
    assert row["accuracy"] == "measured"
    assert row["concurrency"]["requests"] >= 1


def test_an_engine_can_be_measured_against_itself(fptk: Command, bundles: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    finished = fptk("bench", *bundles[:1] * 2, "--fps", "--mode", "throughput", "--rounds", 1, "--json", path)
    assert finished.code == 0, finished.err
    first, second = json.loads(path.read_text())["rows"]
    assert first["fps"] != second["fps"], "each was measured"


def test_a_target_whose_throughput_is_not_measured_says_so(
    fptk: Command, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnnxRuntimeTarget, "load_pool", lambda *_, **__: None)
    path = tmp_path / "bench.json"
    finished = fptk("bench", *bundles, "--fps", "--mode", "throughput", "--rounds", 1, "--json", path)
    assert finished.code == 0, finished.err
    onnx, other = json.loads(path.read_text())["rows"]
    assert onnx["fps"] is onnx["p50_ms"] is onnx["concurrency"] is None
    assert onnx["note"] == "fptk does not measure the throughput of target onnx"
    assert other["fps"] > 0
    assert "onnx fp32: fptk does not measure the throughput of target onnx" in words_of(finished.out)


@pytest.mark.parametrize(("given", "size"), [((), [1024, 1024]), (("--photo", "200x100"), [200, 100])])
def test_the_stages_of_a_photograph_are_told_apart(
    given: tuple[str, ...], size: list[int], fptk: Command, bundles: list[Path], tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    finished = fptk("bench", *bundles, "--fps", "--rounds", 2, *given, "--json", path)
    assert finished.code == 0, finished.err
    report = json.loads(path.read_text())
    assert report["conditions"]["mode"] == "latency"
    assert report["conditions"]["photo"] == size
    for row in report["rows"]:
        assert row["concurrency"] is None
        stages = [row["photo"][f"{stage}_ms"] for stage in ("preprocess", "infer", "postprocess")]
        assert min(stages) > 0
        assert row["photo"]["whole_ms"] >= max(stages)
    said = words_of(finished.out)
    assert f"a photograph of {size[0]}x{size[1]}, ms" in said
    assert "preprocess infer postprocess whole" in said


def test_accuracy_alone_times_no_photograph(
    fptk: Command, bundles: list[Path], faces_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    finished = fptk("bench", bundles[0], "--accuracy", "--data", faces_folder, "--json", path)
    assert finished.code == 0, finished.err
    report = json.loads(path.read_text())
    assert report["conditions"]["photo"] is report["rows"][0]["photo"] is None


def test_a_row_is_held_against_the_limit_of_its_precision(
    fptk: Command, bundles: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fptk.benchmarks.roofline.copied_bytes", lambda: 2**22)
    path = tmp_path / "bench.json"
    finished = fptk("bench", *bundles, "--fps", "--roofline", "--rounds", "1", "--threads", "1", "--json", path)
    assert finished.code == 0, finished.err
    report = json.loads(path.read_text())
    limits = report["conditions"]["limits"]
    assert [*limits["gmacs_per_s"]] == ["fp32", "bf16", "int8"]
    assert limits["memory_gb_per_s"] > 0
    assert {*limits["kernels"]} == {name for name, rate in limits["gmacs_per_s"].items() if rate}
    for row in report["rows"]:
        least = row["macs"] / limits["gmacs_per_s"][row["precision"]] / 1e6
        assert row["roofline_ms"] == pytest.approx(least)
        assert row["roofline_fraction"] == pytest.approx(least / row["p50_ms"])
    said = words_of(finished.out)
    assert "limits in the same run, G multiply-adds/s: fp32" in said
    assert "target prec. M multiply-adds ms at its limit p50 ms of its limit" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--mode", "throughput", "--photo", "64x64"), "--photo is of single calls"),
        (("--mode", "throughput", "--roofline"), "--roofline is of single calls"),
        (("--mode", "throughput", "--no-transfers"), "--no-transfers is of single calls"),
        (("--mode", "throughput", "--accuracy"), "--mode throughput measures speed; add --fps"),
        (("--photo", "64x64", "--accuracy"), "--photo measures speed; add --fps"),
        (("--roofline", "--accuracy"), "--roofline measures speed; add --fps"),
        (("--mode", "bandwidth"), "'latency', 'throughput'"),
        (("--photo", "64"), "'64' is no size; write width and height, e.g. 1024x768"),
        (("--photo", "64x64x3"), "is no size"),
        (("--photo", "-1x64"), "is no size"),
        (("--photo", "0x64"), "a side that is not from 1 to"),
        (("--photo", "64x99999999999"), "a side that is not from 1 to"),
        (("--rewrites", "table.md", "--mode", "latency"), "--rewrites does not heed --mode"),
    ],
)
def test_what_cannot_be_heeded_is_refused(
    options: tuple[str, ...], words: str, fptk: Command, bundles: list[Path]
) -> None:
    given = () if "--rewrites" in options else (bundles[0],)
    finished = fptk("bench", *given, *options)
    assert finished.code == 2
    assert words in finished.err.strip().splitlines()[-1]
    assert "Traceback" not in finished.err
