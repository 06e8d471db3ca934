"""``fptk ablate`` from its command line: real trainings of a tiny table, its documents, and going on with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from fptk.cli.ablate import command
from fptk.core.errors import FptkError, InputError
from fptk.core.precision import Precision
from fptk.workflows.ablation.engines import Engine, precisions_of
from fptk.workflows.ablation.report import _engine_cells

TABLE = """
title: Two networks
heading: network
paper: "nobody's"
metrics: [f1, miou]
rows:
  - {label: small, recipe: fastscnn, paper: {f1: 0.5}}
  - {label: ours, recipe: microsegformer-as-segformer}
"""
TINY = ["data.batch=4", "data.synthetic.train=8", "data.synthetic.val=4", "data.synthetic.size=32"]
SETTINGS = [argument for each in TINY for argument in ("--set", each)]


def ablate(table: Path, *options: str) -> Result:
    arguments = [
        str(table),
        "--size",
        "32",
        "--train-images",
        "8",
        *SETTINGS,
        "--out",
        str(table.parent / "out"),
        *options,
    ]
    return CliRunner().invoke(command, arguments)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ablation") / "two.yaml"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def first(table: Path) -> Result:
    return ablate(table, "--epochs", "2", "--jobs", "2", "--set", "optim.schedule=cosine")


def test_table_holds_both_scores_and_the_conditions(first: Result, table: Path) -> None:
    assert first.exit_code == 0, first.output
    text = (table.parent / "out" / "two.md").read_text()
    assert "| network | parameters | f1, paper | f1, ours | mIoU, ours | s/epoch | peak MB |" in text
    small, ours = (line for line in text.splitlines() if line.startswith(("| small", "| ours")))
    assert "1,154,435 | 50.00 |" in small
    assert "1,747,923 | - |" in ours
    assert "8 training and 4 validation images" in text
    assert "at 32x32, batch 4, 4 steps, one seed" in text
    assert "`optim.schedule=cosine`" in text
    assert Image.open(table.parent / "out" / "two.png").size[0] > 400


def test_json_agrees_with_the_trainings_own_records(first: Result, table: Path) -> None:
    value = json.loads((table.parent / "out" / "two.json").read_text())
    assert [row["label"] for row in value["rows"]] == ["small", "ours"]
    for row in value["rows"]:
        (trained,) = row["trained"]
        records = [
            json.loads(line) for line in (Path(trained["weights"]).parent / "metrics.jsonl").read_text().splitlines()
        ]
        assert trained["scores"]["f1"] == max(record["f1"] for record in records)
        times = [4 / record["images_per_s"] * 2 for record in records]  # two epochs of two steps of four
        assert trained["seconds_per_epoch"] == pytest.approx(sum(times) / 2)
        assert trained["peak_bytes"] > 50e6
        assert row["recipe"]["data"]["train_images"] == 8


def test_finished_rows_are_kept(first: Result, table: Path) -> None:
    logs = sorted((table.parent / "out").glob("*/seed-0/train.log"))
    before = [path.stat().st_mtime_ns for path in logs]
    again = ablate(table, "--epochs", "2", "--set", "optim.schedule=cosine")
    assert again.exit_code == 0, again.output
    assert len(logs) == 2
    assert [path.stat().st_mtime_ns for path in logs] == before


def test_another_scale_in_the_same_folder_is_refused(first: Result, table: Path) -> None:
    error = ablate(table, "--epochs", "3", "--set", "optim.schedule=cosine").exception
    assert isinstance(error, InputError)
    assert "the recipe differs in optim.epochs; choose another --out" in str(error)


def test_failed_training_is_one_line_with_its_exit_code(table: Path) -> None:
    options = ("--epochs", "1", "--set", "model.options={heads: 3}", "--out", str(table.parent / "failed"))
    error = ablate(table, *options).exception
    assert isinstance(error, FptkError)
    assert error.exit_code == 2
    assert "fastscnn, seed 0: " in str(error)
    assert "heads" in str(error)
    assert "\n" not in str(error)


def test_engine_cells_mark_what_was_simulated() -> None:
    engine = Engine("trt-rtx", "int8", 0.5, -0.012, "nose", -0.034, True, "refused", None)
    assert _engine_cells(engine) == ["trt-rtx", "int8", "50.00*", "-1.20*", "nose -3.4", "-", "refused"]
    bare = Engine("onnx", "fp32", None, None, None, None, False, "not judged", 12.34)
    assert _engine_cells(bare) == ["onnx", "fp32", "-", "-", "-", "12.3", "not judged"]


def test_engine_cells_mark_what_was_judged_elsewhere() -> None:
    engine = Engine("onnx", "int8", 0.5, -0.012, "nose", -0.034, False, "pass", 12.34, judged_on="another processor")
    assert _engine_cells(engine) == ["onnx", "int8", "50.00†", "-1.20†", "nose -3.4", "12.3", "pass†"]


@pytest.mark.parametrize("has_bf16", [True, False])
def test_bf16_is_built_where_target_and_processor_have_it(has_bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fptk.export.targets.openvino.has_bf16", lambda: has_bf16)
    bf16 = (Precision.BF16,) if has_bf16 else ()
    assert precisions_of("openvino") == (Precision.FP32, *bf16, Precision.INT8)
    assert precisions_of("onnx") == (Precision.FP32, Precision.INT8)


@pytest.mark.slow
def test_engines_of_every_row_are_built_scored_and_timed(first: Result, table: Path) -> None:
    done = ablate(table, "--epochs", "2", "--set", "optim.schedule=cosine", "--target", "onnx", "--target", "openvino")
    assert done.exit_code == 0, done.output
    value = json.loads((table.parent / "out" / "two.json").read_text())
    for row in value["rows"]:
        names = [(engine["target"], engine["precision"]) for engine in row["engines"]]
        assert names == [(target, each) for target in ("onnx", "openvino") for each in precisions_of(target)]
        assert all(engine["fps"] > 0 for engine in row["engines"])
        assert row["engines"][0]["delta_miou"] == pytest.approx(0, abs=0.01)
    assert "## Engines" in (table.parent / "out" / "two.md").read_text()
