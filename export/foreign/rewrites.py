"""Exact rewrites of a foreign network that need no knowledge of its structure, in numpy on its ONNX graph.

Each takes a :class:`Work`, changes it, and says whether it did. They compute the same function in exact arithmetic; how
far float32 is off is measured on the network at hand (:mod:`fptk.export.foreign.proof`), and one that turns labels
there is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fptk.calibration.onnx_graph import Graph, Node, attribute, infer_types
from fptk.export.foreign.file import Interface
from fptk.export.foreign.nodes import Nodes

if TYPE_CHECKING:
    import onnx

Float64 = npt.NDArray[np.float64]


@dataclass
class Work:
    """A network under rewriting."""

    model: onnx.ModelProto
    interface: Interface

    def copy(self) -> Work:
        """Another of the same content, to be changed on trial."""
        model = type(self.model)()
        model.CopyFrom(self.model)
        return Work(model, self.interface)


def folded_batchnorms(work: Work) -> bool:
    """BatchNorm folded into the convolution before it: s (W x + b - m) + t = (s W) x + (s (b - m) + t)."""
    graph = Graph(work.model)
    removed: set[str] = set()
    for norm in graph.nodes:
        conv = graph.producer.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type not in ("Conv", "ConvTranspose") or not _is_only_reader(graph, conv):
            continue
        values = [graph.constant(name) for name in norm.input[1:5]]
        weights = _weights(graph, conv)
        if weights is None or any(value is None for value in values):
            continue
        weight, bias = weights
        gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
        scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
        _set_weights(graph, conv, _scaled(conv, weight, scale), scale * (bias - mean) + beta)
        conv.output[0] = norm.output[0]
        removed.add(norm.name)
    _finish(graph, work, removed)
    return bool(removed)


def _scaled(conv: Node, weight: Float64, scale: Float64) -> Float64:
    """The weights of a convolution whose output channels are multiplied by ``scale``."""
    if conv.op_type == "Conv":
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = attribute(conv, "group", 1)  # a transposed convolution has (in, out / groups, ...)
    per_input = np.repeat(scale.reshape(groups, -1), len(weight) // groups, axis=0)
    return weight * per_input.reshape(*per_input.shape, *[1] * (weight.ndim - 2))


def classifier_first(work: Work) -> bool:
    """A 1x1 convolution of fewer channels moved before the upsampling in front of it: both are linear, the second
    mixes pixels with weights of sum 1, the first channels."""
    changed = False
    while _move_one(work):
        changed = True
    return changed


def _move_one(work: Work) -> bool:
    graph = Graph(work.model)
    for conv in graph.nodes:
        resize = graph.producer.get(conv.input[0]) if conv.op_type == "Conv" else None
        weights = _pointwise(graph, conv)
        if weights is None or resize is None or resize.op_type != "Resize" or not _is_only_reader(graph, resize):
            continue
        before, after = graph.shape(resize.input[0]), graph.shape(resize.output[0])
        outputs, inputs = weights.shape[:2]
        sides = _upsampled(before, after)
        if sides is None or outputs > inputs or not _mixes_pixels(resize):
            continue
        conv.input[0], full = resize.input[0], conv.output[0]
        conv.output[0] = graph.fresh(f"{full}/coarse")
        resize.input[0], resize.output[0] = conv.output[0], full
        _resize_to(graph, resize, before[0] if before else None, outputs, sides)
        _finish(graph, work)
        return True
    return False


def split_fusion(work: Work) -> bool:
    """A 1x1 convolution of maps side by side, some of them upsampled, as a sum of one convolution of each: what is
    upsampled is convolved before, at its own size. A Linear of the transposed maps is such a convolution."""
    _linears_of_concats(work)
    graph = Graph(work.model)
    for conv in graph.nodes:
        concat = graph.producer.get(conv.input[0]) if conv.op_type == "Conv" else None
        weights = _pointwise(graph, conv)
        if weights is None or concat is None or concat.op_type != "Concat" or not _is_only_reader(graph, concat):
            continue
        if attribute(concat, "axis", 0) not in (1, -3):
            continue
        coarse = {name: node for name in concat.input if (node := _coarse(graph, name, len(weights)))}
        if coarse:
            removed = {conv.name, concat.name, *(node.name for node in coarse.values())}
            _finish(graph, work, removed, _summed(graph, conv, concat, coarse))
            return split_fusion(work) or True
    return False


def _linears_of_concats(work: Work) -> None:
    """Write a Linear of maps side by side, transposed to (N, H, W, C), as a 1x1 convolution and a transposition."""
    graph = Graph(work.model)
    nodes, removed = Nodes(graph, "linear"), set()
    for product in graph.nodes:
        move = graph.producer.get(product.input[0]) if product.op_type == "MatMul" else None
        if move is None or move.op_type != "Transpose" or [*attribute(move, "perm", ())] != [0, 2, 3, 1]:
            continue
        concat, weight = graph.producer.get(move.input[0]), graph.constant(product.input[1])
        if concat is None or concat.op_type != "Concat" or weight is None or weight.ndim != 2:
            continue
        add, bias = _bias_behind(graph, product)
        constants = [weight.T[:, :, None, None].copy(), *([] if bias is None else [bias])]
        maps = nodes.add("Conv", move.input[0], *(value.astype(np.float32) for value in constants))
        nodes.add("Transpose", maps, output=(add or product).output[0], perm=[0, 2, 3, 1])
        removed |= {node.name for node in (product, add) if node is not None}
    if removed:
        _finish(graph, work, removed, nodes.made)


def _bias_behind(graph: Graph, product: Node) -> tuple[Node | None, npt.NDArray[np.generic] | None]:
    """The node that adds a constant vector to a product, and the vector; both ``None`` where there is none."""
    readers = graph.consumers[product.output[0]]
    if not _is_only_reader(graph, product) or readers[0].op_type != "Add":
        return None, None
    bias = graph.constant(_other(readers[0], product))
    return (readers[0], bias) if bias is not None and bias.ndim == 1 else (None, None)


def merged_linears(work: Work) -> bool:
    """A Linear of tokens, and the 1x1 convolution of the maps that they become, as one Linear: both are linear."""
    graph = Graph(work.model)
    for conv in graph.nodes:
        weights = _weights(graph, conv) if _pointwise(graph, conv) is not None else None
        found = _linear_before(graph, conv) if weights is not None else None
        if found is None or weights is None:
            continue
        product, add, moves = found
        inner = np.asarray(graph.constant(product.input[1]), np.float64)  # (in, between)
        outer = weights[0][:, :, 0, 0].T  # (between, out)
        if inner.shape[0] * outer.shape[1] > inner.size + outer.size:
            continue
        shift = np.asarray(graph.constant(_other(add, product)), np.float64) if add else np.zeros(len(outer))
        nodes = Nodes(graph, f"{product.name}/merged")
        name = nodes.add("MatMul", product.input[0], (inner @ outer).astype(np.float32))
        name = nodes.add("Add", name, (shift @ outer + weights[1]).astype(np.float32))
        nodes.add("Identity", _moved(nodes, moves, name, outer.shape[1]), output=conv.output[0])
        removed = {each.name for each in (product, add, conv, *moves) if each is not None}
        _finish(graph, work, removed, nodes.made)
        return merged_linears(work) or True
    return False


def _moved(nodes: Nodes, moves: list[Node], name: str, channels: int) -> str:
    """The result of another number of channels, moved as the Linear's was."""
    for move in moves:
        name = nodes.copy(move, name)
        if move.op_type == "Reshape":
            shape = np.array(nodes.graph.constant(move.input[1]))
            shape[1] = shape[1] if shape[1] <= 0 else channels
            nodes.made[-1].input[1] = nodes.constant(shape)
    return name


