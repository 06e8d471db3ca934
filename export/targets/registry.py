"""Finding targets by name, ours and third parties', through the entry-point group ``fptk.targets``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from fptk.core.errors import InputError
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


def resolve_targets(names: Sequence[str]) -> tuple[str, ...]:
    """Check the names of ``--target`` and drop repetitions; ``all`` stands for every target that builds on this host.

    Raises:
        InputError: a name is unknown.
    """
    chosen: dict[str, None] = {}
    for name in names:
        if name == "all":
            chosen.update((known, None) for known in list_targets() if get_target(known).probe().can_build)
        else:
            get_target(name)
            chosen[name] = None
    return tuple(chosen)
