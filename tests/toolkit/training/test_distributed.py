"""Two processes on one machine (gloo) learn what one process learns from the same batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder

WORKER = Path(__file__).with_name("worker.py")


def launch(arguments: list[str], world: int) -> None:
    """Run Python with these arguments in ``world`` processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        env = dict(os.environ, OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
        if world > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, *arguments]
        processes.append(
            subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output


@pytest.mark.slow
@pytest.mark.parametrize(
    "loss",
    [
        {},
        {"dice_over": "image", "dice_classes": "present"},
        {"class_weights": "sqrt_median_frequency", "dice_classes": "present"},
        {"focal": 1.0, "lovasz": 1.0, "boundary": 2.0},
    ],
    ids=["batch dice", "image dice", "weighted", "all terms"],
)
def test_two_processes_get_the_losses_and_gradients_of_one(
    tiny_recipe: Recipe, tmp_path: Path, loss: dict[str, str | float]
) -> None:
    # No BatchNorm (its statistics are per process on a CPU) and no dropout (each process drops its own).
    values = tiny_recipe.model_dump(mode="json")
    values["model"]["options"] = {"lmsa": None, "dropout": 0.0}
    values["data"]["synthetic"]["size"] = values["data"]["size"] = [64, 64]
    values["loss"] |= loss
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(values))
    for world in (1, 2):
        launch([str(WORKER), str(recipe), str(tmp_path / str(world))], world)
    for one, two in zip(*(RunFolder(tmp_path / world / "run").records() for world in "12"), strict=True):
        assert two.keys() == one.keys()
        for key in {"ce", "dice", "focal", "lovasz", "f1", "miou"} & one.keys():
            assert two[key] == pytest.approx(one[key], rel=1e-4), key
    alone = load_file(tmp_path / "1" / "gradients-0.safetensors")
    for rank in (0, 1):
        together = load_file(tmp_path / "2" / f"gradients-{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, gradient in alone.items():
            scale = float(gradient.abs().max()) + 1e-6
            torch.testing.assert_close(together[name], gradient, rtol=1e-3, atol=2e-3 * scale, msg=name)


@pytest.mark.slow
def test_command_under_two_processes_leaves_one_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--size=32", "--batch=4", "--set=data.synthetic={train: 12, val: 2, size: 32}", f"--out={out}"]
    launch(["-m", "fptk", "train", *options, "--set=optim.max_steps=3", "--stop-after=2"], 2)
    launch(["-m", "fptk", "train", "--resume", f"--out={out}"], 2)
    assert RunFolder(out).read()["result"]["step"] == 3
    with pytest.raises(AssertionError, match="add --resume"):
        launch(["-m", "fptk", "train", *options], 2)