def _other(add: Node, product: Node) -> str:
    """What a node adds to a product; the product itself where it doubles it."""
    return str(next((name for name in add.input if name != product.output[0]), product.output[0]))


def _linear_before(graph: Graph, conv: Node) -> tuple[Node, Node | None, list[Node]] | None:
    """The Linear whose result, (N, H, W, C) or (N, H W, C), becomes the maps that a convolution reads: its product, the
    sum with its bias, and the nodes that move the values in between, in their order."""
    moves: list[Node] = []
    node = graph.producer.get(conv.input[0])
    while node is not None and node.op_type in ("Reshape", "Transpose") and _is_only_reader(graph, node):
        moves.insert(0, node)
        node = graph.producer.get(node.input[0])
    if not _channels_first(graph, moves):
        return None
    if node is not None and node.op_type == "MatMul":
        product, add = node, None
    elif node is not None and node.op_type == "Add":
        sources = [graph.producer.get(name) for name in node.input]
        products = [each for each in sources if each is not None and each.op_type == "MatMul"]
        if len(products) != 1 or _bias_behind(graph, products[0])[0] is not node or not _is_only_reader(graph, node):
            return None
        product, add = products[0], node
    else:
        return None
    weight = graph.constant(product.input[1])
    return (
        (product, add, moves) if weight is not None and weight.ndim == 2 and _is_only_reader(graph, product) else None
    )


