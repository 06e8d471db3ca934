"""What a table compares: rows that are recipes, the papers' figures, and the engines that stand beside them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fptk.core.errors import InputError
from fptk.core.yaml_reader import read_text
from fptk.recipes import Recipe
from fptk.recipes.loading import SUFFIXES, guess, read_sections, shipped
from fptk.recipes.schema import check_name

Metric = Literal["f1", "f1_challenge", "f1_nobg", "miou", "pixel_accuracy"]
"""A score that trainings record; ``fptk.core.metrics`` defines them."""

SHIPPED = "fptk.workflows.ablation.tables"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TableRow(_Strict):
    """One line of a table."""

    label: str
    """What the line is called."""
    recipe: str
    """Name of a shipped recipe, or the path of one."""
    paper: dict[Metric, Annotated[float, Field(ge=0.0, le=1.0)]] = Field(default_factory=dict)
    """Scores that the paper reports, as fractions of 1; without those it does not."""


class Table(_Strict):
    """A table of ``fptk ablate``."""

    name: Annotated[str, AfterValidator(check_name)]
    title: str
    heading: str
    """Of the first column."""
    paper: str
    """Under which conditions the papers' figures were had."""
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)]
    """Scores shown; the first one is drawn."""
    engines: tuple[str, ...] = ()
    """Targets for which each row is exported: in FP32 and INT8, and in BF16 where target and processor have it."""
    rows: Annotated[tuple[TableRow, ...], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        recipes = [row.recipe for row in self.rows]
        if len(set(recipes)) < len(recipes):
            raise ValueError("two rows have the same recipe")
        return self


def list_tables() -> list[str]:
    """Names of the shipped tables."""
    return shipped(SHIPPED)


def load_table(name_or_path: str) -> Table:
    """Read a shipped table by its name, or any table by the path of a YAML file.

    Raises:
        InputError: there is no such table, a key or value in it is not allowed, or a recipe of it is not usable.
    """
    if name_or_path.endswith(SUFFIXES):
        path = Path(name_or_path)
        name, text = path.stem, read_text(path, "table")
    else:
        known = list_tables()
        if name_or_path not in known:
            raise InputError(
                f"there is no table '{name_or_path}'{guess(name_or_path, known)}; shipped: {', '.join(known)}; "
                "or give the path of a .yaml file"
            )
        name = name_or_path
        text = resources.files(SHIPPED).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    values = read_sections(text, f"table {name_or_path}")
    try:
        table = Table.model_validate({"name": name, **values})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        key, message = f"key '{where}': " if where else "", first["msg"].removeprefix("Value error, ")
        raise InputError(f"table {name_or_path}: {key}{message[:1].lower()}{message[1:]}") from None
    for row in table.rows:
        Recipe.load(row.recipe)
    return table
