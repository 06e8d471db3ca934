"""Models in words: what each field is for, which values it takes, and what it is where nobody sets it.

The words are Markdown: values and names in backticks.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_NUMBERS = {"integer": "whole number", "number": "number"}
_WORDS = {"boolean": "`true` or `false`", "null": "`null`"}
_FORMATS = {"date-time": "time, ISO 8601", "path": "path"}
_SHA256 = "^[0-9a-f]{64}$"


def field_docs(model: type) -> dict[str, str]:
    """The docstring of every field of a model or dataclass, inherited ones included, on one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base.__module__.partition(".")[0] in ("builtins", "pydantic"):
            continue
        try:
            source = inspect.getsource(base)
        except (OSError, TypeError):  # a class that was made at run time has none
            continue
        tree = ast.parse(textwrap.dedent(source)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for line, below in zip(tree.body, tree.body[1:], strict=False):
            if not (isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)):
                continue
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[line.target.id] = plain_text(str(below.value.value))
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
        values = [value_text(each) for each in schema.get("enum", [schema.get("const")])]
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


def value_text(value: Any) -> str:
    """A value as JSON has it."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def plain_text(text: str) -> str:
    """reStructuredText of a docstring as Markdown on one line, about files: ``null`` is what they have for ``None``."""
    one_line = " ".join(text.split())
    without_roles = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", one_line)
    return without_roles.replace("``", "`").replace("`None`", "`null`")
