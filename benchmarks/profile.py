"""Where an engine's time goes: its nodes with their times and tensors, per operator type, and the slowest."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

PROFILED_CALLS = 10
"""Inferences that a profile takes the median of."""

VIEWS = frozenset({"reshape", "squeeze", "unsqueeze", "flatten", "identity"})
"""Operators, in lower case, that give memory another shape and move none of it."""


@dataclass(frozen=True)
class Tensor:
    """What a node reads or writes, as the engine computes it."""

    name: str
    """The same name is the same tensor, whoever writes or reads it."""
    dtype: str
    """Type of an element, in the engine's own word."""
    itemsize: int
    """Bytes of an element."""
    shape: tuple[int, ...] | None
    """``None`` where the engine doesn't tell it: a side is open."""
    constant: bool = False
    """Whether it is the same for every image: a weight."""

    @property
    def elements(self) -> int | None:
        """Number of elements; ``None`` where the shape is unknown."""
        return None if self.shape is None else math.prod(self.shape)

    @property
    def bytes(self) -> int | None:
        """Size in memory, without padding; ``None`` where the shape is unknown."""
        return None if self.elements is None else self.elements * self.itemsize


@dataclass(frozen=True)
class NodeTime:
    """What one node of an engine's graph took in one inference."""

    name: str
    type: str
    """Operator type, in the engine's own word."""
    kernel: str
    """Implementation that ran, where the engine tells."""
    milliseconds: float
    reads: tuple[Tensor, ...] = ()
    """Inputs and weights."""
    writes: tuple[Tensor, ...] = ()
    fused: tuple[str, ...] = ()
    """Types of the operators that became this node, where the engine tells."""
    ran: bool = True
    """``False``: the engine needed no work for it. It is listed because it joins others."""

    @property
    def bytes(self) -> int | None:
        """Bytes of inputs, weights and outputs; 0 of a view, ``None`` where the engine doesn't tell."""
        if self.type.lower() in VIEWS:
            return 0
        tensors = {tensor.name: tensor for tensor in (*self.reads, *self.writes)}
        sizes = [tensor.bytes for tensor in tensors.values()]
        known = [size for size in sizes if size is not None]
        return sum(known) if known and len(known) == len(sizes) else None


def median_times(runs: Iterable[Iterable[NodeTime]]) -> list[NodeTime]:
    """Per node the median over several profiled inferences, in the order of the first."""
    nodes: dict[str, tuple[NodeTime, list[float]]] = {}
    for run in runs:
        for node in run:
            nodes.setdefault(node.name, (node, []))[1].append(node.milliseconds)
    return [replace(node, milliseconds=statistics.median(times)) for node, times in nodes.values()]


def by_type(nodes: Sequence[NodeTime]) -> list[tuple[str, float, int]]:
    """(operator type, milliseconds in all, number of nodes that ran), most expensive first."""
    total: dict[str, float] = defaultdict(float)
    count: dict[str, int] = defaultdict(int)
    for node in nodes:
        if node.ran:
            total[node.type] += node.milliseconds
            count[node.type] += 1
    return sorted(((kind, total[kind], count[kind]) for kind in total), key=lambda row: -row[1])


def slowest(nodes: Sequence[NodeTime], count: int = 10) -> list[NodeTime]:
    """The ``count`` nodes that take longest, the slowest first."""
    return sorted((node for node in nodes if node.ran), key=lambda node: -node.milliseconds)[:count]
