"""Groups of an engine's nodes: by type, by what was fused and by where they stand, on drawn graphs and real engines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fptk.benchmarks.groups import GROUPS, Group, by_group, groups_of
from fptk.benchmarks.profile import NodeTime, Tensor
from fptk.core.cpu import has_bf16
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets.base import BuildRequest, CalibrationStream
from fptk.export.targets.registry import get_target

SPEC = PreprocessSpec(size=(64, 64))
CLASSES = 19
"""CelebAMask-HQ's; no other side of these graphs is as long."""

WEIGHT = Tensor("weight", "float", 4, (8, 8), constant=True)


def tensor(name: str, *shape: int, dtype: str = "float") -> Tensor:
    return Tensor(name, dtype, {"float": 4, "uint8": 1}[dtype], shape)


def node(kind: str, reads: tuple[Tensor, ...], written: Tensor, *fused: str, ms: float = 1.0) -> NodeTime:
    return NodeTime(f"makes_{written.name}", kind, "", ms, reads, (written,), fused)


def found(nodes: list[NodeTime], classes: int | None = CLASSES) -> dict[str, Group]:
    """Group by the tensor that a node writes."""
    return {name.removeprefix("makes_"): group for name, group in groups_of(nodes, classes).items()}


def attention() -> list[NodeTime]:
    """Scores of 64 queries on 16 keys, as ONNX Runtime runs them."""
    q, k, v = tensor("q", 1, 64, 8), tensor("k", 1, 16, 8), tensor("v", 1, 16, 8)
    scores, masked, weights = (tensor(name, 1, 64, 16) for name in ("scores", "masked", "weights"))
    mask = tensor("mask", 1, 1, 16)
    return [
        node("Gemm", (tensor("pixels", 64, 8), WEIGHT), q),
        node("Gemm", (q, WEIGHT), k),
        node("Gemm", (q, WEIGHT), v),
        node("Transpose", (k,), mask),
        node("FusedMatMul", (q, k), scores),
        node("Add", (scores, mask), masked),
        node("Softmax", (masked,), weights),
        node("MatMul", (weights, v), tensor("mixed", 1, 64, 8)),
        node("Add", (tensor("mixed", 1, 64, 8), q), tensor("sum", 1, 64, 8)),
    ]


def test_an_attention_is_both_products_and_what_stands_between_them() -> None:
    groups = found(attention())
    assert {name for name, group in groups.items() if group == "attention"} == {"scores", "masked", "weights", "mixed"}
    assert groups["q"] == groups["k"] == groups["v"] == "products"
    assert (groups["mask"], groups["sum"]) == ("layout", "elementwise")


def test_a_product_with_weights_behind_a_softmax_is_no_attention() -> None:
    nodes = attention()
    weights, v = nodes[-2].reads
    nodes[-2] = node("MatMul", (weights, Tensor("v", "float", 4, v.shape, constant=True)), tensor("mixed", 1, 64, 8))
    groups = found(nodes)
    assert groups["scores"] == groups["mixed"] == "products"
    assert groups["weights"] == "attention"


def test_the_label_map_begins_behind_the_logits_and_holds_their_resize() -> None:
    logits, large = tensor("logits", 1, CLASSES, 8, 8), tensor("large", 1, CLASSES, 32, 32)
    nodes = [
        node("Resize", (tensor("images", 1, 8, 4, 4),), tensor("features", 1, 8, 8, 8)),
        node("Conv", (tensor("features", 1, 8, 8, 8), WEIGHT), logits),
        node("Resize", (logits,), large),
        node("Mul", (large, WEIGHT), tensor("scaled", 1, CLASSES, 32, 32)),
        node("ArgMax", (tensor("scaled", 1, CLASSES, 32, 32),), tensor("labels", 1, 32, 32, dtype="uint8")),
    ]
    assert [*found(nodes).values()] == ["upsampling", "products", "label map", "label map", "label map"]
    assert [*found(nodes, None).values()] == ["upsampling", "products", "upsampling", "elementwise", "label map"]
    assert [*found(nodes, 7).values()] == [*found(nodes, None).values()]


def test_branches_that_meet_in_the_logits_are_no_label_map() -> None:
    side = (1, CLASSES, 8, 8)
    one, two, logits = tensor("one", *side), tensor("two", *side), tensor("logits", *side)
    features = tensor("features", 1, 8, 8, 8)
    nodes = [
        node("Conv", (features, WEIGHT), one),
        node("Mul", (one, WEIGHT), tensor("gated", *side)),
        node("Conv", (features, WEIGHT), two),
        node("Add", (tensor("gated", *side), two), logits),
        node("ArgMax", (logits,), tensor("labels", 1, 8, 8, dtype="uint8")),
    ]
    assert [*found(nodes).values()] == ["products", "elementwise", "products", "elementwise", "label map"]


def test_what_an_engine_leaves_around_a_norm_is_part_of_it() -> None:
    names = ("x", "mean", "centred", "moved", "normed", "shifted", "y")
    x, mean, centred, moved, normed, shifted, y = (tensor(name, 1, 64, 8) for name in names)
    nodes = [
        node("Convolution", (tensor("images", 1, 64, 8), WEIGHT), x),
        node("ReduceMean", (x,), mean),
        node("Subgraph", (x, mean), centred, "Subtract"),
        node("Reorder", (centred,), moved),
        node("RMS", (moved,), normed),
        node("Subgraph", (normed, WEIGHT), shifted, "Multiply", "Add", "FakeQuantize"),
        node("Subgraph", (shifted, x), y, "Add"),
    ]
    norm, rest = "normalization", ("layout", "elementwise")
    assert [*found(nodes).values()] == ["products", norm, norm, rest[0], norm, norm, rest[1]]


