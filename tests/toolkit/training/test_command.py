"""``fptk train`` as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file

from fptk.cli import cli
from fptk.core.errors import FptkError
from fptk.runs.folder import RunFolder

TINY = (
    "--size=32 --batch=4 --set=data.synthetic={train: 12, val: 2, size: 32} --set=optim.max_steps=3 "
    "--set=checkpoint.every_steps=1"
)


def tiny_options(*more: str) -> list[str]:
    words = TINY.replace("--", "\n--").split("\n")[1:]
    return ["train", *(word.strip() for word in words), *more]


def run(arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(folder)
    return CliRunner().invoke(cli, arguments)


def message_of(result: Result) -> str:
    assert isinstance(result.exception, FptkError)
    assert result.exception.exit_code == 2
    return str(result.exception)


def test_training_without_data_uses_synthetic_faces_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(tiny_options(), tmp_path, monkeypatch)
    assert result.exit_code == 0, result.output
    assert "no --data given: training on synthetic faces" in result.output
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("demo-20")
    recipe = RunFolder(folder).recipe()
    assert (recipe.name, recipe.data.size, recipe.data.batch) == ("demo", (32, 32), 4)


def test_resume_without_out_goes_on_with_the_newest_unfinished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tiny_options("--stop-after=2", "--out=runs/mine"), tmp_path, monkeypatch).exit_code == 0
    result = run(["train", "--resume"], tmp_path, monkeypatch)
    assert result.exit_code == 0, result.output
    assert "resuming runs/mine at step 2 of 3" in result.output
    assert RunFolder(tmp_path / "runs" / "mine").read()["result"]["step"] == 3
    assert "no unfinished run" in message_of(run(["train", "--resume"], tmp_path, monkeypatch))


def test_options_change_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = ("--recipe=shipped", "--epochs=7", "--seed=5", "--no-amp", "--set=data.sampling=uniform", "--stop-after=1")
    result = run(tiny_options(*more, "--out=r"), tmp_path, monkeypatch)
    assert result.exit_code == 0, result.output
    recipe = RunFolder(tmp_path / "r").recipe()
    assert (recipe.name, recipe.seed, recipe.optim.epochs, recipe.precision.amp) == ("shipped", 5, 7, "off")
    assert (recipe.data.phases, recipe.data.sampling) == ((), "uniform")


def test_batch_option_replaces_the_batches_of_phases() -> None:
    from fptk.cli.train import _recipe

    none = dict.fromkeys(("model", "epochs", "size", "batch", "amp", "seed", "param_budget"))
    recipe = _recipe("shipped", {**none, "batch": 6, "assignments": ()})
    assert recipe.data.batch == 6
    assert {phase.batch for phase in recipe.data.phases} == {None}
    assert len(recipe.data.phases) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--recipe", "shiped"], "did you mean 'shipped'?"),
        (["--model", "resnet"], "unknown model 'resnet'"),
        (["--size", "100"], "multiple of 32"),
        (["--set", "optim.lrr=1"], "did you mean 'optim.lr'?"),
        (["--param-budget", "1000"], "over the budget of 1,000"),
        (["--init-weights", "none.safetensors"], "none.safetensors does not exist"),
        (["--resume", "--out", "nowhere"], "holds no run to resume"),
        (["--resume", "--init-weights", "x"], "give one of them"),
        (["--resume", "--out", "nowhere", "--epochs", "3"], "holds no run to resume"),
    ],
)
def test_bad_input_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    message = message_of(run(["train", *arguments], tmp_path, monkeypatch))
    assert said in message
    assert "\n" not in message
    assert not (tmp_path / "runs").exists()


def test_missing_torch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    assert "pip install 'fptk[train]'" in message_of(run(["train"], tmp_path, monkeypatch))


def test_command_file_imports_no_torch() -> None:
    code = "import sys, fptk.cli.train; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_killed_training_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch; then ``--resume``; then compare with a run that nothing disturbed."""
    base = [sys.executable, "-m", "fptk", *tiny_options("--set=optim.ema=0.9", "--set=model.options.dropout=0.3")]
    base += ["--set=optim.max_steps=24", "--set=data.synthetic={train: 48, val: 2, size: 32}"]
    base += ["--set=checkpoint.every_steps=5", "--set=data.sampling=rare"]
    env = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
    subprocess.run([*base, "--out=whole"], cwd=tmp_path, env=env, check=True, capture_output=True)
    process = subprocess.Popen([*base, "--out=killed"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    killed = RunFolder(tmp_path / "killed")
    deadline = time.monotonic() + 120
    while saved_step(killed) < 15 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 15 <= saved_step(killed) < 24
    assert not killed.last.exists()
    resume = [sys.executable, "-m", "fptk", "train", "--resume", "--out=killed"]
    done = subprocess.run(resume, cwd=tmp_path, env=env, check=True, capture_output=True, text=True)
    assert f"resuming killed at step {15}" in done.stderr or "resuming killed at step 20" in done.stderr
    for name in ("last", "best"):
        whole, resumed = (load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "killed"))
        assert all((whole[key] == resumed[key]).all() for key in whole | resumed)


def saved_step(run: RunFolder) -> int:
    """Step of the resume state on the disk; -1 where there is none yet."""
    import json

    from safetensors import safe_open

    if not run.resume.exists():
        return -1
    with safe_open(run.resume, framework="pt") as handle:
        return int(json.loads(handle.metadata()["fptk_resume"])["step"])


def test_help_lists_every_option() -> None:
    result = CliRunner().invoke(cli, ["train", "--help"])
    assert result.exit_code == 0
    for option in ("--data", "--recipe", "--amp / --no-amp", "--resume", "--param-budget", "--set", "--init-weights"):
        assert option in result.output
