"""Which other files an ONNX file makes its reader open, and what it says about itself: a walk over the protobuf.

No package is needed: a device that runs a bundle has ONNX Runtime but not ``onnx``. Tensors may lie in other files
(``external_data`` of a ``TensorProto``); ONNX Runtime opens these without a word, wherever the names lead.
Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fptk.core.errors import InputError

_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Messages that a tensor can stand in: number of each field that leads there, and the message it holds."""

_METADATA_PROPS = 14
"""Number of the model's field of metadata properties."""
_KEY, _VALUE = 1, 2
"""Numbers of the fields of an entry, of external data and of metadata."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MAX_DEPTH = 100
"""Graphs inside each other, each several messages deep; protobuf's own readers stop there too."""


def external_data(path: Path) -> list[str]:
    """Names of the files that the tensors of the ONNX file ``path`` lie in, as written there; sorted, each once.

    Raises:
        InputError: the file is no protobuf of an ONNX model.
        OSError: it cannot be read.
    """
    try:
        return sorted(set(_locations(memoryview(path.read_bytes()), "model", 0)))
    except ValueError as error:
        raise InputError(f"{path} is no ONNX file: {error}") from error


def metadata_props(path: Path) -> dict[str, str]:
    """Keys and values of the metadata properties of the ONNX file ``path``.

    Raises:
        InputError: the file is no protobuf of an ONNX model.
        OSError: it cannot be read.
    """
    try:
        entries = [
            dict(_messages(entry))
            for number, entry in _messages(memoryview(path.read_bytes()))
            if number == _METADATA_PROPS
        ]
    except ValueError as error:
        raise InputError(f"{path} is no ONNX file: {error}") from error
    return {_text(entry, _KEY): _text(entry, _VALUE) for entry in entries}


def _text(entry: dict[int, memoryview], number: int) -> str:
    return bytes(entry.get(number, b"")).decode("utf-8", "backslashreplace")


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"its messages nest deeper than {_MAX_DEPTH}")
    for number, content in _messages(message):
        child = _FIELDS[kind].get(number)
        if child == "entry":
            pair = dict(_messages(content))
            if _text(pair, _KEY) == "location":
                yield _text(pair, _VALUE)
        elif child:
            yield from _locations(content, child, depth + 1)


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and content of each field of bytes; the others are skipped."""
    return ((number, content) for number, content in fields(message) if not isinstance(content, int))


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and content of each field of bytes, and number and value of each whole number; the others are skipped.

    Raises:
        ValueError: it is no protobuf.
    """
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _BYTES:
            length, at = _varint(message, at)
            if length > len(message) - at:
                raise ValueError("a field is longer than the file")
            yield tag >> 3, message[at : at + length]
            at += length
        elif wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"a field has the unknown wire type {wire}")
    if at > len(message):
        raise ValueError("it ends inside a field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at >= len(message):
            raise ValueError("it ends inside a field")
        byte = message[at]
        at += 1
        value |= (byte & 127) << (7 * place)
        if not byte & 128:
            return value, at
    raise ValueError("a number is too long")
