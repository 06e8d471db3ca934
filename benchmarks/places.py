"""Where in the graph a node stands, since its type alone doesn't say what it is for: attention, norm or label map.

Names don't tell: an exported graph has its ``node_add_16``, and a foreign file has whatever its author chose. The way
of the tensors does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

from fptk.benchmarks.profile import NodeTime, Tensor

Place = Literal["label map", "attention", "part of a norm"]

PRODUCTS = frozenset({
    "conv", "convolution", "fusedconv", "nhwcfusedconv", "convtranspose", "deconvolution", "groupconvolution",
    "qlinearconv", "convinteger", "matmul", "fusedmatmul", "qlinearmatmul", "matmulinteger", "matmulintegertofloat",
    "dynamicquantizematmul", "matmulnbits", "gemm", "fusedgemm", "qgemm", "fullyconnected",
    "fullyconnectedcompressed", "fullyconnectedquantized", "fullyconnectedquantizedlegacy",
})  # fmt: skip
"""Types, in lower case, of convolutions and matrix products, with whatever an engine fused into them."""

NORMS = frozenset({
    "layernormalization", "skiplayernormalization", "simplifiedlayernormalization",
    "skipsimplifiedlayernormalization", "batchnormalization", "batchnorminference", "instancenormalization",
    "groupnormalization", "groupnorm", "skipgroupnorm", "lpnormalization", "mvn", "normalizel2", "rms", "rmsnorm",
})  # fmt: skip
"""Types, in lower case, of normalizations."""

AFFINE = frozenset({"mul", "multiply", "add"})
DIFFERENCES = frozenset({"sub", "subtract"})
COPIES = frozenset({"reorder", "reorderinput", "reorderoutput", "transpose", "reshape"})

FLOATS = ("f", "bf", "d")
"""How the engines' words for float types begin: f32, float, bfloat16, double."""


def words(node: NodeTime) -> frozenset[str]:
    """Types of a node and of what was fused into it, in lower case."""
    return frozenset(word.lower() for word in (node.type, *node.fused))


