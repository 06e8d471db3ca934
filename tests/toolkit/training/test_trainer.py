"""Whole trainings, small: what they leave behind, how they go on, what they refuse."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fptk.core.errors import FptkError, InputError
from fptk.models import load_checkpoint, read_card
from fptk.recipes import Recipe
from fptk.runs.data import open_data
from fptk.runs.folder import RunFolder
from fptk.training import train
from fptk.training.interrupt import TrainingInterruptedError

from .listening import Recording


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.equal(tensor, b[name]), name


@pytest.fixture(scope="module")
def finished(tiny_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(tiny_recipe, [], out)
    return tiny_recipe, out


def test_run_folder_holds_what_it_promises(finished: tuple[Recipe, Path]) -> None:
    recipe, out = finished
    run = RunFolder(out)
    card = run.read()
    assert card["recipe"] == recipe.model_dump(mode="json")
    assert card["data"] == []
    assert card["parameters"] == 1_747_923
    assert card["result"]["step"] == 6
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [record["step"] for record in records] == [3, 6]
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record["loss"] == pytest.approx(record["ce"] + record["dice"])
        assert 0 <= record["miou"] <= record["f1"] <= 1
        assert record["images_per_s"] > 0
    assert Image.open(run.curves).size[0] > 800
    assert card["result"]["best_f1"] == max(record["f1"] for record in records)


def test_checkpoints_carry_averaged_weights_and_their_scores(finished: tuple[Recipe, Path]) -> None:
    recipe, out = finished
    run = RunFolder(out)
    model, card = load_checkpoint(run.best)
    assert (card.model, card.weights, card.num_parameters) == ("microsegformer", "ema", 1_747_923)
    assert card.preprocess == recipe.spec
    assert card.metrics["f1"] == run.read()["result"]["best_f1"]
    assert card.training["train_images"] == 12
    assert not any(
        "/" in str(value) for name, value in card.training.items() if name not in ("train_set", "val_set")
    )  # no paths
    assert model.options == card.options
    assert read_card(run.last).step == 6


def test_same_seed_gives_the_same_weights_and_another_does_not(tiny_recipe: Recipe, tmp_path: Path) -> None:
    short = tiny_recipe.with_overrides(["optim.max_steps=2"])
    for name, recipe in (("a", short), ("b", short), ("c", short.with_overrides(["seed=1"]))):
        train(recipe, [], tmp_path / name)
    assert_same_weights(tmp_path / "a" / "last.safetensors", tmp_path / "b" / "last.safetensors")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a" / "last.safetensors", tmp_path / "c" / "last.safetensors")


@pytest.mark.parametrize("stop_after", [1, 4])
def test_resumed_training_ends_in_the_same_weights_bit_for_bit(
    finished: tuple[Recipe, Path], tmp_path: Path, stop_after: int
) -> None:
    recipe, whole = finished
    out = tmp_path / "run"
    result = train(recipe, [], out, stop_after=stop_after)
    assert (result.finished, result.step) == (False, stop_after)
    result = train(recipe, [], out, resume=True)
    assert (result.finished, result.step) == (True, 6)
    assert_same_weights(whole / "last.safetensors", out / "last.safetensors")
    assert_same_weights(whole / "best.safetensors", out / "best.safetensors")
    timing = ("seconds", "images_per_s")
    for one, other in zip(RunFolder(whole).records(), RunFolder(out).records(), strict=True):
        assert {k: v for k, v in one.items() if k not in timing} == {k: v for k, v in other.items() if k not in timing}


def test_signal_ends_after_the_step_with_the_state_saved(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, whole = finished
    out = tmp_path / "run"
    hearing = Recording(3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TrainingInterruptedError, match=r"after step 3 of 6; go on with: fptk train --resume") as caught:
        train(recipe, [], out, listener=hearing)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler
    train(recipe, [], out, resume=True)
    assert_same_weights(whole / "last.safetensors", out / "last.safetensors")


def test_listener_hears_of_every_step_and_validation(
    finished: tuple[Recipe, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe, whole = finished
    hearing = Recording()
    train(recipe, [], tmp_path / "run", stop_after=4, listener=hearing)
    assert hearing.images == [0, 4, 8, 12, 16]
    assert hearing.texts[0] == "epoch 0.0 loss 0.000"
    assert hearing.texts[3:5] == ["validating 1/2", "validating 2/2"]
    scores = RunFolder(whole).records()[0]
    first, second = hearing.lines
    assert first.startswith("microsegformer, 1,747,923 parameters, on ")
    assert second.startswith(f"step 3 · epoch 1.0 · 32 px · loss {scores['loss']:.4f} · f1 {scores['f1']:.4f} · ")
    assert second.endswith(" images/s · best")
    again = Recording()
    train(recipe, [], tmp_path / "run", resume=True, listener=again)
    assert again.lines[0] == f"resuming {tmp_path / 'run'} at step 4 of 6"
    assert again.images == [16, 20, 24]
    silent = train(recipe, [], tmp_path / "run", resume=True)
    assert silent.finished
    assert capfd.readouterr() == ("", "")


def test_finished_run_is_only_reported_when_resumed(finished: tuple[Recipe, Path]) -> None:
    recipe, out = finished
    hearing = Recording()
    result = train(recipe, [], out, resume=True, listener=hearing)
    assert (result.finished, result.step, hearing.steps) == (True, 6, 0)
    assert result.best.exists()
    assert result.last.exists()


def test_resume_with_another_recipe_names_the_key(finished: tuple[Recipe, Path]) -> None:
    recipe, out = finished
    with pytest.raises(InputError, match=r"differs in optim\.lr"):
        train(recipe.with_overrides(["optim.lr=1e-5"]), [], out, resume=True)
    with pytest.raises(InputError, match="other --data"):
        train(recipe, [Path("elsewhere")], out, resume=True)


def test_folder_with_something_in_it_is_refused(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, out = finished
    with pytest.raises(InputError, match="add --resume"):
        train(recipe, [], out)
    (tmp_path / "thesis.tex").write_text("dear to me")
    with pytest.raises(InputError, match="not empty"):
        train(recipe, [], tmp_path)


def test_damaged_resume_state_is_an_input_error(tiny_recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_recipe, [], out, stop_after=1)
    state = RunFolder(out).resume
    state.write_bytes(state.read_bytes()[:5000])
    with pytest.raises(InputError, match="is damaged"):
        train(tiny_recipe, [], out, resume=True)


def test_network_over_the_budget_is_refused_before_anything_is_written(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1,747,923 parameters, 47,923 over the budget of 1,700,000.*--param-budget"):
        train(tiny_recipe.with_overrides(["model.param_budget=1700000"]), [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_warm_start_begins_with_the_given_weights(finished: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, source = finished
    still = recipe.with_overrides(["optim.lr=1e-12", "optim.max_steps=1", "data.size=64"])
    train(still, [], tmp_path / "run", init_weights=source)
    before, after = load_file(source / "best.safetensors"), load_file(tmp_path / "run" / "last.safetensors")
    torch.testing.assert_close(after["classifier.weight"], before["classifier.weight"])
    assert RunFolder(tmp_path / "run").read()["init_weights"] == str(source)


def test_phases_change_the_resolution(tiny_recipe: Recipe, tmp_path: Path) -> None:
    phases = "data.phases=[{until: 0.5, size: 32}, {until: 1.0, size: 64, batch: 2}]"
    train(tiny_recipe.with_overrides([phases, "data.size=64"]), [], tmp_path / "run")
    records = RunFolder(tmp_path / "run").records()
    assert [record["size"] for record in records] == [32, 64]
    assert [record["step"] for record in records] == [3, 9]


def test_early_stopping_ends_after_patience_and_stays_ended(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(
        ["optim.lr=1e-12", "optim.ema=null", "early_stop.patience=2", "optim.epochs=30", "data.eval_every=0.34"]
    )
    result = train(recipe, [], tmp_path / "run")
    assert result.finished
    assert result.step < 15
    assert train(recipe, [], tmp_path / "run", resume=True).step == result.step


def test_accumulation_splits_the_batch_without_changing_the_gradient(tiny_recipe: Recipe, tmp_path: Path) -> None:
    """With a loss that is a mean over images, parts of a batch add up to it; BatchNorm would see other statistics."""
    plain = tiny_recipe.with_overrides(
        ["loss.dice_over=image", "model.options={lmsa: null, dropout: 0}", "optim.max_steps=1", "optim.ema=null"]
    )
    for name, recipe in (("one", plain), ("parts", plain.with_overrides(["optim.accumulate=2"]))):
        train(recipe, [], tmp_path / name)
    one, parts = (RunFolder(tmp_path / name).records()[0] for name in ("one", "parts"))
    assert parts["ce"] == pytest.approx(one["ce"], rel=1e-5)
    assert parts["dice"] == pytest.approx(one["dice"], rel=1e-5)


def test_whitening_uses_the_training_images_own_statistics(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["preprocess.statistics=measured", "optim.max_steps=1"])
    train(recipe, [], tmp_path / "run")
    spec = read_card(tmp_path / "run" / "best.safetensors").preprocess
    faces = open_data(recipe, [])[0]
    images = np.stack([faces[index].image for index in range(len(faces))]).reshape(-1, 3) / 255
    np.testing.assert_allclose(spec.mean, images.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(spec.std, images.std(axis=0), atol=1e-6)
    assert spec.size == (32, 32)


@pytest.mark.slow
def test_mixed_multiscale_training_resumes_bit_for_bit(tiny_recipe: Recipe, tmp_path: Path) -> None:
    keys = ["mix={cutmix: 0.5, mixup: 0.5}", "data.multiscale=[1, 2]", "augment={crop: 0.6, noise: 0.05, blur: 1}"]
    recipe = tiny_recipe.with_overrides([*keys, "optim.accumulate=2"])
    train(recipe, [], tmp_path / "whole")
    train(recipe, [], tmp_path / "parts", stop_after=2)
    train(recipe, [], tmp_path / "parts", resume=True)
    assert_same_weights(*(tmp_path / name / "last.safetensors" for name in ("whole", "parts")))


def test_every_term_of_the_loss_is_trained_and_recorded(tiny_recipe: Recipe, tmp_path: Path) -> None:
    weights = {"ce": 1.0, "dice": 0.5, "focal": 2.0, "lovasz": 0.25}
    keys = [f"loss.{name}={weight}" for name, weight in weights.items()]
    more = ["loss.class_weights=inverse_log_frequency", "loss.boundary=2", "optim.max_steps=2"]
    train(tiny_recipe.with_overrides([*keys, *more]), [], tmp_path / "run")
    record = RunFolder(tmp_path / "run").records()[-1]
    assert record["loss"] == pytest.approx(sum(weight * record[name] for name, weight in weights.items()))
    assert min(record[name] for name in weights) > 0


def test_diverging_training_says_so(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["optim.lr=1e30", "optim.clip=null", "optim.warmup_epochs=0"])
    with pytest.raises(FptkError, match=r"no longer finite.*lower optim.lr"):
        train(recipe, [], tmp_path / "run")


def test_bf16_autocast_trains_on_a_cpu(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["precision.amp=bf16", "optim.max_steps=2"])
    train(recipe, [], tmp_path / "run")
    assert math.isfinite(RunFolder(tmp_path / "run").records()[-1]["loss"])
    weights = load_file(tmp_path / "run" / "last.safetensors")
    assert weights["classifier.weight"].dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 is right on a CUDA host")
def test_fp16_on_a_cpu_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fp16 needs a CUDA GPU"):
        train(tiny_recipe.with_overrides(["precision.amp=fp16"]), [], tmp_path / "run")


def test_keys_that_do_not_touch_the_weights_may_change_on_resume(tiny_recipe: Recipe, tmp_path: Path) -> None:
    train(tiny_recipe, [], tmp_path / "run", stop_after=1)
    other = tiny_recipe.with_overrides(["export.targets=[onnx]", "data.workers=2", "checkpoint.every_steps=1"])
    assert train(other, [], tmp_path / "run", resume=True, stop_after=1).step == 2


def test_finished_run_without_its_weights_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["optim.max_steps=1"])
    result = train(recipe, [], tmp_path / "run")
    result.best.unlink()
    with pytest.raises(InputError, match=r"without its best\.safetensors"):
        train(recipe, [], tmp_path / "run", resume=True)


def test_train_images_are_evenly_spaced(tiny_recipe: Recipe) -> None:
    everything, val = open_data(tiny_recipe, [])
    few, same_val = open_data(tiny_recipe.with_overrides(["data.train_images=3"]), [])
    places = [0, (len(everything) - 1) // 2, len(everything) - 1]
    assert len(few) == 3 < len(everything)
    assert [few[i].image.tobytes() for i in (0, 2)] == [everything[i].image.tobytes() for i in (places[0], places[2])]
    assert len(same_val) == len(val)
