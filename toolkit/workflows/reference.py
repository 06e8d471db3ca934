"""The pages of ``docs/reference`` that list keys, written from the models that fptk checks those keys with.

``python -m fptk.workflows.reference docs/reference`` writes them. What a key means is its attribute docstring, its type
and bounds are those that a value is checked against: a page cannot say anything else than the code does.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from fptk.core.files import make_folder, write_text
from fptk.export.bundle import MANIFEST, SCHEMA_VERSIONS, Bundle
from fptk.export.targets.base import Target
from fptk.export.targets.options import option_names
from fptk.export.targets.registry import get_target, list_targets
from fptk.recipes import Recipe, list_recipes

Schema = Mapping[str, Any]

_NUMBERS = {"integer": "whole number", "number": "number"}
_WORDS = {"boolean": "`true` or `false`", "null": "`null`"}
_FORMATS = {"date-time": "time, ISO 8601", "path": "path"}
_SHA256 = "^[0-9a-f]{64}$"


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
            parts += [f"## `{name}`", _plain(inspect.getdoc(section) or "")]
            parts.append(_table(("key", "type", "default", "meaning"), _section_rows(section, name)))
    return _page([*parts, "## Shipped recipes", recipes])


def manifest_page() -> str:
    """The keys of a bundle's manifest."""
    schema = TypeAdapter(Bundle).json_schema(mode="serialization")
    versions = " and ".join(map(str, SCHEMA_VERSIONS))
    parts = [
        f"# `{MANIFEST}`, key by key",
        f"Every bundle holds one `{MANIFEST}`. It says what the engine is, how it was made and how it was proven. fptk "
        f"reads schema versions {versions} and writes version {SCHEMA_VERSIONS[-1]}. In Python the same content is a "
        "`Bundle`, which `fptk.build` returns.",
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
        parts += [f"## {model.__name__}", _plain(_summary(model)), _table(("key", "type", "meaning"), rows)]
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
            parts += [f"## `{name}`", _table(("key", "type", "default", "meaning"), _option_rows(target))]
    return _page(parts)


def _option_rows(target: Target) -> Iterator[tuple[str, ...]]:
    """One row for each option, the settings of the quantizer with the values that a default export gives them."""
    schema = target.options.model_json_schema()
    docs = field_docs(target.options)
    defaults = target.options()
    quantizer = getattr(defaults, "quantizer", None)
    for name in option_names(target):
        holder = quantizer if quantizer is not None and hasattr(quantizer, name) else defaults
        default = TypeAdapter(Any).dump_python(getattr(holder, name), mode="json")
        text = type_text(schema["properties"][name], schema.get("$defs", {}))
        yield f"`{name}`", text, _value(default), docs.get(name, "")


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
        default = "required" if required else _value(schema["properties"][name].get("default", {}))
        yield f"`{prefix}{name}`", text, default, docs.get(name, "")


def field_docs(model: type) -> dict[str, str]:
    """The docstring of every field of a model or dataclass, inherited ones included, on one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not base.__module__.startswith("fptk."):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[line.target.id] = _plain(str(below.value.value))
    return found


def type_text(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    """A JSON schema in words, e.g. ``whole number, 1 to 4096, or null``.

    Args:
        schema: of one value.
        definitions: what ``$ref`` leads to; one that is no enumeration becomes a link to its own heading.
    """
    if "$ref" in schema:
        name = str(schema["$ref"]).rpartition("/")[2]
        if name not in definitions:
            return "section, below"
        return (
            type_text(definitions[name], definitions) if "enum" in definitions[name] else f"[{name}](#{name.lower()})"
        )
    if "anyOf" in schema:
        return ", or ".join(type_text(each, definitions) for each in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = [_value(each) for each in schema.get("enum", [schema.get("const")])]
        return " or ".join(filter(None, (", ".join(values[:-1]), values[-1])))
    kind = schema.get("type")
    if kind == "array":
        return _array(schema, definitions)
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object: {type_text(inner, definitions)} by name" if isinstance(inner, Mapping) else "object"
    if kind in _NUMBERS:
        return _NUMBERS[kind] + _bounds(schema)
    if schema.get("pattern") == _SHA256:
        return "SHA-256"
    return _WORDS.get(str(kind)) or _FORMATS.get(str(schema.get("format"))) or ("text" if kind else "any value")


def _array(schema: Schema, definitions: Mapping[str, Schema]) -> str:
    if "prefixItems" not in schema:
        return f"list of {type_text(schema.get('items', {}), definitions)}"
    each = [type_text(item, definitions) for item in schema["prefixItems"]]
    return f"{len(each)} × {each[0]}" if len(set(each)) == 1 else f"[{', '.join(each)}]"


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    return "".join(f", {word} {_number(schema[key])}" for key, word in words.items() if schema.get(key) is not None)


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


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


def _value(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _plain(text: str) -> str:
    """reStructuredText of a docstring as Markdown on one line, about files: ``null`` is what they have for ``None``."""
    one_line = " ".join(text.split())
    without_roles = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", one_line)
    return without_roles.replace("``", "`").replace("`None`", "`null`")


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