def _channels_first(graph: Graph, moves: list[Node]) -> bool:
    """Whether these nodes make maps (N, C, H, W) of (N, H, W, C) or of tokens (N, H W, C), and do nothing else."""
    kinds = [node.op_type for node in moves]
    if kinds == ["Transpose"]:
        return [*attribute(moves[0], "perm", ())] == [0, 3, 1, 2]
    if kinds != ["Transpose", "Reshape"] or [*attribute(moves[0], "perm", ())] != [0, 2, 1]:
        return False
    before, after, shape = (
        graph.shape(moves[1].input[0]),
        graph.shape(moves[1].output[0]),
        graph.constant(moves[1].input[1]),
    )
    return bool(
        before and after and shape is not None and len(before) == 3 and len(after) == 4 and before[1] == after[1]
    )


def _coarse(graph: Graph, name: str, outputs: int) -> Node | None:
    """The Resize that makes ``name``, if it upsamples at least ``outputs`` channels for one reader."""
    node = graph.producer.get(name)
    if node is None or node.op_type != "Resize" or not _is_only_reader(graph, node) or not _mixes_pixels(node):
        return None
    before = graph.shape(node.input[0])
    channels = before[1] if before and len(before) == 4 else None
    sides = _upsampled(before, graph.shape(name))
    return node if sides and channels and channels >= outputs else None


def _summed(graph: Graph, conv: Node, concat: Node, coarse: dict[str, Node]) -> list[Node]:
    """What a 1x1 convolution makes of a Concat, the maps of ``coarse`` convolved before their Resize."""
    weights = _weights(graph, conv)
    assert weights is not None
    nodes, first, total = Nodes(graph, conv.name), 0, ""
    bias: list[npt.NDArray[np.float32]] = [weights[1].astype(np.float32)]
    for name in concat.input:
        shape = graph.shape(name) or ()
        channels = shape[1] or 0
        part = weights[0][:, first : first + channels].astype(np.float32)
        first += channels
        resize = coarse.get(name)
        term = nodes.add("Conv", resize.input[0] if resize else name, part, *bias)
        bias = []
        if resize is not None:
            before, after = graph.shape(resize.input[0]), graph.shape(name)
            sides = _upsampled(before, after)
            assert sides is not None
            full = nodes.copy(resize, term)
            _resize_to(graph, nodes.made[-1], before[0] if before else None, len(part), sides)
            term = full
        total = nodes.add("Add", total, term) if total else term
    nodes.add("Identity", total, output=conv.output[0])
    return nodes.made


def _upsampled(
    before: tuple[int | None, ...] | None, after: tuple[int | None, ...] | None
) -> tuple[int, int, int, int] | None:
    """Height and width before a Resize and after it; ``None`` where one is open, or other dimensions are resized."""
    if before is None or after is None or len(before) != 4 or before[:2] != after[:2]:
        return None
    h, w, height, width = *before[2:], *after[2:]
    return None if h is None or w is None or height is None or width is None else (h, w, height, width)


def _resize_to(graph: Graph, resize: Node, batch: int | None, channels: int, sides: tuple[int, int, int, int]) -> None:
    """Let a Resize upsample another number of channels."""
    h, w, height, width = sides
    source = resize.input[0]
    del resize.input[:]
    if batch is None:
        factors = np.array([1, 1, height / h, width / w], np.float32)
        resize.input.extend([source, "", graph.add_constant(f"{resize.name}/factors", factors)])
    else:
        sizes = np.array([batch, channels, height, width], np.int64)
        resize.input.extend([source, "", "", graph.add_constant(f"{resize.name}/sizes", sizes)])


