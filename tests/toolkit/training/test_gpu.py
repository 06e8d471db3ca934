"""What only a GPU can show of a training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fptk.core.classes import CELEBAMASK
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.models import load_checkpoint
from fptk.recipes import Recipe
from fptk.runs.data import open_data
from fptk.runs.folder import RunFolder
from fptk.training import train
from fptk.training.augment import Draw
from fptk.training.device_augment import lay_out, warp_batch
from fptk.training.device_batches import DeviceBatches
from fptk.training.positions import Pick
from fptk.training.resident import load
from fptk.training.start import make_accelerator, make_model
from fptk.training.trainer import Trainer

from .listening import Recording

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU in this host"),
]

MIXED = ["mix={cutmix: 0.5, mixup: 0.3}", "augment={crop: 0.5, crop_on_class: 0.5, blur: 1, sharpness: 0.5}"]


@pytest.fixture
def waits_are_errors() -> Iterator[None]:
    """torch raises where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def make_trainer(recipe: Recipe, out: Path) -> Trainer:
    accelerator = make_accelerator(recipe)
    run = RunFolder(out)
    out.mkdir()
    run.start(recipe, [], {})
    return Trainer(recipe, run, make_model(recipe, None), *open_data(recipe, []), accelerator)


def test_a_batch_of_the_gpu_is_that_of_the_cpu() -> None:
    faces = SyntheticFaces(4, size=(160, 160))
    drawn = [Draw(), Draw(flip=True, degrees=12, zoom=1.2), Draw(zoom=0.6, blur=1.5), Draw(sharpness=1.5, contrast=0.8)]
    results = []
    for device in ("cpu", "cuda"):
        pixels = load(faces.__getitem__, 4, torch.device(device), workers=2, classes=CELEBAMASK)
        layout = lay_out(pixels, [Pick(index, each) for index, each in enumerate(drawn)], (96, 96))
        results.append(warp_batch(pixels, layout, Recipe.load("microsegformer").spec))
    here, there = results
    assert (there.masks.cpu() != here.masks).float().mean() < 0.001
    assert ((there.images.cpu().int() - here.images.int()).abs() > 1).float().mean() < 0.001
    torch.testing.assert_close(there.color.cpu(), here.color, rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("amp", ["fp16", "bf16"])
def test_no_step_waits_for_the_device(
    tiny_recipe: Recipe, tmp_path: Path, amp: str, request: pytest.FixtureRequest
) -> None:
    trainer = make_trainer(tiny_recipe.with_overrides([f"precision.amp={amp}", *MIXED]), tmp_path / "run")
    assert isinstance(trainer.batches, DeviceBatches)
    batches = trainer.batches.iterate(0)
    trainer.step(next(batches))  # the first one loads kernels and constants
    request.getfixturevalue("waits_are_errors")
    for _ in range(3):
        trainer.step(next(batches))


def test_a_step_that_overflows_is_skipped(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["precision.amp=fp16"])
    trainer = make_trainer(recipe, tmp_path / "run")
    scaler = trainer.accelerator.scaler
    assert scaler is not None
    scaler._init_scale = 2.0**60
    before = [each.detach().clone() for each in trainer.state.model.parameters()]
    batches = trainer.batches.iterate(0)
    trainer.step(next(batches))
    assert all(torch.equal(one, two) for one, two in zip(before, trainer.state.model.parameters(), strict=True))
    assert scaler.get_scale() < 2.0**60
    trainer.flush()
    assert math.isfinite(trainer.state.counters.last_loss)


@pytest.mark.parametrize("changes", [["precision.amp=fp16"], ["precision.amp=bf16"], ["data.device=cpu"]])
def test_a_training_goes_on_where_it_was_stopped(tiny_recipe: Recipe, tmp_path: Path, changes: list[str]) -> None:
    recipe, heard = tiny_recipe.with_overrides(changes), Recording()
    train(recipe, [], tmp_path / "run", stop_after=3, listener=heard)
    assert any("lie on cuda" in line for line in heard.lines) == (changes != ["data.device=cpu"])
    assert train(recipe, [], tmp_path / "run", resume=True).finished
    records = RunFolder(tmp_path / "run").records()
    assert [record["step"] for record in records] == [3, 6]
    assert all(math.isfinite(record["loss"]) for record in records)


def test_compiled_steps_train_the_same_network(tiny_recipe: Recipe, tmp_path: Path) -> None:
    losses = []
    for number, compiled in enumerate(("false", "true")):
        recipe = tiny_recipe.with_overrides(["precision.amp=bf16", f"precision.compile={compiled}"])
        out = tmp_path / f"run{number}"
        train(recipe, [], out)
        losses.append([record["loss"] for record in RunFolder(out).records()])
        load_checkpoint(RunFolder(out).best)  # its weights have the network's own names
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_the_profile_says_how_busy_the_gpu_is(tiny_recipe: Recipe, tmp_path: Path) -> None:
    heard = Recording()
    recipe = tiny_recipe.with_overrides(["optim.epochs=10"])
    train(recipe, [], tmp_path / "run", profile=True, listener=heard)
    assert any("the GPU works" in line and "images/s over 10 steps" in line for line in heard.lines)
