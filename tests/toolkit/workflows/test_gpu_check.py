"""gpu_check: a file that a bare Python runs, whose stages fit the time and survive what is missing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fptk.core.errors import InputError
from fptk.core.progress import SILENT
from fptk.data.splits import open_training
from fptk.models import read_card
from fptk.recipes import Recipe
from fptk.runs.source import shipped_weights
from fptk.training.step_times import StepTimes
from fptk.workflows import gpu_check, gpu_plan
from fptk.workflows.gpu_check import environment, lay_out, main
from fptk.workflows.gpu_parts import write_parts
from fptk.workflows.gpu_plan import SECONDS, Job, Rate, check, fitted_steps, planned, stages_of
from fptk.workflows.gpu_stages import Finished, Stage

ROOT = Path(__file__).resolve().parents[3]
ENTRY = ROOT / "toolkit" / "workflows" / "gpu_check.py"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A check on a machine that received nothing."""
    return Job(
        root=ROOT,
        store=tmp_path / "store",
        packs=None,
        out=tmp_path / "out",
        seconds=300,
        recipe="shipped-gpu",
        rehearse=False,
        env={},
    )


@pytest.fixture
def part(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_bytes(b"content")
    return write_parts(tmp_path / "source", ["a"], tmp_path / "packs", 2**20)[0]


def stage_named(job: Job, name: str) -> Stage:
    return next(stage for group in stages_of(job) for stage in group if stage.name == name)


def test_receiving_needs_nothing_but_python(part: Path, tmp_path: Path) -> None:
    """``-S`` leaves the installed packages out, ``-I`` what the environment names."""
    store = tmp_path / "store"
    command = [sys.executable, "-I", "-S", "-P", str(ENTRY), "--store", str(store), "--receive", str(part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "parts still missing: none" in done.stderr
    assert (store / "a").read_bytes() == b"content"
    (part / "part.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("gpu_check: card of a part")


def test_the_layout_is_fptk_with_its_targets(tmp_path: Path) -> None:
    lay_out(ROOT, tmp_path / "layout")
    code = "import fptk; from fptk.export.targets.registry import list_targets as l; print(fptk.__file__, *sorted(l()))"
    env = {**environment(tmp_path), "PYTHONPATH": str(tmp_path / "layout")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    file, *targets = done.stdout.split()
    assert file == str(tmp_path / "layout" / "fptk" / "__init__.py")
    assert targets == ["onnx", "openvino", "trt", "trt-rtx", "web"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give --out DIR"),
        (["--out", "x", "--minutes", "0"], "--minutes"),
        (["--out", "x", "--only", "no"], "stages are"),
    ],
)
def test_mistakes_are_named(
    given: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu_check, "STORE", tmp_path / "store")
    monkeypatch.setattr(sys, "path", list(sys.path))
    try:
        code = main([*given, "--store", str(tmp_path / "store")])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_what_is_missing_is_left_out_and_said(job: Job) -> None:
    names = ["unpack", "install", "inference", "rate", "weights"]
    assert check(job, names, ["training"], SILENT) == 0
    stages = json.loads((job.out / "result.json").read_text(encoding="utf-8"))["stages"]
    assert [stage["name"] for stage in stages] == [name for name in SECONDS if name.startswith(tuple(names))]
    assert {stage["status"] for stage in stages} == {"skipped"}
    reasons = {stage["name"]: stage["reason"] for stage in stages}
    assert "no parts were given" in reasons["unpack"]
    assert "receive part 1" in reasons["install"]
    assert "start.safetensors is not there" in reasons["inference speed"]
    assert "faces is not there" in reasons["rate fp16 eager"]
    with pytest.raises(InputError, match="leave no stage"):
        check(job, ["nothing"], [], SILENT)


def test_the_schedule_is_fitted_to_what_gets_furthest() -> None:
    slow_start = Rate("fp16 compiled", 500.0, 60.0)
    at_once = Rate("fp16 eager", 400.0, 10.0)
    assert fitted_steps([at_once, slow_start], 400.0, 32) == (slow_start, int(500 * 340 * 0.93 / 32))
    assert fitted_steps([at_once, slow_start], 100.0, 32) == (at_once, int(400 * 90 * 0.93 / 32))
    assert fitted_steps([slow_start], 30.0, 32) == (slow_start, 1)


def test_the_plan_names_every_stage_and_fills_the_time(job: Job) -> None:
    assert [stage.name for group in stages_of(job) for stage in group] == list(SECONDS)
    found = dict(planned(12))
    assert sum(found.values()) == 720
    assert found["training"] > 0


def test_a_rate_is_the_profiles(job: Job) -> None:
    run = job.runs / "bf16-eager"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text('{"images": 1600, "images_per_s": 9999.0}\n')
    log = "part\n400.0 images/s over 55 steps; the GPU works 87% of the time\n"
    stage = stage_named(job, "rate bf16 eager")
    assert stage.figures(Finished(log, 20.0, False)) == {}
    with pytest.raises(ValueError, match="no rate"):
        stage.figures(Finished("no profile: 5 steps were too few", 20.0, True))
    assert gpu_plan.kept_rates(job) == []
    assert stage.figures(Finished(log, 20.0, True)) == {"images/s": 400.0, "GPU works %": 87, "start s": 16.0}
    assert stage.figures(Finished(log, 24.0, True))["start s"] == 20.0
    assert gpu_plan.kept_rates(job) == [Rate("bf16 eager", 400.0, 20.0)]


def test_the_trainers_profile_is_understood() -> None:
    times = StepTimes(torch.device("cpu"), on=True)
    for _ in range(4):
        times.begin()
        times.mark("forward")
        times.end(8)
    found = gpu_plan.PROFILED.search("\n".join(times.lines()))
    assert found is not None
    assert float(found["rate"]) > 0


def test_the_training_takes_the_fitted_steps(job: Job) -> None:
    for path in (job.faces, job.weights.parent):
        path.mkdir(parents=True)
    job.weights.touch()
    job.rates.write_text(json.dumps([{"variant": "bf16 compiled", "images_per_s": 300.0, "startup_s": 30.0}]))
    command = stage_named(job, "training").command(230.0)
    batch = Recipe.load("shipped-gpu").data.batch
    assert f"optim.max_steps={int(300 * 200 * 0.93 / batch)}" in command
    assert "precision.amp=bf16" in command
    assert "precision.compile=true" in command
    job.rates.unlink()
    assert not any("max_steps" in word for word in stage_named(job, "training").command(230.0))


def test_the_options_of_a_rate_are_keys_of_recipes(job: Job, faces_folder: Path) -> None:
    job.weights.parent.mkdir(parents=True)
    job.faces.symlink_to(faces_folder)
    job.weights.touch()
    command = list(stage_named(job, "rate bf16 eager").command(40.0))
    overrides = [command[place + 1] for place, word in enumerate(command) if word == "--set"]
    recipe = Recipe.load(job.recipe).with_overrides(overrides)
    assert recipe.optim.max_steps == 75
    train, val = open_training([Path(command[command.index("--data") + 1])])
    assert (len(train), len(val)) == (12, 4)
    assert (recipe.precision.amp, recipe.precision.compile) == ("bf16", False)


@pytest.mark.parametrize(
    ("log", "counts"),
    [
        ("SKIPPED [1] tests/a.py: no GPU\n2 passed, 1 skipped, 30 deselected in 3.21s", {"passed": 2, "skipped": 1}),
        ("== 1 failed, 3 errors in 61.00s (0:01:01) ==", {"failed": 1, "errors": 3}),
        ("killed before its last line", {}),
    ],
)
def test_tests_are_counted(job: Job, log: str, counts: dict[str, int]) -> None:
    assert stage_named(job, "gpu tests").figures(Finished(log, 1.0, True)) == counts


def test_the_gpu_tests_are_found(job: Job) -> None:
    command = stage_named(job, "gpu tests").command(60.0)
    assert "tests/toolkit/training/test_real_faces.py" in command


@pytest.mark.slow
def test_a_stopped_training_gives_its_average_back(
    faces_folder: Path, fptk: Callable[..., Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from fptk.models import load_checkpoint
    from fptk.runs.folder import RunFolder
    from fptk.workflows.gpu_weights import take_weights

    run = RunFolder(tmp_path / "run")
    options = ["--recipe=shipped-final", "--size=64", "--batch=4", "--set=optim.max_steps=9", "--stop-after=2"]
    done = fptk("train", "--data", faces_folder, *options, "--out", run.path)
    assert done.code == 0, done.err
    assert not run.last.exists()
    taken = take_weights(run, tmp_path / "out")
    assert {"last.safetensors", "last.json"} <= set(taken)
    network, card = load_checkpoint(tmp_path / "out" / "last.safetensors")
    state = load_file(run.resume)
    assert all((value == state[f"ema.{name}"]).all() for name, value in network.state_dict().items())
    assert any((value != state[f"model.{name}"]).any() for name, value in network.state_dict().items())
    assert (card.weights, card.step) == ("ema", 2)
    with pytest.raises(InputError, match="holds no weights"):
        take_weights(RunFolder(tmp_path / "none"), tmp_path / "nothing")


@pytest.mark.slow
def test_a_rehearsal_trains_and_brings_the_weights_back(faces_folder: Path, tmp_path: Path) -> None:
    weights = shipped_weights()
    if weights is None:
        pytest.skip("this build holds no weights")
    source = tmp_path / "source"
    shutil.copytree(faces_folder, source / "faces")
    (source / "weights").mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.copyfile(weights.with_suffix(suffix), source / "weights" / f"start{suffix}")
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*")) if path.is_file()]
    write_parts(source, names, tmp_path / "packs", 3 * 2**20)
    stages = "unpack,probe,rate bf16 eager,training,weights"
    options = ["--packs", tmp_path / "packs", "--out", tmp_path / "out", "--store", tmp_path / "store", "--rehearse"]
    command = [sys.executable, "-P", ENTRY, *options, "--only", stages]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["stages"]
    assert [(stage["name"], stage["status"]) for stage in found] == [(name, "ok") for name in stages.split(",")]
    assert found[2]["figures"]["images/s"] > 0
    assert found[3]["figures"]["steps"] == 6
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    best = ["best.json", "best.safetensors", "last.json", "last.safetensors"]
    assert left == [*best, "logs.txt", "metrics.jsonl", "result.json", "result.md"]
    assert read_card(tmp_path / "out" / "last.safetensors").step == 6
