"""Steps, phases and learning rates."""

from __future__ import annotations

import pytest

from fptk.recipes import Recipe
from fptk.training.schedule import learning_rate, make_plan


def test_paper_recipe_on_900_faces() -> None:
    recipe = Recipe.load("microsegformer")
    plan = make_plan(recipe, 900)
    assert plan.total_steps == round(80 * 900 / 32)
    rates = [learning_rate(recipe, plan, step) for step in range(plan.total_steps)]
    warm = int(5 * 900 / 32)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[0] == pytest.approx(8e-4 * 32 / 4500)
    assert max(rates) == pytest.approx(8e-4, rel=1e-4)
    assert rates[warm + 1 :] == sorted(rates[warm + 1 :], reverse=True)
    assert 0 < rates[-1] < 1e-8 * 100


def test_middle_of_the_cosine_is_half_the_peak() -> None:
    recipe = Recipe.load("microsegformer").with_overrides(["optim.warmup_epochs=0", "optim.epochs=10"])
    plan = make_plan(recipe, 320)
    assert learning_rate(recipe, plan, 50) == pytest.approx(4e-4)


def test_phases_share_the_images_and_one_schedule() -> None:
    recipe = Recipe.load("microsegformer").with_overrides(
        [
            "data.phases=[{until: 0.5, size: 256, batch: 16}, {until: 1.0, size: 512, batch: 8}]",
            "optim.epochs=4",
            "optim.warmup_epochs=0",
        ]
    )
    plan = make_plan(recipe, 160)
    assert [(phase.size, phase.batch, phase.steps) for phase in plan.phases] == [
        ((256, 256), 16, 20),
        ((512, 512), 8, 40),
    ]
    assert plan.total_images == 640
    assert plan.phase_of(19) is plan.phases[0]
    assert plan.phase_of(20) is plan.phases[1]
    assert learning_rate(recipe, plan, 20) == pytest.approx(4e-4)
    assert [plan.images_before(step + 1) - plan.images_before(step) for step in (18, 19, 20, 59)] == [16, 16, 8, 8]


def test_max_steps_shortens_every_phase_alike() -> None:
    phases = "data.phases=[{until: 0.5, size: 256, batch: 16}, {until: 1.0, size: 512, batch: 8}]"
    recipe = Recipe.load("microsegformer").with_overrides([phases, "optim.max_steps=30"])
    plan = make_plan(recipe, 1000)
    assert [phase.steps for phase in plan.phases] == [10, 20]
    assert learning_rate(recipe, plan, plan.total_steps - 1) < 1e-5


def test_warmup_is_at_most_a_fifth() -> None:
    recipe = Recipe.load("microsegformer").with_overrides(["optim.epochs=1"])
    plan = make_plan(recipe, 320)
    assert learning_rate(recipe, plan, 2) == pytest.approx(8e-4)


def test_tiny_data_set_still_gives_a_step() -> None:
    recipe = Recipe.load("microsegformer").with_overrides(["optim.epochs=1"])
    assert make_plan(recipe, 2).total_steps == 1
