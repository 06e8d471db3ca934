"""Where an engine's time goes: per operator type, and its slowest nodes."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

PROFILED_CALLS = 10
"""Inferences that a profile takes the median of."""


@dataclass(frozen=True)
class NodeTime:
    """What one node of an engine's graph took in one inference."""

    name: str
    type: str
    """Operator type, in the engine's own word."""
    kernel: str
    """Implementation that ran, where the engine tells."""
    milliseconds: float


def median_times(runs: Iterable[Iterable[NodeTime]]) -> list[NodeTime]:
    """Per node the median over several profiled inferences, in the order of the first."""
    nodes: dict[str, tuple[NodeTime, list[float]]] = {}
    for run in runs:
        for node in run:
            nodes.setdefault(node.name, (node, []))[1].append(node.milliseconds)
    return [replace(node, milliseconds=statistics.median(times)) for node, times in nodes.values()]


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