@pytest.mark.parametrize(
    ("kind", "fused", "group"),
    [
        ("Subgraph", ("MatMul", "Add", "Softmax", "MatMul"), "attention"),
        ("Convolution", ("Convolution", "Gelu", "FakeQuantize"), "products"),
        ("MatMulIntegerToFloat", (), "products"),
        ("SkipLayerNormalization", (), "normalization"),
        ("Subgraph", ("Add", "Gelu", "FakeQuantize"), "activation"),
        ("BiasGelu", (), "activation"),
        ("Subtract", ("Dequantization", "Dequantization", "Add"), "quantization"),
        ("DynamicQuantizeLinear", (), "quantization"),
        ("ReorderInput", (), "layout"),
        ("Interpolate", (), "upsampling"),
        ("TopK", (), "label map"),
        ("Subgraph", (), "elementwise"),
        ("NhwcMaxPool", (), "other"),
        ("HouseMadeOperator", (), "other"),
    ],
)
def test_a_node_belongs_to_the_group_of_its_main_work(kind: str, fused: tuple[str, ...], group: Group) -> None:
    assert found([node(kind, (tensor("x", 1, 8), WEIGHT), tensor("y", 1, 8), *fused)]) == {"y": group}


def test_a_sum_of_two_tensors_stays_a_sum_when_it_ends_in_a_quantization() -> None:
    inputs = (tensor("x", 1, 8), tensor("z", 1, 8))
    assert found([node("Subgraph", inputs, tensor("y", 1, 8), "Add", "FakeQuantize")]) == {"y": "elementwise"}


def test_bytes_of_a_group_take_their_time_at_the_memory_rate() -> None:
    nodes = attention()
    unknown = Tensor("open", "float", 4, None)
    nodes.append(node("Gelu", (tensor("sum", 1, 64, 8),), unknown, ms=3.0))
    rows = {row.group: row for row in by_group(nodes, groups_of(nodes), bytes_per_s=1e6)}
    assert [*rows] == [group for group in GROUPS if group in rows]
    assert sum(row.nodes for row in rows.values()) == len(nodes)
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    added = 4 * 3 * 64 * 8
    assert (rows["elementwise"].bytes, rows["elementwise"].memory_ms) == (added, pytest.approx(added / 1e3))
    assert (rows["activation"].bytes, rows["activation"].memory_ms) == (None, None)


ENGINES = [
    ("onnx", Precision.FP32),
    ("onnx", Precision.INT8),
    ("openvino", Precision.FP32),
    pytest.param(
        "openvino", Precision.BF16, marks=pytest.mark.skipif(not has_bf16(), reason="this processor has no bf16")
    ),
    ("openvino", Precision.INT8),
]


@pytest.mark.parametrize(("name", "precision"), ENGINES)
def test_every_engine_of_the_network_has_its_parts(
    name: str, precision: Precision, graph: Path, calibration: CalibrationStream, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name), reason=f"{name} is not installed")
    target = get_target(name)
    built = target.build(BuildRequest(graph, precision, tmp_path, SPEC, calibration))
    images = np.zeros((1, 64, 64, 3), np.uint8)
    nodes = target.profile(built.files[0], SPEC, images, threads=1, precision_hint=built.precision_hint)
    groups = groups_of(nodes, CLASSES)
    ran = [each for each in nodes if each.ran]
    assert [each.name for each in ran if each.bytes is None] == []
    here = Counter(groups[each.name] for each in ran)
    always = {"products", "attention", "normalization", "upsampling", "label map", "layout", "elementwise"}
    assert always <= {*here} <= {*GROUPS}
    assert ("quantization" in here) == (precision is Precision.INT8)
    assert here["other"] <= 2, [each.type for each in ran if groups[each.name] == "other"]

    softmaxes = sum(each.op_type == "Softmax" for each in onnx.load(str(graph)).graph.node)
    fused = [{each.type, *each.fused} for each in ran if groups[each.name] == "attention"]
    assert sum("Softmax" in words or "SoftMax" in words for words in fused) == softmaxes
    argmax = [groups[each.name] for each in ran if {each.type, *each.fused} & {"ArgMax", "TopK"}]
    assert set(argmax) == {"label map"}


@pytest.mark.parametrize(("name", "precision"), [ENGINES[0], *ENGINES[2:4]])
def test_weights_are_counted_in_the_type_that_the_engine_computes_in(
    name: str, precision: Precision, graph: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name), reason=f"{name} is not installed")
    target = get_target(name)
    built = target.build(BuildRequest(graph, precision, tmp_path, SPEC))
    images = np.zeros((1, 64, 64, 3), np.uint8)
    nodes = target.profile(built.files[0], SPEC, images, threads=1, precision_hint=built.precision_hint)
    first = next(each for each in nodes if each.ran and each.type in ("Conv", "Convolution"))
    weight = max((each for each in first.reads if each.constant), key=lambda each: each.elements or 0)
    assert (weight.shape, weight.itemsize) == ((32, 3, 7, 7), 2 if precision is Precision.BF16 else 4)


def test_nodes_without_names_have_the_same_groups(graph: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    target, images = get_target("onnx"), np.zeros((1, 64, 64, 3), np.uint8)
    model = onnx.load(str(graph))
    for each in model.graph.node:
        each.name = ""
    onnx.save(model, str(tmp_path / "unnamed.onnx"))
    seen = []
    for path in (graph, tmp_path / "unnamed.onnx"):
        nodes = target.profile(path, SPEC, images, threads=1)
        groups = groups_of(nodes, CLASSES)
        seen.append([(groups[each.name], each.type, each.bytes) for each in nodes])
    assert seen[0] == seen[1]
