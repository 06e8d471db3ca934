"""Each thing that TensorRT rejects or mis-scales has a file made in code, and the checker names the node."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fptk.core.errors import InputError
from fptk.export.findings import ERROR, WARNING, Finding
from fptk.export.tensorrt.lint import lint_tensorrt, refuse_errors

WriteConv = Callable[..., Path]


def found(findings: list[Finding]) -> set[tuple[str, str, str]]:
    return {(entry.severity, entry.code, entry.node) for entry in findings}


def test_takes_what_tensorrt_takes(write_conv: WriteConv, face_net: Path, tmp_path: Path) -> None:
    assert lint_tensorrt(write_conv(tmp_path / "good.onnx")) == []
    assert lint_tensorrt(face_net) == []


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ({"activation": np.uint8}, {(ERROR, "uint8-zero-point", "input_q"), (ERROR, "uint8-zero-point", "input_dq")}),
        ({"zero_point": 5}, {(ERROR, "asymmetric", "input_q"), (ERROR, "asymmetric", "input_dq")}),
        ({"bias": "int32"}, {(ERROR, "int32-bias", "bias_dq")}),
        ({"scale": 0.0}, {(ERROR, "bad-scale", "input_q"), (ERROR, "bad-scale", "input_dq")}),
        ({"scale": -0.5}, {(ERROR, "bad-scale", "input_q"), (ERROR, "bad-scale", "input_dq")}),
        ({"scale": np.nan}, {(ERROR, "bad-scale", "input_q"), (ERROR, "bad-scale", "input_dq")}),
        ({"weight_scale": np.zeros(19, np.float32)}, {(ERROR, "bad-scale", "weight_dq")}),
        (
            {"activation": np.int16, "opset": 21},
            {(ERROR, "quantised-type", "input_q"), (ERROR, "quantised-type", "input_dq")},
        ),
        (
            {"scale": [0.01, 0.02, 0.03]},
            {(WARNING, "per-channel-activation", "input_q"), (WARNING, "per-channel-activation", "input_dq")},
        ),
        ({"quantize_weight": False}, {(WARNING, "unquantised-input", "conv")}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_names_a_broken_quantizer(
    broken: dict[str, Any], expected: set[tuple[str, str, str]], write_conv: WriteConv, tmp_path: Path
) -> None:
    assert found(lint_tensorrt(write_conv(tmp_path / "broken.onnx", **broken))) == expected


def test_reads_a_quantizer_without_zero_point_as_the_standard_does(write_conv: WriteConv, tmp_path: Path) -> None:
    path = write_conv(tmp_path / "bare.onnx")
    model = onnx.load(str(path))
    for node in model.graph.node:
        if node.name == "input_q":
            del node.input[2]  # uint8 by default
    onnx.save(model, str(path))
    assert (ERROR, "uint8-zero-point", "input_q") in found(lint_tensorrt(path))


def test_names_an_attention_operator(attention_file: Path) -> None:
    assert (ERROR, "attention-op", "attention") in found(lint_tensorrt(attention_file))


def test_names_arithmetic_on_uint8(face_net: Path) -> None:
    """TensorRT-RTX rejects a Transpose of the uint8 input: the Cast has to come first."""
    model = onnx.load(str(face_net))
    transpose = helper.make_node("Transpose", ["images"], ["turned"], name="turn", perm=[0, 3, 1, 2])
    back = helper.make_node("Transpose", ["turned"], ["images_again"], name="turn_back", perm=[0, 2, 3, 1])
    model.graph.node[0].input[0] = "images_again"
    nodes = [transpose, back, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(face_net))
    assert found(lint_tensorrt(face_net)) == {(ERROR, "uint8-compute", "turn"), (ERROR, "uint8-compute", "turn_back")}


def test_names_float32_and_int8_for_turing(face_net: Path, write_conv: WriteConv, tmp_path: Path) -> None:
    turing = found(lint_tensorrt(face_net, [75, 86]))
    assert {(ERROR, "sm75-float32", name) for name in ("embed", "query", "scores", "head")} <= turing
    assert (ERROR, "sm75-int8", "conv") in found(lint_tensorrt(write_conv(tmp_path / "q.onnx"), [75]))
    assert lint_tensorrt(face_net, [80, 86, 89, 120]) == []


def test_names_operators_that_no_parser_takes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("FusedMatMul", ["x", "x"], ["y"], name="fused", domain="com.microsoft"),
        helper.make_node("MatMulInteger", ["a", "a"], ["b"], name="integer"),
        helper.make_node("QuantizeLinear", ["y", "s", "z"], ["q"], name="lonely"),
        helper.make_node("Transpose", ["q"], ["t"], name="mover", perm=[1, 0]),
    ]
    graph = helper.make_graph(
        nodes,
        "odd",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4]),
            helper.make_tensor_value_info("a", TensorProto.INT8, [4, 4]),
        ],
        [helper.make_tensor_value_info("t", TensorProto.INT8, [4, 4])],
        [
            helper.make_tensor("s", TensorProto.FLOAT, [], [0.1]),
            helper.make_tensor("z", TensorProto.INT8, [], [0]),
        ],
    )
    path = tmp_path / "odd.onnx"
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(path))
    assert {
        (ERROR, "custom-domain", "fused"),
        (ERROR, "unsupported-op", "integer"),
        (ERROR, "bare-quantize", "lonely"),
    } <= found(lint_tensorrt(path))


def test_names_too_many_dimensions(tmp_path: Path) -> None:
    shapes = {"five": [1, 1, 2, 2, 2], "nine": [1] * 8 + [2]}
    nodes = [
        helper.make_node("Transpose", [name], [f"{name}_out"], name=name + "_turn", perm=list(range(len(shape)))[::-1])
        for name, shape in shapes.items()
    ]
    graph = helper.make_graph(
        nodes,
        "ranks",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
        [
            helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, shape[::-1])
            for name, shape in shapes.items()
        ],
    )
    path = tmp_path / "ranks.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), str(path))
    assert found(lint_tensorrt(path)) == {(WARNING, "five-dimensions", "five_turn"), (ERROR, "rank", "nine_turn")}


def test_puts_errors_first_and_refuses_them_in_one_line(write_conv: WriteConv, tmp_path: Path) -> None:
    path = write_conv(tmp_path / "two.onnx", activation=np.uint8, quantize_weight=False, bias="int32")
    findings = lint_tensorrt(path)
    assert [entry.severity for entry in findings] == [ERROR, ERROR, ERROR, WARNING]
    with pytest.raises(InputError, match=r"two\.onnx: input_q: uint8 .*bias_dq") as caught:
        refuse_errors(path, findings)
    assert "\n" not in str(caught.value)
    refuse_errors(path, [entry for entry in findings if entry.severity == WARNING])


@pytest.mark.parametrize("content", [None, b"", b"no protobuf at all"])
def test_refuses_what_is_no_onnx_file(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"odd\.onnx"):
        lint_tensorrt(path)


@pytest.mark.parametrize(
    ("broken", "arguments", "code", "node"),
    [
        ({"activation": np.uint8}, (), "uint8-zero-point", "input_q"),
        ({"zero_point": 5}, (), "asymmetric", "input_q"),
        ({"bias": "int32"}, (), "int32-bias", "bias_dq"),
        ({"quantize_weight": False}, ("--sm", 75), "sm75-int8", "conv"),
        ("attention", (), "attention-op", "attention"),
        ("float", ("--sm", 86, "--sm", 75), "sm75-float32", "embed"),
    ],
    ids=["uint8", "asymmetric", "int32-bias", "sm75-int8", "attention", "sm75-float32"],
)
def test_the_command_names_each_defect(
    broken: Any,
    arguments: tuple[object, ...],
    code: str,
    node: str,
    fptk: Callable[..., Any],
    write_conv: WriteConv,
    attention_file: Path,
    face_net: Path,
    tmp_path: Path,
) -> None:
    path = {"attention": attention_file, "float": face_net}.get(broken) if isinstance(broken, str) else None
    finished = fptk("check", path or write_conv(tmp_path / "broken.onnx", **broken), *arguments)
    assert finished.code == 2
    (line,) = (line for line in finished.out.splitlines() if line.startswith(f"error: {node}: "))
    assert line.endswith(f"[{code}]")
    assert len(finished.err.strip().splitlines()) == 1


def test_the_command_says_that_a_file_is_sound(fptk: Callable[..., Any], face_net: Path) -> None:
    finished = fptk("check", face_net, "--sm", 86)
    assert finished.code == 0
    assert "nothing that TensorRT rejects" in finished.out