def moving(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Those that depend on the image."""
    return [tensor for tensor in tensors if not tensor.constant]


class _Ways:
    """Who writes and who reads each tensor, as positions in the order of computation."""

    def __init__(self, nodes: Sequence[NodeTime]) -> None:
        self.nodes = nodes
        self.writer: dict[str, int] = {}
        self.readers: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(nodes):
            for tensor in moving(node.reads):
                self.readers[tensor.name].append(index)
            self.writer |= {tensor.name: index for tensor in node.writes}

    def before(self, index: int) -> Iterator[tuple[Tensor, int]]:
        """Tensors that a node reads, and who writes them."""
        for tensor in moving(self.nodes[index].reads):
            if tensor.name in self.writer:
                yield tensor, self.writer[tensor.name]

    def after(self, index: int) -> Iterator[tuple[Tensor, int]]:
        """Tensors that a node writes, and who reads them."""
        for tensor in self.nodes[index].writes:
            for reader in self.readers.get(tensor.name, ()):
                yield tensor, reader

    def original(self, index: int) -> int:
        """The node whose result a node copies, through any number of copies; a node that copies nothing is its own."""
        while words(self.nodes[index]) & COPIES and len(sources := [*self.before(index)]) == 1:
            ((_, index),) = sources
        return index


def places(nodes: Sequence[NodeTime], classes: int | None = None) -> dict[str, Place]:
    """Places of the nodes, by name; a node that stands in none is left out.

    Args:
        nodes: every node of the graph, each after those whose tensors it reads.
        classes: number of labels; ``None`` finds no label map.
    """
    ways = _Ways(nodes)
    found: dict[int, Place] = dict.fromkeys(_parts_of_norms(ways), "part of a norm")
    found |= dict.fromkeys(_attentions(ways), "attention")
    if classes is not None:
        found |= dict.fromkeys(_label_map(ways, classes), "label map")
    return {nodes[index].name: place for index, place in found.items()}


def _parts_of_norms(ways: _Ways) -> set[int]:
    """What an engine left outside of a normalization: the mean and its subtraction before, scale and shift after."""
    found: set[int] = set()
    for index, node in enumerate(ways.nodes):
        sources = dict(ways.before(index))
        if words(node) & NORMS:
            found |= {each for source in sources.values() for each in _centering(ways, source)}
        elif words(node) & AFFINE and not words(node) & PRODUCTS and len(moving(node.reads)) == 1:
            found |= {index for source in sources.values() if words(ways.nodes[source]) & NORMS}
    return found


def _centering(ways: _Ways, index: int) -> set[int]:
    """A subtraction and the mean that it subtracts, where the mean is of the tensor that it is subtracted from."""
    index = ways.original(index)
    if not words(ways.nodes[index]) & DIFFERENCES:
        return set()
    sources = {ways.original(source) for _, source in ways.before(index)}
    means = {source for source in sources if "reducemean" in words(ways.nodes[source])}
    averaged = {ways.original(source) for mean in means for _, source in ways.before(mean)}
    return {index, *means} if averaged & sources else set()


def _attentions(ways: _Ways) -> set[int]:
    """Each softmax with the product before it, the product after it, and what stands between on tensors of its size."""
    found: set[int] = set()
    for index, node in enumerate(ways.nodes):
        sizes = {tensor.elements for tensor in node.writes}
        if not any("softmax" in word for word in words(node)) or len(sizes) != 1:
            continue
        (size,) = sizes
        before = _to_product(ways, index, size, forward=False) if size else None
        after = _to_product(ways, index, size, forward=True) if size else None
        if before and after:
            found |= {index} | before | after
    return found


def _to_product(ways: _Ways, start: int, size: int | None, *, forward: bool) -> set[int] | None:
    """Nodes from a softmax to the next product of two tensors of the image; ``None`` where there is none."""
    passed: set[int] = set()
    waiting, reached = [start], False
    while waiting:
        index = waiting.pop()
        for tensor, other in ways.after(index) if forward else ways.before(index):
            if tensor.elements != size or other in passed:
                continue
            passed.add(other)
            if not words(ways.nodes[other]) & PRODUCTS:
                waiting.append(other)
            elif len(moving(ways.nodes[other].reads)) < 2:
                return None
            else:
                reached = True
    return passed if reached else None


def _label_map(ways: _Ways, classes: int) -> set[int]:
    """Everything from the logits to the labels.

    The logits are a float tensor that every way from the image to the labels leads through, with a side of ``classes``:
    the last such tensor, or where several follow each other, the first of them. So a resize of the logits belongs to
    the label map.
    """
    logits, follows = None, False
    for index, tensor in _narrows(ways):
        fits = tensor.shape is not None and classes in tensor.shape and tensor.dtype.lower().startswith(FLOATS)
        if fits and not follows:
            logits = index
        follows = fits
    return set() if logits is None else set(range(logits + 1, len(ways.nodes)))


def _narrows(ways: _Ways) -> Iterator[tuple[int, Tensor]]:
    """Tensors that every way from the image to the labels leads through, each with its writer."""
    ends: dict[int, int] = defaultdict(int)
    last = {name: max(readers) for name, readers in ways.readers.items()}
    # The image itself has no writer in some engines: it is there from the start.
    unwritten = [name for name in last if name not in ways.writer]
    for name in unwritten:
        ends[last[name]] += 1
    alive = len(unwritten)
    for index, node in enumerate(ways.nodes):
        alive -= ends[index]
        written = [tensor for tensor in moving(node.writes) if tensor.name in last]
        if alive == 0 and len(written) == 1:
            yield index, written[0]
        for tensor in written:
            ends[last[tensor.name]] += 1
        alive += len(written)
