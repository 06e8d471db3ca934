"""Plain values of recipes: read from YAML, changed key by key, and what is wrong with them said in one line.

Nothing here knows the recipe's sections: where they matter, the caller passes the model.
"""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from fptk.core.errors import InputError
from fptk.core.yaml_reader import parse_yaml, read_text

SUFFIXES = (".yaml", ".yml")


_EXPECTED = {
    "model_type": "expected a section",
    "tuple_type": "expected a list",
    "dict_type": "expected keys and values",
    "too_long": "expected a list of {max_length}",
}
"""What pydantic says in the words of Python, by its type of error, in the words of YAML."""


def shipped(package: str) -> list[str]:
    """Names of the YAML files in a package."""
    folder = resources.files(package)
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(SUFFIXES[0]))


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """What a recipe's file says, its name included, over what its base says; see ``Recipe.load``.

    Args:
        name_or_path: name of a shipped recipe, or a file ending in ``.yaml`` or ``.yml``.

    Raises:
        InputError: there is no such recipe, or it is not YAML with sections.
    """
    source, name = str(name_or_path), _name(name_or_path)
    values = _values(name_or_path)
    if (base := values.pop("base", None)) is not None:
        if not isinstance(base, str):
            raise InputError(f"recipe {source}: key 'base': expected the name or path of a recipe, found {_kind(base)}")
        below = _values(base)
        if "base" in below:
            raise InputError(f"recipe {source}: key 'base': {base} has a base itself; build on {below['base']}")
        values = _merged(below, values)
    return {"name": name, **values}


def _name(name_or_path: str | Path) -> str:
    return Path(name_or_path).stem if _is_path(name_or_path) else str(name_or_path)


def _is_path(name_or_path: str | Path) -> bool:
    return isinstance(name_or_path, Path) or name_or_path.endswith(SUFFIXES) or "/" in name_or_path


