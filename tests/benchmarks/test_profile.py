"""Profiles: medians over inferences, sums by operator type, and nodes of real engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fptk.benchmarks.profile import NodeTime, Tensor, by_type, median_times, slowest
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.export.targets.base import BuildRequest
from fptk.export.targets.registry import get_target

SPEC = PreprocessSpec(size=(64, 64))


def test_profile_sums_by_type_and_ranks_nodes() -> None:
    runs = [
        [NodeTime("a", "Conv", "k", t), NodeTime("b", "Add", "k", 1), NodeTime("c", "Conv", "k", 2)] for t in (3, 9, 5)
    ]
    nodes = median_times(runs)
    assert by_type(nodes) == [("Conv", 7, 2), ("Add", 1, 1)]
    assert [node.name for node in slowest(nodes, 2)] == ["a", "c"]


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_engines_report_their_nodes(name: str, graph: Path, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name), reason=f"{name} is not installed")
    target = get_target(name)
    engine = target.build(BuildRequest(graph, Precision.FP32, tmp_path, SPEC)).files[0]
    nodes = target.profile(engine, SPEC, np.zeros((1, 64, 64, 3), np.uint8), threads=1)
    assert any("conv" in node.type.lower() for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)
    assert sum(node.milliseconds for node in nodes) > 0


def test_a_node_moves_each_tensor_once_and_a_view_moves_none() -> None:
    x, weight = Tensor("x", "f32", 4, (2, 8)), Tensor("w", "i8", 1, (8, 3), constant=True)
    y, unknown = Tensor("y", "f32", 4, (2, 3)), Tensor("z", "f32", 4, None)
    assert NodeTime("a", "MatMul", "", 1, (x, weight), (y,)).bytes == 64 + 24 + 24
    assert NodeTime("a", "Mul", "", 1, (x, x), (y,)).bytes == 64 + 24
    assert NodeTime("a", "Reshape", "", 1, (x,), (y,)).bytes == 0
    assert NodeTime("a", "MatMul", "", 1, (x, unknown), (y,)).bytes is None
    assert NodeTime("a", "MatMul", "", 1).bytes is None


def test_what_needed_no_work_is_in_no_sum() -> None:
    nodes = [NodeTime("a", "Conv", "k", 3), NodeTime("b", "Reorder", "k", 0, ran=False)]
    assert by_type(nodes) == [("Conv", 3, 1)]
    assert slowest(nodes) == nodes[:1]
