"""What an engine's file says about itself, and its comparison with the manifest beside it.

A hash in ``fptk.json`` proves that a file is the one that the manifest means. It does not prove that the manifest was
left alone: who changes both makes them agree. So an ONNX file says in ``metadata_props``, and an OpenVINO file in
``rt_info`` (``framework``), which weights it holds, what its labels mean and what its images went through. Files are
read without the engine's package, and before the engine loads them. Files of before fptk wrote this say nothing: their
labels are those of CelebAMask-HQ, and the rest is not compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from fptk.core.classes import CELEBAMASK
from fptk.core.errors import InputError
from fptk.core.files import open_regular
from fptk.core.preprocess import PreprocessSpec
from fptk.core.version import __version__
from fptk.export.onnx_external import metadata_props

PREFIX = "fptk."
"""Start of every key."""

_SPEAKING = (".onnx", ".xml")
"""Files that can say something about themselves."""


@dataclass(frozen=True)
class Identity:
    """Which network an engine computes, and what its images and labels mean."""

    model: str
    """Name of the network in the registry."""
    graph: str
    """``deploy`` or ``original``."""
    checkpoint_sha256: str
    """Hash of the file that the weights came from."""
    preprocess: PreprocessSpec
    classes: tuple[str, ...] = CELEBAMASK.names
    palette: tuple[tuple[int, ...], ...] = CELEBAMASK.palette


def metadata_of(identity: Identity) -> dict[str, str]:
    """What the file of a new engine says about itself, by key."""
    return {
        "fptk.version": __version__,
        "fptk.model": identity.model,
        "fptk.graph": identity.graph,
        "fptk.checkpoint_sha256": identity.checkpoint_sha256,
        "fptk.classes": json.dumps(identity.classes),
        "fptk.palette": json.dumps(identity.palette),
        "fptk.preprocess": identity.preprocess.model_dump_json(),
        "fptk.preprocess_sha256": identity.preprocess.sha256,
    }


def read_metadata(path: Path) -> dict[str, str]:
    """The entries of fptk in an ONNX (``.onnx``) or OpenVINO (``.xml``) file; none of a file of another suffix.

    Raises:
        InputError: the file is damaged.
        OSError: it cannot be read.
    """
    if path.suffix == ".onnx":
        entries = metadata_props(path)
    elif path.suffix == ".xml":
        entries = _rt_info(path)
    else:
        entries = {}
    return {key: value for key, value in entries.items() if key.startswith(PREFIX)}


def _rt_info(path: Path) -> dict[str, str]:
    """The entries that OpenVINO took over from the metadata properties of the ONNX file that it converted."""
    try:
        with open_regular(path) as handle:
            found = ElementTree.parse(handle).getroot().find("rt_info/framework")
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: of unknown encodings
        raise InputError(f"{path} is no XML file: {error}; export the bundle again") from error
    return {} if found is None else {entry.tag: entry.get("value", "") for entry in found}


def check_metadata(path: Path, expected: Identity) -> None:
    """Compare what the file of an engine says about itself with what the manifest says.

    Args:
        path: the engine.
        expected: the manifest's.

    Raises:
        InputError: they differ, or the file is damaged.
        OSError: the file cannot be read.
    """
    found = read_metadata(path)
    for field in fields(Identity):
        text = found.get(PREFIX + field.name)
        if text is not None:
            value = _value(path, field.name, _READ.get(field.name, str), text)
            _compare(path, field.name, value, getattr(expected, field.name))
    if path.suffix in _SPEAKING and f"{PREFIX}classes" not in found:
        # It is of before fptk wrote this, when there was one list.
        _compare(path, "classes", CELEBAMASK.names, tuple(expected.classes))


def _value(path: Path, key: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path} holds a damaged entry {PREFIX}{key}; export the bundle again") from error


def _names(text: str) -> tuple[str, ...]:
    return tuple(map(str, json.loads(text)))


def _colors(text: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(map(int, color)) for color in json.loads(text))


_READ: dict[str, Callable[[str], Any]] = {
    "preprocess": PreprocessSpec.model_validate_json,
    "classes": _names,
    "palette": _colors,
}
"""How an entry is parsed; the others are plain text."""


def _compare(path: Path, key: str, ours: Any, theirs: Any) -> None:
    if ours == theirs:
        return
    where, ours, theirs = _first_difference(key, ours, theirs)
    raise InputError(
        f"{path} says of itself that its {where} is {_short(ours)}, fptk.json says {_short(theirs)}: one of them is of "
        "another bundle or was changed; export the bundle again"
    )


def _first_difference(key: str, ours: Any, theirs: Any) -> tuple[str, Any, Any]:
    """Where two values differ first, and the two parts there."""
    if isinstance(ours, PreprocessSpec):
        for field in PreprocessSpec.model_fields:
            if getattr(ours, field) != getattr(theirs, field):
                return f"{key}.{field}", getattr(ours, field), getattr(theirs, field)
    if isinstance(ours, tuple) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            if one != other:
                return f"{key}[{index}]", one, other
    return key, ours, theirs


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
