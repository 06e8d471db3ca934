"""The recipe: all sections together, how one is read and changed, and what differs between two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

from fptk.core.errors import InputError
from fptk.core.preprocess import PreprocessSpec
from fptk.recipes.loading import Change, assign, explain, override, parse_assignment, read_recipe, shipped
from fptk.recipes.schema import (
    AugmentSection,
    BenchSection,
    CheckpointSection,
    DataSection,
    DynamicSection,
    EarlyStopSection,
    ExportSection,
    LossSection,
    MixSection,
    ModelSection,
    NaturalInt,
    OptimSection,
    PrecisionSection,
    PreprocessSection,
    Section,
    check_name,
)


class Recipe(Section):
    """Everything that decides what a training (and ``fptk run``) does.

    ``Recipe.load("microsegformer", {"optim.epochs": 10})`` reads a shipped recipe or a file and changes keys of it.
    """

    name: Annotated[str, AfterValidator(check_name)] = "custom"
    """What run folders and cards call it: the file's stem. A plain file name."""
    description: Annotated[str, Field(max_length=1000)] = ""
    """One sentence for people."""
    seed: NaturalInt = 0
    """Seed of the initial weights, the order of images, augmentation and dropout."""
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    augment: AugmentSection = AugmentSection()
    mix: MixSection = MixSection()
    loss: LossSection = LossSection()
    optim: OptimSection = OptimSection()
    dynamic: DynamicSection = DynamicSection()
    early_stop: EarlyStopSection = EarlyStopSection()
    precision: PrecisionSection = PrecisionSection()
    preprocess: PreprocessSection = PreprocessSection()
    checkpoint: CheckpointSection = CheckpointSection()
    export: ExportSection = ExportSection()
    bench: BenchSection = BenchSection()

    @property
    def spec(self) -> PreprocessSpec:
        """Preprocessing of the trained network at ``data.size``, before anything is measured."""
        return PreprocessSpec(size=self.data.size, mean=self.preprocess.mean, std=self.preprocess.std)

    @classmethod
    def load(cls, name_or_path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """Read a shipped recipe by its name, or any recipe by its path.

        A recipe may name another one as its ``base`` and say only what differs: the keys that a section of it holds
        replace those keys of the base's section, whole. A base has no base.

        Args:
            name_or_path: a name of :func:`list_recipes`, or a file ending in ``.yaml`` or ``.yml``.
            overrides: new values by dotted key, e.g. ``{"optim.epochs": 10, "data.phases.0.size": 128}``.

        Raises:
            InputError: there is no such recipe, it is not YAML, or a key or value in it or in ``overrides`` is not
                allowed.
        """
        recipe = recipe_from(read_recipe(name_or_path), str(name_or_path))
        return recipe._changed([override(path, value) for path, value in (overrides or {}).items()])

    def with_overrides(self, assignments: Sequence[str]) -> Recipe:
        """A copy with ``key.path=value`` assignments applied in order, as ``--set`` takes them; values are YAML.

        Keys that only go together may be set one after the other: what counts is the recipe at the end.

        Raises:
            InputError: an assignment has no ``=``, its key does not exist, or its value is not allowed.
        """
        return self._changed(parse_assignment(each) for each in assignments)

    def _changed(self, changes: Iterable[Change]) -> Recipe:
        recipe, values = self, self.model_dump(mode="json")
        wrong = ""  # since the first change that made it so; a later one may yet complete it
        for change in changes:
            assign(values, change, Recipe)
            try:
                recipe = Recipe.model_validate(values)
            except ValidationError as error:
                wrong = wrong or f"{change.text}: {explain(error, Recipe)}"
            else:
                values, wrong = recipe.model_dump(mode="json"), ""
        if wrong:
            raise InputError(wrong)
        return recipe


def list_recipes() -> dict[str, str]:
    """Names of the shipped recipes, each with its description."""
    return {name: Recipe.load(name).description for name in shipped("fptk.recipes")}


def recipe_from(values: Mapping[str, Any], source: str) -> Recipe:
    """Validate a plain mapping; ``source`` names it in the error.

    Raises:
        InputError: a key or value is not allowed.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise InputError(f"recipe {source}: {explain(error, Recipe)}") from None


def differing_keys(one: Recipe, other: Recipe) -> list[str]:
    """Dotted paths of the keys in which two recipes differ."""
    return list(_differences(one.model_dump(mode="json"), other.model_dump(mode="json"), ""))


def _differences(one: Any, other: Any, prefix: str) -> Iterable[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from _differences(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif one != other:
        yield prefix
