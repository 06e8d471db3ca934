"""What an engine's time is for: products, attention, normalization and so on, with the bytes that each group moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from fptk.benchmarks.places import NORMS, PRODUCTS, Place, moving, places, words
from fptk.benchmarks.profile import NodeTime

Group = Literal[
    "products",
    "attention",
    "normalization",
    "activation",
    "quantization",
    "layout",
    "upsampling",
    "label map",
    "elementwise",
    "other",
]
"""What a node is for. A fused node counts whole, by the first rule of :data:`RULES` that it fits."""

GROUPS: tuple[Group, ...] = get_args(Group)

ATTENTIONS = frozenset({
    "attention", "multiheadattention", "qattention", "groupqueryattention", "mha", "scaleddotproductattention",
    "scaledattn", "scaleddotproductattentionwithkvcache", "softmax", "qlinearsoftmax",
})  # fmt: skip
ACTIVATIONS = frozenset({
    "relu", "gelu", "biasgelu", "fastgelu", "quickgelu", "sigmoid", "hardsigmoid", "tanh", "clip", "clamp", "elu",
    "leakyrelu", "prelu", "hardswish", "hswish", "swish", "silu", "mish", "erf", "softplus", "qlinearsigmoid",
    "qlinearleakyrelu", "hsigmoid",
})  # fmt: skip
QUANTIZERS = frozenset({
    "quantizelinear", "dequantizelinear", "dynamicquantizelinear", "fakequantize", "quantize", "dequantization",
})  # fmt: skip
ELEMENTWISE = frozenset({
    "add", "sub", "subtract", "mul", "multiply", "div", "divide", "neg", "sqrt", "pow", "power", "exp", "abs", "sum",
    "min", "max", "minimum", "maximum", "cast", "convert", "where", "select", "equal", "greater", "less", "not", "or",
    "and", "floor", "mod", "qlinearadd", "qlinearmul", "eltwise", "subgraph", "math", "quickscale",
})  # fmt: skip
LAYOUTS = frozenset({
    "reorder", "reorderinput", "reorderoutput", "transpose", "reshape", "squeeze", "unsqueeze", "flatten", "split",
    "variadicsplit", "concat", "concatenation", "qlinearconcat", "slice", "stridedslice", "pad", "expand", "tile",
    "broadcast", "gather", "gathernd", "depthtospace", "spacetodepth", "identity", "memcpy",
})  # fmt: skip
UPSAMPLINGS = frozenset({"resize", "upsample", "interpolate"})
LABELS = frozenset({"argmax", "topk"})
MEANS = frozenset({
    "reducemean", "reducesum", "reducemax", "globalaveragepool", "averagepool", "avgpool", "maxpool", "nhwcmaxpool",
    "pooling", "reduce", "qlinearglobalaveragepool", "qlinearaveragepool",
})  # fmt: skip


@dataclass(frozen=True)
class _Seen:
    """A node as the rules see it."""

    words: frozenset[str]
    place: Place | None
    inputs: int
    """Number of tensors that it reads and that depend on the image."""


Rule = tuple[Group, Callable[[_Seen], bool]]


def _has(types: frozenset[str]) -> Callable[[_Seen], bool]:
    return lambda seen: bool(seen.words & types)


def _stands(place: Place) -> Callable[[_Seen], bool]:
    return lambda seen: seen.place == place


def _only_quantizes(seen: _Seen) -> bool:
    """A change of type on the way of one tensor, with the arithmetic of scale and zero point."""
    return seen.inputs < 2 and bool(seen.words & QUANTIZERS) and seen.words <= QUANTIZERS | ELEMENTWISE


RULES: tuple[Rule, ...] = (
    ("label map", _stands("label map")),
    ("attention", _stands("attention")),
    ("attention", _has(ATTENTIONS)),
    ("products", _has(PRODUCTS)),
    ("normalization", _has(NORMS)),
    ("normalization", _stands("part of a norm")),
    ("upsampling", _has(UPSAMPLINGS)),
    ("label map", _has(LABELS)),
    ("activation", _has(ACTIVATIONS)),
    ("quantization", _only_quantizes),
    ("layout", _has(LAYOUTS)),
    ("other", _has(MEANS)),
    ("elementwise", _has(ELEMENTWISE)),
    ("other", lambda seen: True),
)
"""Which group a node belongs to: that of the first rule that it fits. A node's words are its type and the types that an
engine fused into it, in lower case; its place is where it stands in the graph (:mod:`fptk.benchmarks.places`)."""


def groups_of(nodes: Sequence[NodeTime], classes: int | None = None) -> dict[str, Group]:
    """Group of every node, by its name.

    Args:
        nodes: every node of an engine, each after those whose tensors it reads.
        classes: number of labels, by which the logits are known; ``None`` leaves the label map to its operators.
    """
    where = places(nodes, classes)
    found: dict[str, Group] = {}
    for node in nodes:
        seen = _Seen(words(node), where.get(node.name), len(moving(node.reads)))
        found[node.name] = next(group for group, fits in RULES if fits(seen))
    return found


@dataclass(frozen=True)
class GroupTime:
    """What the nodes of one group took in one inference."""

    group: Group
    milliseconds: float
    share: float
    """Fraction of all nodes' time."""
    nodes: int
    """How many ran."""
    bytes: int | None
    """Of inputs, weights and outputs of the nodes that ran; ``None`` where the engine doesn't tell all of them."""
    memory_ms: float | None
    """Milliseconds that these bytes take at the memory rate."""


def by_group(nodes: Sequence[NodeTime], groups: dict[str, Group], bytes_per_s: float | None) -> list[GroupTime]:
    """Times and bytes of the groups that have a node that ran, in the order of :data:`GROUPS`.

    Args:
        nodes: nodes of an engine.
        groups: group of each node, by its name.
        bytes_per_s: rate of this machine's memory; ``None`` where it was not measured.
    """
    whole = sum(node.milliseconds for node in nodes if node.ran)
    rows = []
    for group in GROUPS:
        members = [node for node in nodes if node.ran and groups[node.name] == group]
        if not members:
            continue
        milliseconds = sum(node.milliseconds for node in members)
        sizes = [node.bytes for node in members]
        known = [size for size in sizes if size is not None]
        moved = sum(known) if len(known) == len(sizes) else None
        memory_ms = 1e3 * moved / bytes_per_s if moved is not None and bytes_per_s else None
        share = milliseconds / whole if whole else 0.0
        rows.append(GroupTime(group, milliseconds, share, len(members), moved, memory_ms))
    return rows
