"""The parts of a trainer, each alone: what it prepares, what steps change, and what a validation leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fptk.core.errors import InputError
from fptk.core.evaluation import evaluate
from fptk.data.synthetic.faces import SyntheticFaces
from fptk.models import TorchSession, load_checkpoint
from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.training.batches import DecodedCache
from fptk.training.losses import SegmentationLoss
from fptk.training.optimizers import Event
from fptk.training.preparation import check_batches, on_device, prepare
from fptk.training.resume import Counters, load_state, save_state
from fptk.training.schedule import make_plan
from fptk.training.start import make_accelerator, make_model
from fptk.training.state import TrainingState
from fptk.training.validation import SCORES, Validation

from .listening import Recording

FACES = SyntheticFaces(12, (32, 32))
CPU = torch.device("cpu")


def state_of(recipe: Recipe) -> TrainingState:
    return TrainingState(recipe, make_plan(recipe, len(FACES)), make_model(recipe, None), make_accelerator(recipe))


def move(state: TrainingState, by: float) -> None:
    """Change every weight, as a step would, and count the step."""
    with torch.no_grad():
        for value in state.model.parameters():
            value += by
    state.counters.step += 1


def weights(state: TrainingState) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(state.model.parameters()).detach().clone()


def test_images_are_looked_at_only_where_something_depends_on_them(tiny_recipe: Recipe) -> None:
    plan, hearing = make_plan(tiny_recipe, len(FACES)), Recording()
    plain = prepare(tiny_recipe, plan, FACES, device=CPU, listener=hearing)
    assert (hearing.lines, plain.spec) == ([], tiny_recipe.spec)
    recipe = tiny_recipe.with_overrides(["loss.class_weights=sqrt_median_frequency", "preprocess.statistics=measured"])
    measured = prepare(recipe, plan, FACES, device=CPU, listener=hearing)
    assert hearing.lines == ["counting classes and colours of 12 training images"]
    images = np.stack([FACES[index].image for index in range(len(FACES))]).reshape(-1, 3) / 255
    np.testing.assert_allclose(measured.spec.mean, images.mean(axis=0), atol=1e-6)
    logits = torch.randn(1, 19, 32, 32, generator=torch.Generator().manual_seed(0))
    target = torch.from_numpy(FACES[0].mask)[None].long()
    assert measured.loss(logits, target).ce != plain.loss(logits, target).ce
    assert measured.loss(logits, target).dice == plain.loss(logits, target).dice


def test_each_process_gets_its_part_of_a_batch(tiny_recipe: Recipe) -> None:
    plan = make_plan(tiny_recipe, len(FACES))
    whole = next(prepare(tiny_recipe, plan, FACES, device=CPU).batches.iterate(0)).images
    parts = [
        next(prepare(tiny_recipe, plan, FACES, device=CPU, rank=rank, world=2).batches.iterate(0)).images
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_batch_that_processes_cannot_share_is_refused(tiny_recipe: Recipe) -> None:
    plan = make_plan(tiny_recipe, len(FACES))
    check_batches(tiny_recipe, plan, 2)
    with pytest.raises(InputError, match="batch 4 cannot be divided among 3 processes"):
        check_batches(tiny_recipe, plan, 3)


def test_batch_larger_than_the_memory_is_refused(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(tiny_recipe, len(FACES))
    for images, fits in ((4, True), (3, False)):
        monkeypatch.setattr("fptk.training.preparation.machine_memory", lambda images=images: images * 32 * 32 * 28)
        if fits:
            check_batches(tiny_recipe, plan, 1)
            continue
        with pytest.raises(InputError, match=r"4 images of 32x32 do not fit .* at most 3,"):
            check_batches(tiny_recipe, plan, 1)


def test_state_comes_back_as_it_was_saved(tiny_recipe: Recipe, tmp_path: Path) -> None:
    path, state = tmp_path / "resume.safetensors", state_of(tiny_recipe)
    move(state, 0.25)
    state.counters.best_f1 = 0.5
    state.save(path)
    expected = weights(state)
    move(state, 1.0)
    other = state_of(tiny_recipe)
    other.load(path)
    assert torch.equal(weights(other), expected)
    assert not torch.equal(weights(state), expected)
    assert (other.counters.step, other.counters.best_f1, other.saved_step) == (1, 0.5, 1)
    assert other.pipeline.state is other.counters.pipeline
    state.counters.step = 7
    state.save(path)
    with pytest.raises(InputError, match="is of step 7, and this training has 6"):
        other.load(path)


def test_dynamic_schedule_keeps_and_reloads_the_best_weights(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(
        ["optim={name: adam, schedule: dynamic, ema: null}", "dynamic={patience: 1, threshold: 0.01}"]
    )
    state = state_of(recipe)
    move(state, 0.25)
    assert state.observe(1.0) is Event.IMPROVED
    best = weights(state)
    move(state, 0.25)
    assert state.observe(2.0) is Event.SWITCHED
    assert torch.equal(weights(state), best)
    assert isinstance(state.optimizer, torch.optim.SGD)
    assert not state.counters.stopped
    state.save(tmp_path / "resume.safetensors")
    other = state_of(recipe)
    other.load(tmp_path / "resume.safetensors")
    assert isinstance(other.optimizer, torch.optim.SGD)
    move(other, 0.5)
    assert other.observe(float("nan")) is Event.ENDED
    assert torch.equal(weights(other), best)
    assert other.counters.stopped


def test_validation_records_what_the_evaluation_of_every_engine_finds(tiny_recipe: Recipe, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_overrides(["data.eval_size=64", "early_stop.patience=1"])
    run, state = RunFolder(tmp_path / "run"), state_of(recipe)
    run.start(recipe, [], {})
    faces, loss, done = SyntheticFaces(3, (48, 40), start=12), SegmentationLoss(recipe.loss), list[int]()
    validation = Validation(state, run, faces, loss, recipe.spec)
    state.counters.step, state.counters.window_images, state.counters.window_seconds = 3, 12, 2.0
    found = validation.validate(done.append)
    assert done == [1, 2, 3]
    spec = recipe.spec.model_copy(update={"size": (64, 64)})
    scores = evaluate(TorchSession(state.averaged, spec), faces)
    assert {name: found.record[name] for name in SCORES} == {name: getattr(scores, name) for name in SCORES}
    assert (found.best, state.counters.stopped) == (True, False)
    assert json.loads(run.metrics.read_text()) == found.record
    assert (found.record["step"], found.record["size"], found.record["images_per_s"]) == (3, 32, 6.0)
    network, card = load_checkpoint(run.best)
    assert card.metrics == {name: found.record[name] for name in SCORES}
    assert torch.equal(network.state_dict()["classifier.weight"], state.averaged.state_dict()["classifier.weight"])
    again = validation.validate()
    assert (again.best, state.counters.stopped, state.counters.best_step) == (False, True, 3)


def test_optimizer_state_takes_the_layout_of_channels_last_weights(tmp_path: Path) -> None:
    """As on a GPU: the fused optimizer refuses a state that lies in memory otherwise than its weights."""

    def network() -> torch.nn.Module:
        return torch.nn.Conv2d(8, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
        return torch.optim.AdamW(model.parameters(), fused=True)

    first, second = network(), network()
    stepping = optimizer(first)
    first(torch.ones(1, 8, 8, 8)).square().sum().backward()
    stepping.step()
    save_state(tmp_path / "state", first, None, stepping, Counters())
    resumed = optimizer(second)
    load_state(tmp_path / "state", second, None, lambda _: resumed)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        for slot in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(stepping.state[one][slot], resumed.state[other][slot])
            assert resumed.state[other][slot].stride() == other.stride()


def test_images_lie_on_a_gpu_where_they_fit(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    read, gpu, needed = DecodedCache(FACES, 0), torch.device("cuda"), 12 * 32 * 32 * 4
    for free, found in ((3 * needed, True), (2 * needed, False)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        assert on_device(tiny_recipe, read, 12, gpu) == found
        assert not on_device(tiny_recipe, read, 12, CPU)
        assert not on_device(tiny_recipe.with_overrides(["data.device=cpu"]), read, 12, gpu)
        assert on_device(tiny_recipe.with_overrides(["data.device=cuda"]), read, 12, gpu)


def test_a_cpu_is_no_place_for_images_on_a_gpu(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"data\.device cuda needs a CUDA GPU; on this CPU use cpu or auto"):
        make_accelerator(tiny_recipe.with_overrides(["data.device=cuda"]))