def _pointwise(graph: Graph, node: Node) -> Float64 | None:
    """Weights of a 1x1 convolution with nothing else to it, else ``None``."""
    weights = _weights(graph, node) if node.op_type == "Conv" and attribute(node, "group", 1) == 1 else None
    strides = set(attribute(node, "strides", (1,)))
    if weights is None or weights[0].shape[2:] != (1, 1) or any(attribute(node, "pads", ())) or strides != {1}:
        return None
    return weights[0]


def _mixes_pixels(resize: Node) -> bool:
    """Whether every output pixel is a mean of input pixels, whatever the mode: nothing is invented at the border."""
    crops = attribute(resize, "coordinate_transformation_mode", b"half_pixel") == b"tf_crop_and_resize"
    stretches = attribute(resize, "keep_aspect_ratio_policy", b"stretch") == b"stretch"
    return not crops and stretches and not attribute(resize, "axes", ())


def folded_input(work: Work) -> bool:
    """Order and scale of the color channels folded into the first convolution; only the mean is left in front."""
    interface, graph = work.interface, Graph(work.model)
    readers = graph.consumers[interface.input]
    if interface.pixels != "float32" or interface.layout != "NCHW" or len(readers) != 1:
        return False
    conv = readers[0]
    weights = _weights(graph, conv) if conv.op_type == "Conv" and attribute(conv, "group", 1) == 1 else None
    if weights is None:
        return False
    weight, bias = weights
    std = np.array(interface.std or (1 / 255,) * 3)
    mean = interface.mean or (0.0, 0.0, 0.0)
    if interface.channels == "rgb" and np.allclose(255 * std, 1):
        return False
    in_rgb = weight[:, ::-1] if interface.channels == "bgr" else weight
    _set_weights(graph, conv, in_rgb / (255 * std).reshape(3, 1, 1), bias if len(conv.input) > 2 else None)
    work.interface = replace(interface, channels="rgb", mean=mean, std=(1 / 255,) * 3)
    _finish(graph, work)
    return True


def _weights(graph: Graph, conv: Node) -> tuple[Float64, Float64] | None:
    """Weight and bias of a convolution, float64, a bias that it has not as zeros; ``None`` where one is computed."""
    weight = graph.constant(conv.input[1])
    if weight is None:
        return None
    outputs = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * attribute(conv, "group", 1)
    named = len(conv.input) > 2 and conv.input[2]
    bias = graph.constant(conv.input[2]) if named else np.zeros(outputs)
    return None if bias is None else (weight.astype(np.float64), bias.astype(np.float64))


def _set_weights(graph: Graph, conv: Node, weight: Float64, bias: Float64 | None) -> None:
    """Give a convolution constants of its own: others may share those that it had."""
    values = [weight] if bias is None else [weight, bias]
    names = [
        graph.add_constant(f"{conv.name}/{what}", value.astype(np.float32))
        for what, value in zip(("weight", "bias"), values, strict=False)
    ]
    source = conv.input[0]
    del conv.input[:]
    conv.input.extend([source, *names])


def _is_only_reader(graph: Graph, node: Node) -> bool:
    """Whether one node reads the node's result, and no output of the graph is it."""
    name = node.output[0]
    return len(graph.consumers[name]) == 1 and name not in {value.name for value in graph.model.graph.output}


def _finish(graph: Graph, work: Work, removed: Collection[str] = (), made: Iterable[Node] = ()) -> None:
    """Put in new nodes, leave out the removed ones and what nothing needs any more, and note the new shapes."""
    graph.replace_nodes([*(node for node in graph.nodes if node.name not in removed), *made])
    del work.model.graph.value_info[:]
    infer_types(work.model)


REWRITES: dict[str, tuple[str, Callable[[Work], bool]]] = {
    "folded_batchnorms": ("BatchNorm folded into the convolution before it", folded_batchnorms),
    "split_fusion": ("1x1 convolutions of maps side by side split, so that each is done at its own size", split_fusion),
    "merged_linears": ("Linears merged with the 1x1 convolutions behind them", merged_linears),
    "classifier_first": ("1x1 convolutions of fewer channels before the upsampling in front of them", classifier_first),
    "folded_input": ("order and scale of the color channels folded into the first convolution", folded_input),
}
"""Rewrites of the network itself in the order in which they are tried: what each does, and how."""

LABEL_MAP = "label_map"
"""The rewrite of what stands behind the network."""
