"""``classes.yaml``: what the masks of a data set hold, stated at its root.

Either a list that ships::

    classes: lapa
    ignore: 255

or a list of one's own, in index order::

    classes:
      - background
      - {name: hair, color: "#1b9e77", value: 255}
    ignore: null
    flip: [[l_eye, r_eye]]

``value`` (or ``values``) is what a mask file's pixel holds where that isn't the index. ``color`` is an RGB colour, as
``#rrggbb`` or three numbers. ``flip`` are the pairs that a mirror exchanges; left out, they are found by name
(:func:`pairs_by_name`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fptk.core.classes import CELEBAMASK, IGNORE, KNOWN, ClassSet
from fptk.core.errors import InputError
from fptk.core.files import kind_of
from fptk.core.yaml_reader import parse_yaml, read_text
from fptk.data.lists import SPLITS

CLASS_FILE = "classes.yaml"

_WHAT = "class list"
_KEYS = ("classes", "ignore", "flip")
_CLASS_KEYS = ("name", "color", "value", "values")
_YAML_WORDS = ("true", "false", "null")
_SIDES = tuple((f"{left}{mark}", f"{right}{mark}") for left, right in (("l", "r"), ("left", "right")) for mark in "_- ")
"""How names of left and right parts begin; turned round, ``_l`` and ``_r``, how they end."""


def class_set_of(data: Path) -> ClassSet:
    """The class list of a data set: its ``classes.yaml``, or CelebAMask-HQ's 19 where it has none.

    Args:
        data: data set root, one of its splits, or a list of pairs.

    Raises:
        InputError: the file is damaged.
    """
    root = data.parent if kind_of(data, "data set") == "file" else data
    folders = [root, root.resolve().parent] if root.resolve().name in SPLITS else [root]
    for folder in folders:
        path = folder / CLASS_FILE
        if kind_of(path, _WHAT) is not None:
            return read_class_file(path)
    return CELEBAMASK


def read_class_file(path: Path) -> ClassSet:
    """The class list of a file; see the head of this module.

    Raises:
        InputError: it cannot be read, or does not hold such a list.
    """
    what = f"{_WHAT} {path}"
    value = parse_yaml(read_text(path, _WHAT), what)
    if not isinstance(value, dict) or "classes" not in value:
        raise InputError(f"{what} has no key 'classes'; give it a list of names, or one of: {', '.join(KNOWN)}")
    for key in value:
        if key not in _KEYS:
            raise InputError(f"{what} has the key '{key[:60]}'; its keys are {', '.join(_KEYS)}")
    try:
        fields = _shipped(value["classes"]) if isinstance(value["classes"], str) else _own(value["classes"])
        if "ignore" in value:
            fields["ignore"] = value["ignore"]
        if "flip" in value:
            fields["swap_pairs"] = _pairs(value["flip"], fields["names"])
        return ClassSet.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = " ".join(str(first["msg"]).removeprefix("Value error, ").split())
        raise InputError(f"{what}: {f'{where}: ' if where else ''}{message}") from error
    except ValueError as error:
        raise InputError(f"{what}: {error}") from error


def _shipped(name: str) -> dict[str, Any]:
    if name not in KNOWN:
        raise ValueError(f"'{name[:60]}' is no list that ships; choose one of {', '.join(KNOWN)}, or write a list")
    fields = KNOWN[name].model_dump()
    return fields | {"ignore": fields["ignore"] if fields["ignore"] is None else IGNORE}


def _own(entries: Any) -> dict[str, Any]:
    if not isinstance(entries, list) or not entries:
        raise ValueError("classes is no list; write one name a line, each after a '- '")
    names: list[str] = []
    colors: dict[int, Any] = {}
    values: list[tuple[Any, int]] = []
    stated = False
    for label, entry in enumerate(entries):
        given = entry if isinstance(entry, dict) else {"name": entry}
        for key in given:
            if key not in _CLASS_KEYS:
                raise ValueError(f"class {label} has the key '{key[:60]}'; its keys are {', '.join(_CLASS_KEYS)}")
        name = given.get("name")
        if not isinstance(name, str):
            raise ValueError(f"class {label} has no name; write a name in its line, or name: NAME")
        names.append(name)
        if "color" in given:
            colors[label] = _color(label, given["color"])
        stated = stated or "value" in given or "values" in given
        values += [(value, label) for value in _values(label, given)]
    if colors and len(colors) < len(names):
        lacking = next(name for label, name in enumerate(names) if label not in colors)
        raise ValueError(f"class '{lacking}' has no color, and others have; give all a color or none")
    fields: dict[str, Any] = {"names": names, "swap_pairs": pairs_by_name(names)}
    if colors:
        fields["palette"] = [colors[label] for label in range(len(names))]
    return fields | ({"values": values, "ignore": None if 255 in dict(values) else IGNORE} if stated else {})


def _values(label: int, given: dict[str, Any]) -> list[Any]:
    values = given.get("values", given.get("value", label))
    listed = values if isinstance(values, list) else [values]
    if not listed or any(type(value) is not int for value in listed):
        raise ValueError(f"class {label} has the value {str(values)[:60]}; give a whole number, or a list of them")
    return listed


def _color(label: int, color: Any) -> tuple[int, ...]:
    if isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color):
        return tuple(bytes.fromhex(color[1:]))
    if isinstance(color, list) and len(color) == 3 and all(type(each) is int for each in color):
        return tuple(color)
    raise ValueError(f'class {label} has the color {str(color)[:60]}; write "#rrggbb" or [R, G, B]')


def _pairs(flip: Any, names: list[str]) -> list[tuple[int, int]]:
    pairs = []
    for pair in flip if isinstance(flip, list) else [flip]:
        if not isinstance(pair, list) or len(pair) != 2 or any(name not in names for name in pair):
            raise ValueError(f"flip holds {str(pair)[:60]}; write pairs of class names, e.g. [[l_eye, r_eye]], or []")
        pairs.append((names.index(pair[0]), names.index(pair[1])))
    return pairs


def pairs_by_name(names: list[str]) -> list[tuple[int, int]]:
    """Pairs of classes whose names differ in their side alone: ``l_eye`` and ``r_eye``, ``eye_left`` and ..."""
    lowered = [name.lower() for name in names]
    pairs = []
    for label, name in enumerate(lowered):
        for left, right in _SIDES:
            mark = left[-1]
            ends = (mark + left[:-1], mark + right[:-1])
            others = [right + name.removeprefix(left)] if name.startswith(left) else []
            others += [name.removesuffix(ends[0]) + ends[1]] if name.endswith(ends[0]) else []
            pairs += [(label, lowered.index(other)) for other in others if other in lowered]
    return pairs


def class_file_text(classes: ClassSet, comments: dict[int, str] | None = None) -> str:
    """The text of a ``classes.yaml`` that :func:`read_class_file` reads as ``classes``.

    Args:
        classes: the list.
        comments: by class, what stands behind its line.
    """
    values: dict[int, list[int]] = {}
    for value, label in classes.values:
        values.setdefault(label, []).append(value)
    lines = ["classes:"]
    for label, (name, color) in enumerate(zip(classes.names, classes.palette, strict=True)):
        parts = [f"name: {_quoted(name)}", f'color: "#{bytes(color).hex()}"']
        if classes.values:
            own = values.get(label, [])
            parts.append(f"value: {own[0]}" if len(own) == 1 else f"values: {own}")
        comment = (comments or {}).get(label)
        lines.append(f"  - {{{', '.join(parts)}}}{f'  # {comment}' if comment else ''}")
    lines.append(f"ignore: {'null' if classes.ignore is None else classes.ignore}")
    if list(classes.swap_pairs) == pairs_by_name(list(classes.names)):
        return "\n".join([*lines, ""])
    pairs = [f"[{_quoted(classes.names[left])}, {_quoted(classes.names[right])}]" for left, right in classes.swap_pairs]
    return "\n".join([*lines, f"flip: [{', '.join(pairs)}]", ""])


def _quoted(name: str) -> str:
    """A name as YAML reads it back: quoted unless it is a plain word."""
    return name if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name) and name.lower() not in _YAML_WORDS else json.dumps(name)
