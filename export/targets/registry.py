"""Finding targets by name, ours and third parties', through the entry-point group ``fptk.targets``."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points

from fptk.errors import InputError
from fptk.export.targets.base import Target

GROUP = "fptk.targets"


@functools.cache
def _entries() -> dict[str, EntryPoint]:
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in found and entry.value != found[entry.name].value:
            raise InputError(
                f"two packages register the target '{entry.name}': {found[entry.name].value} and {entry.value}; "
                "uninstall one"
            )
        found[entry.name] = entry
    return found


def list_targets() -> list[str]:
    """Names of all targets, in the order of their registration."""
    return list(_entries())


def get_target(name: str) -> Target:
    """The target called ``name``.

    Raises:
        InputError: there is none; the message lists those there are.
    """
    entry = _entries().get(name)
    if entry is None:
        raise InputError(f"unknown target '{name}'; choose from {', '.join(list_targets())}, or all")
    target: Target = entry.load()()
    return target
