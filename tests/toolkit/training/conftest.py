"""A training small enough to run whole in a second or two."""

from __future__ import annotations

import pytest

from fptk.recipes import Recipe, recipe_from


@pytest.fixture(scope="session")
def tiny_recipe() -> Recipe:
    """6 steps of 4 synthetic faces at 32x32, with everything random switched on."""
    values = {
        "name": "tiny",
        "data": {"size": 32, "batch": 4, "eval_every": 1, "synthetic": {"train": 12, "val": 2, "size": 32}},
        "optim": {"epochs": 2, "warmup_epochs": 0.5, "ema": 0.9, "lr": 2e-3},
        "checkpoint": {"every_steps": 2},
    }
    return recipe_from(values, "tiny")
