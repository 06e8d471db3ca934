"""The dynamic optimiser pipeline: scripted validation curves, its rates, a training killed across a switch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fptk.recipes import Recipe
from fptk.runs.folder import RunFolder
from fptk.training import train
from fptk.training.optimizers import Event, Pipeline, PipelineState
from fptk.training.schedule import learning_rate, make_plan
from fptk.training.start import make_accelerator, make_model
from fptk.training.validation import score

DYNAMIC = [
    "optim.schedule=dynamic",
    "optim.name=adam",
    "optim.lr=1e-3",
    "optim.warmup_epochs=0",
    "dynamic={patience: 2, sgd_lr: 0.008, threshold: 0.002}",
]


@pytest.fixture
def dynamic_recipe(tiny_recipe: Recipe) -> Recipe:
    return tiny_recipe.with_overrides([*DYNAMIC, "optim.epochs=100"])


def pipeline_of(recipe: Recipe) -> Pipeline:
    return Pipeline(recipe, make_plan(recipe, 12), PipelineState())


def test_scripted_curve_switches_halves_and_ends(dynamic_recipe: Recipe) -> None:
    n, i, s, h, e = Event.NOTHING, Event.IMPROVED, Event.SWITCHED, Event.HALVED, Event.ENDED
    script = [
        (1.0, i, "adam", 1e-3),
        (1.2, n, "adam", 1e-3),
        (0.9, i, "adam", 1e-3),
        (0.9, n, "adam", 1e-3),  # no better is no improvement
        (1.5, s, "sgd", 8e-3),
        (0.95, n, "sgd", 8e-3),
        (0.8, i, "sgd", 8e-3),
        (0.9, n, "sgd", 8e-3),
        (float("nan"), h, "sgd", 4e-3),
        (0.81, n, "sgd", 4e-3),
        (0.85, h, "sgd", 2e-3),
        (0.7, i, "sgd", 2e-3),
        (0.71, n, "sgd", 2e-3),
        (0.72, e, "sgd", 2e-3),
    ]
    pipeline = pipeline_of(dynamic_recipe)
    for number, (loss, event, optimizer, peak) in enumerate(script, start=1):
        assert pipeline.observe(loss, 3 * number) is event, number
        assert (pipeline.optimizer_name, pipeline.peak) == (optimizer, pytest.approx(peak)), number
    assert pipeline.state == PipelineState(True, 2, 3 * len(script), 0.7, 0)


def test_state_goes_through_json_and_on(dynamic_recipe: Recipe) -> None:
    whole, losses = pipeline_of(dynamic_recipe), [1.0, 1.1, 1.2, 0.9, 0.95]
    events = [whole.observe(loss, step) for step, loss in enumerate(losses, start=1)]
    state = PipelineState()
    for step, loss in enumerate(losses, start=1):
        pipeline = Pipeline(dynamic_recipe, whole.plan, PipelineState(**asdict(state)))
        assert pipeline.observe(loss, step) is events[step - 1]
        state = pipeline.state
    assert state == whole.state


def test_rate_falls_to_half_and_begins_anew_at_an_event(dynamic_recipe: Recipe) -> None:
    recipe = dynamic_recipe.with_overrides(["dynamic.cycle_epochs=4"])  # 12 steps of 4 of the 12 faces
    pipeline = pipeline_of(recipe)
    rates = [pipeline.rate(step) for step in range(20)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[6] == pytest.approx(0.75e-3)
    assert rates[12:] == [pytest.approx(0.5e-3)] * 8
    assert rates[:13] == sorted(rates[:13], reverse=True)
    for step, loss in ((18, 1.0), (19, 2.0), (20, 2.0)):
        pipeline.observe(loss, step)
    assert pipeline.rate(20) == pytest.approx(8e-3)
    assert pipeline.rate(26) == pytest.approx(6e-3)
    assert pipeline.rate(40) == pytest.approx(4e-3)


def test_cycle_is_the_patience_unless_said_otherwise_and_warms_up(dynamic_recipe: Recipe) -> None:
    assert pipeline_of(dynamic_recipe).rate(6) == pytest.approx(0.5e-3)
    assert pipeline_of(dynamic_recipe.with_overrides(["optim.warmup_epochs=2"])).rate(2) == pytest.approx(
        0.5 * pipeline_of(dynamic_recipe).rate(2)
    )


def test_other_schedules_are_functions_of_the_step(tiny_recipe: Recipe) -> None:
    pipeline = pipeline_of(tiny_recipe)
    assert [pipeline.observe(loss, step) for step, loss in enumerate((1.0, 2.0, 3.0))] == [Event.NOTHING] * 3
    assert pipeline.state == PipelineState()
    assert [pipeline.rate(step) for step in range(6)] == [
        learning_rate(tiny_recipe, pipeline.plan, step) for step in range(6)
    ]


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)]
)
def test_recipe_names_the_optimizer(tiny_recipe: Recipe, name: str, kind: type[torch.optim.Optimizer]) -> None:
    pipeline = pipeline_of(tiny_recipe.with_overrides([f"optim.name={name}", "optim.weight_decay=0.01"]))
    optimizer = pipeline.optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["weight_decay"] == 0.01


SCRIPT = {1: 3.0, 2: 2.0, 3: 2.5, 4: 1.9, 5: 2.2, 6: 2.3, 7: 1.0}
"""With a patience of 1: kept, kept, switch, kept, halve, end."""


@pytest.fixture
def scripted(tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    observe = Pipeline.observe
    monkeypatch.setattr(Pipeline, "observe", lambda self, loss, step: observe(self, SCRIPT[step], step))
    keys = [*DYNAMIC, "dynamic={patience: 1, sgd_lr: 0.02, threshold: 0.01}", "data.eval_every=0.33", "optim.epochs=9"]
    return tiny_recipe.with_overrides([*keys, "optim.ema=null"])


@pytest.mark.slow
def test_training_follows_the_script_and_resumes_across_each_switch(scripted: Recipe, tmp_path: Path) -> None:
    result = train(scripted, [], tmp_path / "whole")
    assert (result.finished, result.step) == (True, 6)
    rates = [record["lr"] for record in RunFolder(tmp_path / "whole").records()]
    assert max(rates[:3]) <= 1e-3
    assert rates[3:5] == [pytest.approx(0.02), pytest.approx(0.01)]  # half a cosine over one validation
    assert rates[5] == pytest.approx(0.01)
    expected = load_file(tmp_path / "whole" / "last.safetensors")
    for stop in (2, 3, 4, 5):
        out = tmp_path / str(stop)
        train(scripted, [], out, stop_after=stop)
        assert train(scripted, [], out, resume=True).step == 6
        weights = load_file(out / "last.safetensors")
        assert all(torch.equal(weights[name], value) for name, value in expected.items()), stop


def test_end_leaves_the_best_weights(scripted: Recipe, tmp_path: Path) -> None:
    train(scripted, [], tmp_path / "four", stop_after=4)
    kept = load_file(tmp_path / "four" / "resume.safetensors")
    train(scripted, [], tmp_path / "four", resume=True)
    last = load_file(tmp_path / "four" / "last.safetensors")
    assert all(torch.equal(last[name], kept[f"model.{name}"]) for name in last)


@pytest.mark.parametrize("batch", [None, 2])
def test_validation_loss_is_that_of_all_images_as_one_batch(tiny_recipe: Recipe, batch: int | None) -> None:
    from fptk.data.synthetic.faces import SyntheticFaces
    from fptk.training.augment import normalized
    from fptk.training.losses import SegmentationLoss

    faces, spec = SyntheticFaces(3, (32, 32)), tiny_recipe.spec
    make_accelerator(tiny_recipe)
    model = make_model(tiny_recipe, None).eval()
    loss = SegmentationLoss(tiny_recipe.loss)
    values, total = score(model, spec, faces, torch.device("cpu"), loss, batch=batch)
    images, masks = (torch.from_numpy(np.stack([faces[i][part] for i in range(3)])) for part in (0, 1))
    with torch.no_grad():
        logits = model(normalized(images, torch.eye(3, 4).repeat(3, 1, 1), spec))
        expected = loss(logits, masks.long()).total
    assert total == pytest.approx(float(expected), rel=1e-5)
    assert set(values) == {"f1", "f1_challenge", "miou", "f1_nobg", "pixel_accuracy"}
