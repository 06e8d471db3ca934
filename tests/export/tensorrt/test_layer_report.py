"""The layer listing says what really runs in INT8, in both forms that TensorRT gives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fptk.calibration.onnx_graph import Graph, load_model
from fptk.core.errors import GateRefusedError
from fptk.export.tensorrt.layer_report import EngineLayer, LayerReport, parse_inspector, parse_log, report_layers


def tensor(name: str, kind: str, *shape: int) -> str:
    sides = ",".join(map(str, shape))
    return (
        f"{{ Name: {name}, Dimensions: [{sides}], Strides: [{sides}], StrideOrder: [0], Datatype: {kind}, "
        "Format: (Linear) Row major linear format }"
    )


def line(name: str, kind: str, inputs: list[str], constants: list[str], *nodes: str) -> str:
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {', '.join(inputs)}], Constants: [ {', '.join(constants)}], "
        f"Outputs: [ {tensor('out', 'Float', 1, 4)}], TacticName: t, StreamId: 0, Metadata: {metadata}"
    )


FACE = [
    line("cast", "kgen", [tensor("images", "UInt8", 1, 64, 64, 3)], [], "to_float", "embed"),
    line(
        "embed_0",
        "correlation",
        [tensor("x", "Int8", 1, 4, 64, 64), tensor("residual", "Float", 1, 16, 16, 16)],
        [tensor("bias", "Float", 1, 16, 1, 1), tensor("w", "Int8", 16, 4, 7, 7)],
        "embed",
        "embed_weight_dq",
    ),
    line("epilogue", "kgen", [tensor("y", "Float", 1, 16, 16, 16)], [], "embed", "norm"),
    line("q+k", "gemm", [tensor("n", "Int8", 1, 256, 16)], [tensor("w", "Int8", 16, 32)], "query", "key"),
    line("wait", "wait", [], []),
    line(
        "bmm",
        "gemm",
        [tensor("q", "Half", 1, 256, 16), tensor("k", "Half", 1, 16, 256)],
        [tensor("alpha", "Float", 1)],
        "scores",
    ),
    line("fused", "runtime_fusion", [tensor("n", "Half", 1, 256, 16)], [tensor("w", "Half", 16, 16)], "value"),
    line("head_0", "correlation", [tensor("g", "Int8", 1, 16, 16, 16)], [tensor("w", "Float", 19, 16, 1, 1)], "head"),
]
LOG = "[V] noise\n[V] Layers:\n" + "\n".join(FACE) + "\n\nI/O Tensors:\n Name: images, IOMode: Input\n"


def test_reads_operands_of_every_layer_of_the_log() -> None:
    layers = parse_log(LOG)
    assert [layer.precision for layer in layers] == ["other", "Int8", "Float", "Int8", "other", "Half", "Half", "Float"]
    assert [layer.name for layer in layers if layer.is_arithmetic] == ["embed_0", "q+k", "bmm", "fused", "head_0"]
    assert layers[3].onnx_nodes == ("query", "key")


def test_reads_the_last_listing_only() -> None:
    assert len(parse_log(LOG + LOG)) == len(FACE)
    assert parse_log("no listing here\n") == []


def test_joins_layers_with_the_nodes_of_the_file(face_net: Path) -> None:
    report = report_layers(parse_log(LOG), Graph(load_model(face_net)), int8=True)
    assert report.counts == {"Int8": 2, "Half": 2, "Float": 1}
    assert report.int8_share == pytest.approx(0.4)
    assert report.absorbed == ("mix", "project")
    by_node = {node: layer for layer in report.layers for node in layer.onnx_nodes}
    assert by_node["embed"].name == "embed_0", "the kernel, not the generated code around it"
    assert by_node["head"].reason == "no Q/DQ on to_grid_out, head_weight"


def test_gives_the_builder_the_blame_where_the_file_is_quantized(
    write_conv: Callable[..., Path], tmp_path: Path
) -> None:
    graph = Graph(load_model(write_conv(tmp_path / "conv.onnx")))
    report = report_layers([EngineLayer("c", "correlation", ("Float",), ("conv",))], graph, int8=True)
    assert "no INT8 kernel" in report.layers[0].reason
    assert (
        report_layers([EngineLayer("c", "correlation", ("Float",), ("conv",))], graph, int8=False).layers[0].reason
        == ""
    )


def test_refuses_an_engine_that_fell_back(face_net: Path) -> None:
    report = report_layers(parse_log(LOG), Graph(load_model(face_net)), int8=True)
    report.require_int8(0.4)
    with pytest.raises(
        GateRefusedError, match=r"2 of 5 conv and gemm layers run in INT8 \(40%\), 90% are asked for"
    ) as caught:
        report.require_int8(0.9)
    assert "scores (Half: no Q/DQ on" in str(caught.value)
    with pytest.raises(GateRefusedError, match="nothing proves"):
        LayerReport((), ("conv",)).require_int8(0.9)


@pytest.mark.parametrize("split_fields", [False, True], ids=["10.x", "11.x"])
def test_reads_the_engine_inspector(split_fields: bool) -> None:
    def named(kind: str) -> dict[str, Any]:
        if split_fields:
            return {"Name": "x", "Format": "Row major linear format", "Datatype": kind}
        return {"Name": "x", "Format/Datatype": f"Thirty-two wide channel vectorized row major {kind} format."}

    content = {
        "Layers": [
            {
                "Name": "conv + relu",
                "LayerType": "CaskConvolution",
                "Inputs": [named("Int8"), named("FP32" if not split_fields else "Float")],
                "Weights": {"Type": "Int8", "Count": 4704},
                "Bias": {"Type": "Float", "Count": 16},
                "Metadata": "[ONNX Layer: embed]\u001e[ONNX Layer: relu]",
            },
            {"Name": "dot", "LayerType": "gemm", "Inputs": [named("Half"), named("Half")], "Metadata": ""},
            {"Name": "copy", "LayerType": "Reformat", "Inputs": [named("Float")]},
            "a layer built without details",
        ],
        "Bindings": [],
    }
    layers = parse_inspector(json.dumps(content))
    assert [(layer.precision, layer.is_arithmetic) for layer in layers] == [
        ("Int8", True),
        ("Half", True),
        ("Float", False),
    ]
    assert layers[0].onnx_nodes == ("embed", "relu")


def test_refuses_json_that_is_no_inspection() -> None:
    with pytest.raises(ValueError, match="Layers"):
        parse_inspector("{}")
