"""The pages of ``docs/reference`` that list keys, written from the models that fptk checks those keys with.

``python -m fptk.workflows.reference docs/reference`` writes them. What a key means is its attribute docstring, its type
and bounds are those that a value is checked against: a page cannot say anything else than the code does.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from fptk.core.describe import field_docs, plain_text, type_text, value_text
from fptk.core.files import make_folder, write_text
from fptk.export.bundle import MANIFEST, SCHEMA_VERSIONS, Bundle, versions_read
from fptk.export.targets.options import describe_options
from fptk.export.targets.registry import get_target, list_targets
from fptk.recipes import Recipe, list_recipes


def pages() -> dict[str, str]:
    """Every generated page: Markdown by file name."""
    return {"recipe.md": recipe_page(), "fptk-json.md": manifest_page(), "target-options.md": options_page()}


def recipe_page() -> str:
    """The keys of a recipe, section by section."""
    recipes = "\n".join(f"- `{name}`: {text}" for name, text in list_recipes().items())
    tops = {name: field for name, field in Recipe.model_fields.items() if not _sections(field.annotation)}
    parts = [
        "# Recipe keys",
        "A recipe is a YAML file. `fptk train --set KEY=VALUE` changes a key for one run, and `fptk.Recipe.load(NAME, "
        "{KEY: VALUE})` does the same from Python. A recipe may name another one as its `base` and say only what "
        "differs. An unknown key or a value out of bounds is an error before anything starts.",
        _made_by(),
        "## Top level",
        _table(("key", "type", "default", "meaning"), _key_rows(Recipe, "", tops)),
    ]
    for name, field in Recipe.model_fields.items():
        for section in _sections(field.annotation):
            parts += [f"## `{name}`", plain_text(inspect.getdoc(section) or "")]
            parts.append(_table(("key", "type", "default", "meaning"), _section_rows(section, name)))
    return _page([*parts, "## Shipped recipes", recipes])


def manifest_page() -> str:
    """The keys of a bundle's manifest."""
    schema = TypeAdapter(Bundle).json_schema(mode="serialization")
    parts = [
        f"# `{MANIFEST}`, key by key",
        f"Every bundle holds one `{MANIFEST}`. It says what the engine is, how it was made and how it was proven. fptk "
        f"reads schema versions {versions_read()} and writes version {SCHEMA_VERSIONS[-1]}. In Python the same content "
        "is a `Bundle`, which `fptk.build` returns.",
        _made_by(),
    ]
    for model in _models(Bundle):
        definition = schema if model is Bundle else schema["$defs"][model.__name__]
        docs = field_docs(model)
        names = _written_names(model)
        rows = [
            (f"`{names[name]}`", type_text(definition["properties"][names[name]], schema["$defs"]), docs.get(name, ""))
            for name in names
            if names[name] in definition["properties"]
        ]
        parts += [f"## {model.__name__}", plain_text(_summary(model)), _table(("key", "type", "meaning"), rows)]
    return _page(parts)


def options_page() -> str:
    """The options of fptk's own targets."""
    parts = [
        "# Target options",
        "Set an option with `fptk export -o KEY=VALUE`. A key goes to every chosen target that has it; "
        "`-o TARGET.KEY=VALUE` sets it for one. Values are YAML. In Python: `fptk.build(options={TARGET: {KEY: "
        "VALUE}})`. `fptk doctor --options` prints the options of the targets on your machine, those of other packages "
        "included.",
        "The defaults are those with `cpu` left at `any`. Some follow `cpu`: eight-bit weights are the default where "
        "every promised processor adds int8 products without saturating.",
        _made_by(),
    ]
    for name in sorted(list_targets()):
        target = get_target(name)
        if type(target).__module__.startswith("fptk."):
            rows = [(f"`{row.name}`", row.values, row.default, row.meaning) for row in describe_options(target)]
            parts += [f"## `{name}`", _table(("key", "type", "default", "meaning"), rows)]
    return _page(parts)


def _section_rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, ...]]:
    """Rows of a section, those of the sections in it behind them."""
    nested = {name: field for name, field in section.model_fields.items() if _sections(field.annotation)}
    plain = {name: field for name, field in section.model_fields.items() if name not in nested}
    yield from _key_rows(section, f"{prefix}.", plain)
    for name, field in nested.items():
        if isinstance(field.default, tuple):
            yield from _key_rows(section, f"{prefix}.", {name: field})
            name += ".N"
        for inner in _sections(field.annotation):
            yield from _section_rows(inner, f"{prefix}.{name}")


def _key_rows(model: type[BaseModel], prefix: str, fields: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    schema, docs = model.model_json_schema(), field_docs(model)
    for name, field in fields.items():
        text = type_text(schema["properties"][name], {})
        required = field.is_required()
        default = "required" if required else value_text(schema["properties"][name].get("default", {}))
        yield f"`{prefix}{name}`", text, default, docs.get(name, "")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Models that an annotation names, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _sections(part)]


def _models(root: type) -> list[type]:
    """``root`` and every model and dataclass in its fields, in the order in which a reader meets them."""
    found: list[type] = []
    waiting = [root]
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            hints = typing.get_type_hints(model)
            waiting += [inner for name in _fields(model) for inner in _structures(hints[name])]
    return found


def _structures(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        yield annotation
    elif not (isinstance(annotation, type) and issubclass(annotation, Enum)):
        for part in typing.get_args(annotation):
            yield from _structures(part)


def _fields(model: type[Any]) -> list[str]:
    if issubclass(model, BaseModel):
        return list(model.model_fields)
    return [field.name for field in dataclasses.fields(model)]


def _written_names(model: type) -> dict[str, str]:
    """What each field is called in the file."""
    aliases = {}
    if issubclass(model, BaseModel):
        aliases = {name: field.serialization_alias for name, field in model.model_fields.items()}
    return {name: aliases.get(name) or name for name in _fields(model)}


def _summary(model: type) -> str:
    """The first paragraph of a docstring."""
    return (inspect.getdoc(model) or "").partition("\n\n")[0]


def _made_by() -> str:
    return (
        "*Written by `python -m fptk.workflows.reference docs/reference` from the code's own docstrings; change those, "
        "not this page.*"
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _page(parts: Iterable[str]) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages into the folder that is named; the exit code."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m fptk.workflows.reference FOLDER\n")
        return 2
    folder = make_folder(Path(arguments[0]))
    for name, text in pages().items():
        write_text(folder / name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
