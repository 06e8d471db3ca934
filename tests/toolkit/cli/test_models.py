"""``fptk models``: networks as they can be built here, weights as their cards say; and what a shell completes."""

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

Command = Callable[..., Any]


def test_networks_and_weights_are_listed(
    checkpoint: Path, fptk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run, unfinished = tmp_path / "runs" / "mine", tmp_path / "runs" / "new"
    for folder in (run, unfinished):
        folder.mkdir(parents=True)
        (folder / "run.json").write_text("{}")
    shutil.copy(checkpoint, run / "best.safetensors")
    found = json.loads(fptk("models", "--json", "-").out)
    networks = {each["name"]: each for each in found["networks"]}
    assert networks["microsegformer"]["parameters"] == 1_747_923
    assert networks["microsegformer"]["options"]["lmsa"] == "compact"
    assert networks["unet"]["about"].startswith("U-Net")
    weights = {each["name"]: each for each in found["weights"]}
    assert {*weights} == {"shipped", "runs/mine"}
    assert weights["runs/mine"]["size"] == [64, 64]
    assert 0 < weights["shipped"]["scores"]["miou"] < 1
    printed = fptk("models").out
    assert "1,747,923" in printed
    assert "lmsa=compact" in printed
    assert "runs/mine" in printed


def test_without_torch_the_weights_are_still_listed(fptk: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    found = json.loads(fptk("models", "--json", "-").out)
    assert {each["parameters"] for each in found["networks"]} == {None}
    assert all("pip install 'fptk[train]'" in each["problem"] for each in found["networks"])
    assert next(each["name"] for each in found["weights"]) == "shipped"
    assert "pip install" in fptk("models").out


@pytest.mark.parametrize(("words", "expected"), [("fptk rep", "report"), ("fptk predict --form", "--format")])
def test_a_shell_completes_commands_and_options(words: str, expected: str) -> None:
    environment = {"_FPTK_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    command = [sys.executable, "-m", "fptk"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    assert done.stdout.splitlines() == [f"plain,{expected}"], done.stderr
