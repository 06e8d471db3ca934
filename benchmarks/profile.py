"""Where an engine's time goes: per operator type, and its slowest nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from fptk.export.targets.base import NodeTime


def by_type(nodes: Sequence[NodeTime]) -> list[tuple[str, float, int]]:
    """(operator type, milliseconds in all, number of nodes), most expensive first."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for node in nodes:
        total[node.type] += node.milliseconds
        count[node.type] += 1
    return sorted(((kind, total[kind], count[kind]) for kind in total), key=lambda row: -row[1])


def slowest(nodes: Sequence[NodeTime], count: int = 10) -> list[NodeTime]:
    """The ``count`` nodes that take longest, the slowest first."""
    return sorted(nodes, key=lambda node: -node.milliseconds)[:count]
