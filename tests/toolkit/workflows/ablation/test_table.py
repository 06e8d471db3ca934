"""Tables: the shipped ones name recipes that are what their rows say, and a wrong one is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fptk.core.errors import InputError
from fptk.models import count_parameters, create_model
from fptk.recipes import Recipe, differing_keys
from fptk.workflows.ablation.table import list_tables, load_table

VARIED = {
    "lmsa": {"model.options.lmsa"},
    "flip": {"augment.flip"},
    "focal": {"loss.focal", "loss.focal_alpha"},
    "learning-rate": {"optim.lr"},
    "weighted-loss": {"loss.class_weights"},
    "networks": {"model.name", "model.options.lmsa"},
}
"""What may differ between the recipes of a table, apart from their names and descriptions."""


@pytest.mark.parametrize("name", list_tables())
def test_rows_differ_in_what_the_table_is_about_and_in_nothing_else(name: str) -> None:
    recipes = [Recipe.load(row.recipe) for row in load_table(name).rows]
    found = [set(differing_keys(recipes[0], other)) - {"name", "description"} for other in recipes[1:]]
    assert all(found)
    assert set().union(*found) <= VARIED[name]


@pytest.mark.parametrize("name", list_tables())
def test_every_network_is_within_its_recipes_budget(name: str) -> None:
    for row in load_table(name).rows:
        model = Recipe.load(row.recipe).model
        assert count_parameters(create_model(model.name, **model.options)) <= model.param_budget


def test_networks_are_the_five_of_the_papers() -> None:
    names = {Recipe.load(row.recipe).model.name for row in load_table("networks").rows}
    assert names == {"segformer", "unet", "deeplabv3plus", "fastscnn", "microsegformer"}


HEAD = "title: x\nheading: y\npaper: z\nmetrics: [f1]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: x", "key 'heading'"),
        (HEAD.replace("f1", "f2") + "rows: [{label: a, recipe: demo}]", "key 'metrics.0'"),
        (HEAD + "rows: []", "key 'rows'"),
        (HEAD + "rows: [{label: a, recipe: demoo}]", "did you mean 'demo'?"),
        (HEAD + "rows: [{label: a, recipe: demo, papre: {}}]", "'rows.0.papre'"),
        (HEAD + "rows: [{label: a, recipe: demo}, {label: b, recipe: demo}]", "the same recipe"),
        (HEAD + "rows: [{label: a, recipe: demo, paper: {f1: 68}}]", "rows.0.paper"),
        ("[", "not valid YAML"),
    ],
)
def test_wrong_tables_are_refused_in_one_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "table.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        load_table(str(path))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_table_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"did you mean 'lmsa'\?.*networks"):
        load_table("lmssa")
    with pytest.raises(InputError, match="does not exist"):
        load_table(str(tmp_path / "none.yaml"))
