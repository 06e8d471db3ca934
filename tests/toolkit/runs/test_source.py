"""What a command works on: run folders, and weights of no run with the recipe in their card."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fptk.models import CheckpointCard, read_card, save_checkpoint
from fptk.recipes import Recipe, differing_keys
from fptk.runs.folder import RunFolder
from fptk.runs.source import find_source

Fptk = Callable[..., Any]


def with_card(checkpoint: Path, path: Path, **changes: object) -> Path:
    """A copy of a checkpoint under another card."""
    card = read_card(checkpoint).model_dump() | changes
    save_checkpoint(path, load_file(checkpoint), CheckpointCard.model_validate(card))
    return path


@pytest.mark.slow
def test_weights_of_no_run_are_exported_by_the_recipe_in_their_card(
    fptk: Fptk, checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    recipe = Recipe.load("demo", {"export.max_miou_drop": 7.5, "export.max_class_drop": 55})
    own = with_card(checkpoint, tmp_path / "own.safetensors", recipe=recipe.model_dump(mode="json"))
    options = ("--target", "onnx", "--fp32", "--data", faces_folder, "--no-processor-matrix")
    finished = fptk("export", own, *options, "--out", tmp_path)
    assert finished.code == 0, finished.err
    policy = json.loads((tmp_path / "bundles" / "onnx-fp32" / "fptk.json").read_text())["gate"]["policy"]
    assert (policy["max_miou_drop"], policy["max_class_drop"]) == (7.5, 55)


def test_card_without_a_recipe_gives_the_shipped_one_of_its_network(checkpoint: Path, tmp_path: Path) -> None:
    for model in ("microsegformer", "unet"):
        source = find_source(with_card(checkpoint, tmp_path / f"{model}.safetensors", model=model), tmp_path / "runs")
        assert differing_keys(source.recipe, Recipe.load(model)) == []
        assert (source.is_run, source.folder, source.data) == (False, tmp_path / "runs" / model, ())


def test_network_that_fptk_does_not_know_is_refused_when_it_is_built(
    fptk: Fptk, checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    weights = with_card(checkpoint, tmp_path / "x.safetensors", model="../demo.yaml")
    finished = fptk("eval", weights, "--data", faces_folder)
    assert finished.code == 2
    assert "unknown model '../demo.yaml'" in finished.err


def test_wrong_recipe_in_a_card_is_told_in_one_line(
    fptk: Fptk, checkpoint: Path, faces_folder: Path, tmp_path: Path
) -> None:
    weights = with_card(checkpoint, tmp_path / "x.safetensors", recipe={"optim": {"lrr": 1}})
    finished = fptk("eval", weights, "--data", faces_folder)
    assert finished.code == 2
    (line,) = finished.err.strip().splitlines()
    assert f"recipe in checkpoint {weights}: unknown key 'optim.lrr'" in line


def test_weights_in_a_run_folder_belong_to_the_run(checkpoint: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.start(Recipe.load("demo"), [], {})
    shutil.copy(checkpoint, run.best)
    source = find_source(run.best)
    assert (source.is_run, source.folder, source.recipe.name) == (True, run.path, "demo")
    assert find_source(None, tmp_path).weights == run.best


@pytest.mark.parametrize("given", ["str(sys.argv[1])", "None"])
def test_weights_are_found_without_torch(checkpoint: Path, tmp_path: Path, given: str) -> None:
    code = f"""
import sys
from pathlib import Path
from fptk.runs.source import find_source
given = {given}
print(find_source(given and Path(given), Path("none")).weights, "torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(checkpoint)], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"
