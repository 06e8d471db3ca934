"""The one YAML reader: YAML 1.2's core rules, plain data only, and bounds that no honest file comes near.

``off`` and ``no`` are words, ``5e-4`` is a number, ``010`` is ten and ``08`` is eight (YAML 1.1 read octal numbers). A
key is a word and stands once in its section. Tags (``!!int``) are refused. An alias stands for a copy of its anchor,
and what all of them expand to is counted before anything is built.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from fptk.core.errors import InputError
from fptk.core.files import open_regular, reason_of

MAX_BYTES = 256 * 1024
"""Longest document."""
MAX_DEPTH = 32
"""Deepest nesting of sections and lists."""
MAX_VALUES = 20_000
"""Most keys and values, every alias counted as what it stands for."""
MAX_DIGITS = 40
"""Longest number."""


class _Loader(yaml.SafeLoader):
    """Plain data within the bounds above."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to replace them

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[int] = []
        self._sizes: dict[int, int] = {}
        self._seen = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose one node; refuse it where the document passes a bound."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node is not None and id(node) not in self._sizes:
                raise _refusal(f"the alias *{event.anchor} stands inside its own anchor", event)
            self._count(self._sizes[id(node)], event)
            return node
        if (tag := getattr(event, "tag", None)) is not None:
            shown = tag.replace("tag:yaml.org,2002:", "!!")[:60]
            raise _refusal(f"the tag {shown} is not understood; write the value without a tag", event)
        if len(self._open) >= MAX_DEPTH:
            raise _refusal(f"nested more than {MAX_DEPTH} deep", event)
        before = self._seen
        self._count(1, event)
        self._open.append(1)
        node = super().compose_node(parent, index)
        self._open.pop()
        self._sizes[id(node)] = self._seen - before
        return node

    def _count(self, values: int, event: yaml.Event) -> None:
        self._seen += values
        if self._seen > MAX_VALUES:
            raise _refusal(f"more than {MAX_VALUES} values, aliases counted as what they stand for", event)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A section; its keys are words, whatever they look like."""
        values: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refusal("a key is a word, found a list or a section", key_node)
            key = key_node.value
            if key in values:
                raise _refusal(f"key '{key[:60]}' stands twice", key_node)
            values[key] = self.construct_object(value_node, deep=True)
        return values

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A decimal number: leading zeros mean nothing."""
        if len(node.value) > MAX_DIGITS:
            raise _refusal(f"a number of {len(node.value)} digits; at most {MAX_DIGITS} are read", node)
        return int(node.value)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", "~nN\0"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$", "-+."),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), ["" if letter == "\0" else letter for letter in _first]
    )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refusal(problem: str, place: Any) -> yaml.YAMLError:
    """The error of a problem at the place of an event or a node."""
    return yaml.constructor.ConstructorError(None, None, problem, place.start_mark)


def parse_yaml(text: str, what: str) -> Any:
    """The one value that a YAML text holds; ``what`` names it in errors.

    Raises:
        InputError: it is not YAML, holds tags, or passes a bound.
    """
    if len(text) > MAX_BYTES:
        raise InputError(f"{what} is not valid YAML: {len(text)} characters found, at most {MAX_BYTES} are read")
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{what} is not valid YAML{where}: {problem}") from None


def read_text(path: Path, what: str) -> str:
    """The text of a regular file of at most :data:`MAX_BYTES`; ``what`` says in errors what it is, e.g. ``recipe``.

    Raises:
        InputError: it is missing, no regular file, too long, no UTF-8 text, or may not be read.
    """
    try:
        with open_regular(path) as handle:
            content = handle.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise InputError(f"{what} {path} is longer than {MAX_BYTES} bytes, which no {what} is; check the path")
        return content.decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{what} {path} does not exist") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not a text file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path} cannot be read: {reason_of(error)}; give a YAML file") from None
