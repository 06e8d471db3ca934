"""What ``fptk bench`` measures where it is not told: originals, and the shipped weights in an empty folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fptk.core.errors import InputError
from fptk.export.bundle import read_bundle
from fptk.export.targets.base import Target, Timing
from fptk.workflows.bench import BenchRequest, bench_folders

Command = Callable[..., Any]


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shipped(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An untrained network for 64x64 images in the place of the shipped weights."""
    for module in ("fptk.runs.source", "fptk.workflows.bench"):
        monkeypatch.setattr(f"{module}.shipped_weights", lambda: checkpoint)
    return checkpoint


@pytest.mark.slow
def test_names_the_command_of_an_engines_own_tool(
    fptk: Command, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it has one, with what was measured here."""
    assert fptk("export", checkpoint, "--target", "onnx", "--fp32", "--no-gate", "--out", tmp_path).code == 0
    bundle = tmp_path / "bundles" / "onnx-fp32"
    request = BenchRequest(rounds=1, transfers=False)
    assert bench_folders([bundle], request).rows[0].note == ""

    def command(target: Target, path: Path, timing: Timing) -> str:
        return f"tool {path.name} --batch {timing.batch} --transfers {timing.transfers} --mode {timing.mode}"

    monkeypatch.setattr(Target, "measure_command", command)
    note = bench_folders([bundle], request).rows[0].note
    assert note == f"to compare, run in {bundle}: tool model.onnx --batch 1 --transfers False --mode latency"


def test_an_original_beside_bundles_needs_to_know_whose(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--reference"):
        bench_folders([tmp_path], BenchRequest(original=True))


@pytest.mark.slow
def test_in_an_empty_folder_fp32_engines_of_the_shipped_weights_are_built_and_measured(
    fptk: Command, empty_folder: Path, shipped: Path
) -> None:
    """And the next time those are measured that are there."""
    pytest.importorskip("openvino", reason="openvino is not installed")
    run = empty_folder / "runs" / shipped.stem
    finished = fptk("bench", "--rounds", 1, "--json", "bench.json")
    assert finished.code == 0, finished.err
    said = f"building FP32 engines of the shipped weights in {run.relative_to(empty_folder)}"
    assert len([line for line in finished.err.splitlines() if said in line]) == 1
    rows = json.loads(Path("bench.json").read_text())["rows"]
    assert [(row["target"], row["precision"]) for row in rows] == [("onnx", "fp32"), ("openvino", "fp32")]
    assert all(row["fps"] > 0 for row in rows)
    bundles = sorted((run / "bundles").iterdir())
    assert [read_bundle(each).command for each in bundles] == ["fptk export --fp32 --target onnx --target openvino"] * 2
    before = [(each / "fptk.json").stat().st_mtime_ns for each in bundles]
    again = fptk("bench", "--rounds", 1)
    assert again.code == 0, again.err
    assert said not in again.err
    assert [(each / "fptk.json").stat().st_mtime_ns for each in bundles] == before


def test_nothing_is_built_that_could_not_be_measured(fptk: Command, empty_folder: Path, shipped: Path) -> None:
    """Accuracy by name needs images, and no run names any."""
    finished = fptk("bench", "--accuracy")
    assert finished.code == 2
    assert "give --data DIR" in finished.err.strip().splitlines()[-1]
    assert not list(empty_folder.iterdir())


def test_other_weights_need_an_export_first(
    fptk: Command, empty_folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fptk.workflows.bench.shipped_weights", lambda: None)
    finished = fptk("bench", checkpoint)
    assert finished.code == 2
    assert "run `fptk export` first" in finished.err.strip().splitlines()[-1]


def test_a_network_needs_no_reference(fptk: Command, empty_folder: Path, shipped: Path) -> None:
    finished = fptk("bench", "--reference", shipped)
    assert finished.code == 2
    assert "--reference is for bundles" in finished.err.strip().splitlines()[-1]


@pytest.mark.slow
def test_the_original_is_exported_once_for_each_target_and_measured_beside_the_engines(
    fptk: Command, empty_folder: Path, shipped: Path
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    for _ in range(2):
        finished = fptk("bench", "--original", "--rounds", 1, "--json", "bench.json")
        assert finished.code == 0, finished.err
        rows = json.loads(Path("bench.json").read_text())["rows"]
        graphs = [(row["target"], row["graph"]) for row in rows]
        assert graphs == [(target, graph) for graph in ("deploy", "original") for target in ("onnx", "openvino")]
    assert "building" not in finished.err