def _values(name_or_path: str | Path) -> dict[str, Any]:
    """What stands in a recipe's file.

    Raises:
        InputError: there is no such recipe, or it is no YAML with sections.
    """
    text = str(name_or_path)
    if _is_path(name_or_path):
        return read_sections(read_text(Path(name_or_path), "recipe"), f"recipe {text}")
    names = shipped("fptk.recipes")
    if text not in names:
        raise InputError(
            f"there is no recipe '{_short(text)}'{guess(text, names)}; shipped: {', '.join(names)}; "
            "or give the path of a .yaml file"
        )
    file = resources.files("fptk.recipes").joinpath(f"{text}{SUFFIXES[0]}")
    return read_sections(file.read_text(encoding="utf-8"), f"recipe {text}")


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the keys of ``changes``, section by section."""
    merged = {**base, **changes}
    for section, below in base.items():
        above = changes.get(section)
        if isinstance(below, dict) and isinstance(above, dict):
            merged[section] = {**below, **above}
    return merged


def read_sections(text: str, what: str) -> dict[str, Any]:
    """The sections of a YAML document; ``what`` names it in errors.

    Raises:
        InputError: it is not YAML, or holds no sections.
    """
    values = parse_yaml(text, what)
    if not isinstance(values, dict):
        raise InputError(f"{what}: expected sections such as 'optim:' and 'data:', found {_kind(values)}")
    return values


class Change(NamedTuple):
    """A new value for one key."""

    keys: list[str]
    """The parts of its dotted path."""
    value: Any
    where: str
    """What errors about the key begin with, e.g. ``--set optim.lr``."""
    text: str
    """What errors about the value begin with, e.g. ``--set optim.lr=5e-4``."""


def parse_assignment(assignment: str) -> Change:
    """The change that ``--set KEY=VALUE`` asks for; the value is YAML.

    Raises:
        InputError: there is no ``=``, a part of the path is empty, or the value is not YAML.
    """
    path, equals, text = assignment.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError(f"--set {_short(assignment)!r}: expected key.path=value, e.g. optim.lr=5e-4")
    value = parse_yaml(text, f"--set {_short(path)}")
    return Change(keys, value, f"--set {_short('.'.join(keys))}", f"--set {_short(assignment)}")


def override(path: str, value: Any) -> Change:
    """The change of one key of a mapping: ``path`` is dotted, ``value`` is what a key of that kind takes."""
    return Change(path.split("."), value, f"override {_short(path)}", f"override {_short(f'{path}={value}')}")


def assign(values: dict[str, Any], change: Change, model: type[BaseModel]) -> None:
    """Set ``values[k0][k1]... = value``, following list indices.

    Args:
        values: of a whole ``model``, plain; changed in place.
        change: what to set.
        model: whose keys an unknown one may be mistaken for.

    Raises:
        InputError: the key does not exist.
    """
    node: Any = values
    for depth, key in enumerate(change.keys):
        last = depth == len(change.keys) - 1
        index: Any = key
        if isinstance(node, list) and key in (places := [str(place) for place in range(len(node))]):
            index = places.index(key)
        elif not (isinstance(node, dict) and (key in node or change.keys[:depth] == ["model", "options"])):
            allowed = list(node) if isinstance(node, dict) else []
            raise InputError(f"{change.where}: {_unknown(key, '.'.join(change.keys[:depth]), allowed, model)}")
        if last:
            node[index] = change.value
        else:
            node = node[index] if isinstance(node, list) else node.get(index)


def _unknown(key: str, where: str, allowed: list[str], model: type[BaseModel]) -> str:
    """Say which key is unknown and which exist there; ``a.key`` of another section is the first guess."""
    path = _short(f"{where}.{key}" if where else key)
    if not allowed:
        return f"unknown key '{path}'; '{where}' has no keys"
    near = guess(path, [f"{where}.{name}" if where else name for name in allowed])
    if not near:
        near = guess(key, [], also=[each for each in _all_keys(model) if each.rpartition(".")[2] == key])
    return f"unknown key '{path}'{near}; {f'keys of {where}' if where else 'sections'}: {', '.join(allowed)}"


def guess(text: str, choices: list[str], also: list[str] | None = None) -> str:
    """`` (did you mean '…'?)`` with the nearest choice, or else the first of ``also``; empty if there is neither."""
    close = difflib.get_close_matches(_short(text), choices, n=1, cutoff=0.75) or also or []
    return f" (did you mean '{close[0]}'?)" if close else ""


def _all_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(f"{prefix}{name}")
    return keys


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first of the errors of a ``model``: the key's path, what was found, what is allowed."""
    errors = error.errors(include_url=False)
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])  # a typo explains the rest
    keys = [str(part) for part in first["loc"] if not (isinstance(part, str) and part.startswith(("tuple[", "int")))]
    path = ".".join(keys)
    if first["type"] == "extra_forbidden":
        return _unknown(keys[-1], ".".join(keys[:-1]), _siblings(keys[:-1], model), model)
    if first["type"] == "missing":
        if isinstance(first["loc"][-1], int):
            return f"key '{'.'.join(keys[:-1])}': its list ends before item {first['loc'][-1] + 1}"
        return f"key '{path}' is missing"
    plain = _EXPECTED.get(first["type"])
    message = plain.format(**first.get("ctx", {})) if plain else first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    found = first["input"]
    if isinstance(found, (dict, BaseModel)) or first["type"] == "value_error":
        return f"key '{path}': {message}" if path else message
    return f"key '{path}': {message}, found {_kind(found)}"


def _siblings(keys: list[str], root: type[BaseModel]) -> list[str]:
    """Names of the keys of the section at ``keys`` below ``root``."""
    model: Any = root
    for key in keys:
        if key.isdigit():
            continue
        annotation = model.model_fields[key].annotation
        inner = [each for each in (annotation, *getattr(annotation, "__args__", ())) if isinstance(each, type)]
        model = next((each for each in inner if issubclass(each, BaseModel)), None)
        if model is None:
            return []
    return list(model.model_fields)


def _kind(value: Any) -> str:
    text = {None: "nothing", True: "true", False: "false"}.get(value) if value in (None, True, False) else None
    if text is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        text = repr(value)
    return _short(text)


def _short(text: str) -> str:
    """``text``, cut where it is too long for a message of one line."""
    return text if len(text) <= 60 else f"{text[:57]}..."
