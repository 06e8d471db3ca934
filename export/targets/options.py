"""Options of targets as a user writes them: ``-o KEY=VALUE``, checked by each target's own model."""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from fptk.core.errors import InputError
from fptk.export.targets.base import Target
from fptk.export.targets.registry import get_target
from fptk.recipes.yaml_reader import parse_yaml

INTERNAL = frozenset({"name"})
"""Fields of quantizer settings that are no options: what a table calls them."""


def option_names(target: Target) -> tuple[str, ...]:
    """Names of a target's options, in the order in which they are documented."""
    return tuple(sorted(target.options.model_fields.keys() - INTERNAL))


@dataclass(frozen=True)
class OptionRow:
    """One option of a target, as a table shows it."""

    name: str
    values: str
    """Its type, or the words that it takes."""
    default: str
    meaning: str


def describe_options(target: Target) -> list[OptionRow]:
    """The options of a target, in the order of their names."""
    documented = _documentation(target.options)
    rows = []
    for name in option_names(target):
        field = target.options.model_fields[name]
        default = json.dumps(field.get_default(call_default_factory=True), default=str)
        rows.append(OptionRow(name, _type_name(field.annotation), default, documented.get(name, "")))
    return rows


def _type_name(annotation: Any) -> str:
    """A type in the words of YAML."""
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(_type_name(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        parts = dict.fromkeys(_type_name(part) for part in get_args(annotation) if part is not Ellipsis)
        return f"list of {', '.join(parts)}"
    words = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null", Path: "path"}
    return words.get(annotation, str(annotation))


def _documentation(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a model and its bases, on one line."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if not issubclass(base, BaseModel) or base is BaseModel:
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, text in itertools.pairwise(body.body):
            match field, text:
                case (ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words)))):
                    found[name] = " ".join(words.split())
    return found


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
