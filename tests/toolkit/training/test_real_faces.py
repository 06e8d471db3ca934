"""Training on photographs, and on a GPU, where there are any."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fptk.models import read_card
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.training import train


@pytest.mark.slow
def test_shipped_recipe_learns_from_real_faces(real_faces: Path, tmp_path: Path, fptk: Callable[..., Any]) -> None:
    out = tmp_path / "run"
    options = ["--recipe=shipped", "--size=64", "--batch=8", "--set=optim.max_steps=24", "--set=data.val_images=8"]
    done = fptk("train", "--data", real_faces / "celebamask-mini", *options, "--out", out)
    assert done.code == 0, done.err
    run = RunFolder(out)
    assert run.read()["train_images"] == 900
    assert run.records()[-1]["loss"] < 3.5  # ln 19 + 1 = 3.94 at the start
    assert read_card(run.best).training["val_set"] == run.read()["val_set"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU in this host")
def test_fp16_training_on_a_gpu_resumes(tiny_recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_recipe, [], out, stop_after=3)
    result = train(tiny_recipe, [], out, resume=True)
    assert result.finished
    assert all(math.isfinite(record["loss"]) for record in RunFolder(out).records())
