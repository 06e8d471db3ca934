"""Options of targets as a user writes them: ``-o KEY=VALUE``, checked by each target's own model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fptk.core.describe import field_docs, type_text, value_text
from fptk.core.errors import InputError
from fptk.core.yaml_reader import parse_yaml
from fptk.export.targets.base import Target
from fptk.export.targets.registry import get_target

INTERNAL = frozenset({"name"})
"""Fields of quantizer settings that are no options: what a table calls them."""


def option_names(target: Target) -> tuple[str, ...]:
    """Names of a target's options, in the order in which they are documented."""
    return tuple(sorted(target.options.model_fields.keys() - INTERNAL))


@dataclass(frozen=True)
class OptionRow:
    """One option of a target, as a table shows it: Markdown, with values in backticks."""

    name: str
    values: str
    """Its type and bounds, or the words that it takes."""
    default: str
    meaning: str


def describe_options(target: Target) -> list[OptionRow]:
    """The options of a target, in the order of their names.

    The default of a quantizer's setting is what an export takes: it may follow other options.
    """
    schema, docs = target.options.model_json_schema(), field_docs(target.options)
    defaults = target.options()
    quantizer = getattr(defaults, "quantizer", None)
    rows = []
    for name in option_names(target):
        holder = quantizer if quantizer is not None and hasattr(quantizer, name) else defaults
        default = TypeAdapter(Any).dump_python(getattr(holder, name), mode="json")
        values = type_text(schema["properties"][name], schema.get("$defs", {}))
        rows.append(OptionRow(name, values, value_text(default), docs.get(name, "")))
    return rows


def read_options(targets: Sequence[str], assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Sort ``KEY=VALUE`` assignments by the targets that they are for.

    A key goes to every chosen target that has such an option. ``TARGET.KEY=VALUE`` is for one of them. Values are YAML:
    numbers, words, ``true`` and ``false``, ``null``, lists in brackets.

    Returns:
        By target: its options, as :attr:`fptk.export.plan.ExportPlan.options` takes them.

    Raises:
        InputError: no ``=``, a key that no chosen target has, or a value that its target does not take.
    """
    chosen = {name: get_target(name) for name in targets}
    found: dict[str, dict[str, Any]] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        key = key.strip()
        if not equals or not key:
            raise InputError(f"-o {assignment[:60]}: expected KEY=VALUE, e.g. cpu=vnni")
        value = parse_yaml(text, f"-o {key[:60]}")
        prefix, dot, rest = key.partition(".")
        takers = [chosen[prefix]] if dot and prefix in chosen else list(chosen.values())
        field = rest if dot and prefix in chosen else key
        takers = [target for target in takers if field in option_names(target)]
        if not takers:
            raise InputError(f"-o {key[:60]}: {_unknown(field, list(chosen.values()))}")
        for target in takers:
            found.setdefault(target.name, {})[field] = value
    for name, options in found.items():
        check_options(chosen[name], options)
    return found


def check_options(target: Target, options: dict[str, Any]) -> None:
    """Check what was set for one target.

    Raises:
        InputError: an option is unknown or its value not allowed; the message names it.
    """
    unknown = next((key for key in options if key not in option_names(target)), None)
    if unknown is not None:
        raise InputError(f"option {unknown[:60]}: {_unknown(unknown, [target])}")
    try:
        target.options.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = str(first["loc"][0]) if first["loc"] else ""
        message = str(first["msg"]).removeprefix("Value error, ")
        shown = str(options.get(key))[:60]
        raise InputError(f"-o {key}={shown}: target {target.name}: {message[:1].lower()}{message[1:]}") from None


def _unknown(key: str, targets: Sequence[Target]) -> str:
    names = {target.name: option_names(target) for target in targets}
    near = difflib.get_close_matches(key, {each for known in names.values() for each in known}, n=1)
    if near:
        return f"no chosen target has this option; did you mean {near[0]}?"
    have = "; ".join(f"{name} has {', '.join(known) or 'none'}" for name, known in names.items())
    return f"no chosen target has this option: {have}"
