"""``fptk run``: the whole way, a second run that keeps what is finished, and the same on real faces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fptk.recipes import Recipe

SMALL = (
    "data.size=64",
    "data.batch=4",
    "data.synthetic.size=64",
    "data.synthetic.train=16",
    "data.synthetic.val=4",
    "optim.epochs=1",
    "export.calibration_images=4",
    "export.max_miou_drop=100",
    "export.max_class_drop=100",
    "export.precisions=[fp32]",
    "export.targets=[onnx]",
    "bench.rounds=2",
)
"""A recipe that trains nothing worth having, in seconds; the gate is opened wide since an untrained network's labels
turn on the last bit."""


def settings(*assignments: str) -> list[str]:
    return [word for assignment in assignments for word in ("--set", assignment)]


@pytest.mark.slow
def test_run_keeps_finished_stages(fptk: Callable[..., object], tmp_path: Path) -> None:
    arguments = ("run", "--recipe", "demo", *settings(*SMALL), "--out", tmp_path / "run")
    first = fptk(*arguments)
    assert first.code == 0, first.err
    assert "onnx" in first.out
    assert "pytorch" in first.out
    weights = (tmp_path / "run" / "best.safetensors").stat()
    report = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert [row["target"] for row in report["rows"]] == ["onnx"]
    assert report["rows"][0]["verdict"] == "pass"
    assert len(report["rows"][0]["calls_ms"]) == 2 * Recipe.load("demo").bench.calls
    page = tmp_path / "run" / "report.html"
    assert f"report: {page}" in first.err
    assert "The engine kept its accuracy" in page.read_text(encoding="utf-8")

    second = fptk(*arguments)
    assert second.code == 0, second.err
    assert "train: kept" in second.err
    assert "export: kept" in second.err
    assert "bench: kept" in second.err
    assert json.loads((tmp_path / "run" / "bench.json").read_text()) == report
    assert (tmp_path / "run" / "best.safetensors").stat().st_mtime_ns == weights.st_mtime_ns

    page.write_text("<p>a page of the user's</p>", encoding="utf-8")
    third = fptk(*arguments)
    assert third.code == 0, third.err
    assert f"no report: {page} exists" in third.err
    assert page.read_text(encoding="utf-8") == "<p>a page of the user's</p>"


@pytest.mark.slow
def test_run_refuses_another_recipe_in_the_same_folder(fptk: Callable[..., object], tmp_path: Path) -> None:
    assert fptk("run", "--recipe", "demo", *settings(*SMALL), "--out", tmp_path / "run").code == 0
    other = fptk("run", "--recipe", "demo", *settings(*SMALL, "optim.lr=1e-5"), "--out", tmp_path / "run")
    assert other.code == 2
    assert "optim.lr" in other.err


@pytest.mark.slow
def test_real_faces_go_the_whole_way(fptk: Callable[..., object], real_faces: Path, tmp_path: Path) -> None:
    """A few steps on real photographs, INT8 engines for both CPU targets, scores and speed of each, a label map."""
    run, val = tmp_path / "run", real_faces / "celebamask-3k" / "val"
    small = settings("data.size=128", "data.batch=4", "data.val_images=8", "optim.epochs=1", "optim.max_steps=12")
    trained = fptk("train", "--recipe", "demo", "--data", real_faces / "celebamask-mini", *small, "--out", run)
    assert trained.code == 0, trained.err
    options = (run, "--data", val, "--eval-images", 8, "--calib-size", 8, "--no-gate")
    exported = fptk("export", "--target", "onnx", "--target", "openvino", "--fp32", "--int8", *options)
    assert exported.code == 0, exported.err
    report = tmp_path / "bench.json"
    benched = fptk("bench", run, "--data", val, "--eval-images", 8, "--rounds", 2, "--json", report)
    assert benched.code == 0, benched.err
    rows = json.loads(report.read_text())["rows"]
    assert {(row["target"], row["precision"]) for row in rows} == {
        (target, precision) for target in ("onnx", "openvino") for precision in ("fp32", "int8")
    }
    for row in rows:
        assert row["fps"] > 0
        assert row["miou"] > 0.05, "twelve steps are enough to tell skin, hair and background apart"
        if row["precision"] == "fp32":
            assert abs(row["delta_miou"]) < 1e-3
    photo = next((val / "images").iterdir())
    predicted = fptk("predict", photo, "--model", run / "bundles" / "openvino-int8", "--out", tmp_path / "labels")
    assert predicted.code == 0, predicted.err
    assert (tmp_path / "labels" / f"{photo.stem}.png").is_file()


@pytest.mark.parametrize("text", ["[]", '{"train": 1}', '{"train": {}}', "{"])
def test_a_damaged_stage_file_is_one_line(text: str, fptk: Callable[..., object], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "stages.json").write_text(text)
    finished = fptk("run", "--recipe", "demo", *settings(*SMALL), "--out", tmp_path / "run")
    assert finished.code == 2
    assert "stage" in finished.err.strip().splitlines()[-1]
