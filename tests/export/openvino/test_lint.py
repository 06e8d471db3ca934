"""Each form that OpenVINO gets wrong has a graph made in code, and the checker names it, but not its sound neighbours.

No graph is compiled: on some of them OpenVINO would crash.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fptk.core.cpu import FAMILIES
from fptk.core.errors import GateRefusedError, InputError
from fptk.export.findings import ERROR, Finding
from fptk.export.openvino.lint import _FINDERS, RULES, lint_openvino, refuse_known_faults

openvino = pytest.importorskip("openvino", reason="openvino is not installed")
ops = openvino.opset13

SIGNED = (-1.28, 1.27)
UNSIGNED = (0.0, 2.55)


class Graph:
    """A model under construction: tensors become its inputs."""

    def __init__(self) -> None:
        self.inputs: list[Any] = []

    def tensor(self, *shape: int) -> Any:
        self.inputs.append(ops.parameter(list(shape), np.float32))
        return self.inputs[-1]

    def model(self, *results: Any) -> Any:
        return openvino.Model(list(results), self.inputs, "graph")


def quantized(value: Any, ends: tuple[float, float] | None = SIGNED) -> Any:
    """``value`` behind a FakeQuantize of this range; ``None`` leaves it float."""
    if ends is None:
        return value
    low, high = (ops.constant(np.float32(end)) for end in ends)
    return ops.fake_quantize(value, low, high, low, high, 256)


def weights(*shape: int) -> Any:
    return ops.constant(np.full(shape, 0.5, np.float32))


def stored(*shape: int) -> Any:
    """int8 weights as NNCF saves them."""
    return ops.multiply(ops.convert(ops.constant(np.ones(shape, np.int8)), "f32"), np.float32(0.01))


def named(operation: Any, name: str) -> Any:
    operation.set_friendly_name(name)
    return operation


def patches(
    channels: int = 32, data: Any = SIGNED, kernel: Any = None, pad: int = 0, strides: tuple[int, int] = (8, 8)
) -> Any:
    graph = Graph()
    kernel = quantized(weights(4, channels, 8, 8)) if kernel is None else kernel
    source = quantized(graph.tensor(1, channels, 64, 64), data)
    return graph.model(named(ops.convolution(source, kernel, strides, [pad] * 2, [pad] * 2, [1, 1]), "reduce"))


def attention(query: Any = SIGNED, key: Any = SIGNED, width: int = 32) -> Any:
    graph = Graph()
    q, k = quantized(graph.tensor(1, 1, 6, width), query), quantized(graph.tensor(1, 1, 4, width), key)
    mixed = ops.scaled_dot_product_attention(q, k, graph.tensor(1, 1, 4, width))
    return graph.model(named(mixed, "attend"))


def products(query: Any = SIGNED, key: Any = SIGNED) -> Any:
    """An attention of separate operations."""
    graph = Graph()
    q, k = quantized(graph.tensor(1, 1, 6, 32), query), quantized(graph.tensor(1, 1, 4, 32), key)
    scores = named(ops.matmul(q, ops.transpose(k, [0, 1, 3, 2]), False, False), "attend")
    shares = ops.softmax(ops.add(ops.multiply(scores, np.float32(0.2)), graph.tensor(1, 1, 1, 4)), 3)
    return graph.model(ops.matmul(shares, graph.tensor(1, 1, 4, 32), False, False))


def gate(data: Any = SIGNED, kernel: Any = None, mean: bool = True) -> Any:
    graph = Graph()
    maps = graph.tensor(1, 8, 4, 4)
    kernel = quantized(weights(8, 8)) if kernel is None else kernel
    source = ops.reduce_mean(maps, [2, 3], False) if mean else ops.reshape(maps, [16, 8], False)
    return graph.model(named(ops.matmul(quantized(source, data), kernel, False, True), "gate"))


def residual(
    *,
    lead: tuple[int, ...] = (1,),
    fused: bool = True,
    skip: Callable[[Any], Any] = ops.relu,
    move: Callable[[Any], Any] = lambda mixed: mixed,
    readers: int = 2,
    queries: int = 6,
    apart: bool = False,
) -> Any:
    """Tokens (\\*lead, queries, 8), an attention, and a sum that a matrix product and another sum read.

    ``apart`` computes the attention with one dimension more than the sum.
    """
    graph = Graph()
    tokens, key, value = graph.tensor(*lead, queries, 8), graph.tensor(*lead, 4, 8), graph.tensor(*lead, 4, 8)
    skipped = query = skip(tokens)
    if apart:
        query, key, value = (ops.unsqueeze(each, 0) for each in (query, key, value))
    if fused:
        mixed = ops.scaled_dot_product_attention(query, key, value)
    else:
        shares = ops.softmax(ops.matmul(query, key, False, True), -1)
        mixed = ops.matmul(shares, value, False, False)
    mixed = move(named(mixed, "attend"))
    total = ops.add(skipped, ops.squeeze(mixed, [0]) if apart else mixed)
    after = ops.matmul(total, weights(8, 8), False, True)
    return graph.model(ops.add(total, after) if readers == 2 else after)


def codes(model: Any, *families: Any) -> list[tuple[str, str]]:
    return [(entry.code, entry.node) for entry in lint_openvino(model, families or FAMILIES)]


@pytest.mark.parametrize(
    ("model", "faulty"),
    [
        (patches(), True),
        (patches(data=UNSIGNED), True),
        (patches(kernel=stored(4, 32, 8, 8)), True),
        (patches(channels=64), False),
        (patches(channels=8), False),
        (patches(pad=1), False),
        (patches(strides=(4, 4)), False),
        (patches(data=None), False),
        (patches(kernel=weights(4, 32, 8, 8)), False),
    ],
    ids=["int8", "uint8", "stored", "64", "8", "padded", "overlapping", "float-data", "float-weights"],
)
def test_names_a_faulty_patch_convolution(model: Any, faulty: bool) -> None:
    assert codes(model) == ([("patch-convolution", "reduce")] if faulty else [])


@pytest.mark.parametrize("make", [attention, products])
@pytest.mark.parametrize(
    ("query", "key", "faulty"),
    [
        (SIGNED, SIGNED, True),
        (UNSIGNED, SIGNED, False),
        (SIGNED, (-0.5, 2.05), False),
        (None, SIGNED, False),
        (SIGNED, None, False),
        (None, None, False),
    ],
    ids=["symmetric", "unsigned-query", "asymmetric-key", "float-query", "float-key", "float"],
)
def test_names_an_attention_of_symmetric_query_and_key(make: Any, query: Any, key: Any, faulty: bool) -> None:
    assert codes(make(query=query, key=key)) == ([("int8-attention", "attend")] if faulty else [])


def test_names_an_attention_of_any_width() -> None:
    assert codes(attention(width=64)) == [("int8-attention", "attend")]


@pytest.mark.parametrize(
    ("model", "faulty"),
    [
        (gate(), True),
        (gate(kernel=stored(8, 8)), True),
        (gate(data=None), False),
        (gate(kernel=weights(8, 8)), False),
        (gate(mean=False), False),
    ],
    ids=["int8", "stored", "float-data", "float-weights", "no-mean"],
)
def test_names_an_int8_product_behind_a_mean(model: Any, faulty: bool) -> None:
    assert codes(model) == ([("int8-behind-mean", "gate")] if faulty else [])


@pytest.mark.parametrize(
    ("model", "faulty"),
    [
        (residual(), True),
        (residual(fused=False), True),
        (residual(lead=(1, 1)), True),
        (residual(lead=(2, 4), fused=False), True),
        (residual(move=lambda mixed: ops.multiply(mixed, np.float32(0.5))), True),
        (residual(move=lambda mixed: ops.reshape(mixed, [1, 6, 8], False)), True),
        (residual(move=lambda mixed: ops.reshape(ops.squeeze(mixed, [0]), [1, 6, 8], False)), True),
        (residual(readers=1), False),
        (residual(skip=lambda tokens: tokens), False),
        (residual(skip=lambda tokens: ops.relu(ops.matmul(tokens, weights(8, 8), False, True))), False),
        (residual(move=lambda mixed: ops.matmul(mixed, weights(8, 8), False, True)), False),
        (residual(apart=True), False),
        (residual(queries=1), False),
        (residual(lead=(-1,)), False),
    ],
    ids=[
        "3-d",
        "products",
        "4-d",
        "heads",
        "scaled",
        "idle-reshape",
        "there-and-back",
        "one-reader",
        "input-as-skip",
        "product-as-skip",
        "projected",
        "apart",
        "one-query",
        "dynamic",
    ],
)
def test_names_an_attention_that_goes_straight_into_a_residual(model: Any, faulty: bool) -> None:
    """What OpenVINO 2026.4.1 crashed on, each in a process of its own, and what it compiled."""
    assert codes(model) == ([("attention-residual", "attend")] if faulty else [])


def test_applies_the_rules_of_the_processors_asked_about() -> None:
    assert codes(patches(), "amx") == [("patch-convolution", "reduce")]
    assert codes(patches(), "avx2", "vnni") == []
    assert codes(attention(), "vnni") == []
    for family in FAMILIES:
        assert codes(gate(), family) == [("int8-behind-mean", "gate")]
        assert codes(residual(), family) == [("attention-residual", "attend")]


def test_every_rule_is_looked_for_and_says_where_it_is_from() -> None:
    assert {rule.code for rule in RULES} == set(_FINDERS)
    assert all(rule.source and rule.versions and rule.processors for rule in RULES)


def test_a_finding_says_what_is_wrong_where_and_what_to_do() -> None:
    (finding,) = lint_openvino(patches())
    assert finding.severity == ERROR
    assert finding.message == (
        "unpadded int8 convolution of 32 channels, kernel and stride 8x8: noise on processors with AMX "
        "(OpenVINO 2025.4.1, 2026.1.0, 2026.4.1); keep it in float (NNCF's ignored scope)"
    )
    (finding,) = lint_openvino(gate())
    assert "on every processor (OpenVINO 2026.4.1)" in finding.message


def test_refuses_findings_in_one_line_that_names_three_layers() -> None:
    refuse_known_faults("model.xml", [])
    findings = [Finding("patch-convolution", ERROR, f"conv{i}", "noise") for i in range(5)]
    with pytest.raises(GateRefusedError, match=r"model\.xml: conv0: .*conv1: .*conv2: .*; and 2 more$") as caught:
        refuse_known_faults("model.xml", findings)
    assert "\n" not in str(caught.value)
    assert "conv3" not in str(caught.value)


def write(model: Any, folder: Path, **options: Any) -> Path:
    path = folder / "model.xml"
    openvino.save_model(model, path, **options)
    return path


@pytest.mark.parametrize("compress", [False, True])
def test_reads_a_file_as_it_reads_a_model(compress: bool, tmp_path: Path) -> None:
    for number, model in enumerate((patches(), attention(), products(), gate(), residual(), residual(lead=(-1,)))):
        (folder := tmp_path / str(number)).mkdir()
        assert codes(write(model, folder, compress_to_fp16=compress)) == codes(model)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "operation", "no-weights", "cut-weights"])
def test_refuses_what_is_no_openvino_file(damage: str, tmp_path: Path) -> None:
    (source := tmp_path / "sound").mkdir()
    path, sound = tmp_path / "odd.xml", write(patches(), source)
    text, values = sound.read_text(encoding="utf-8"), sound.with_suffix(".bin").read_bytes()
    broken = {"empty": "", "text": "no XML at all", "cut": text[: len(text) // 2]}
    broken["operation"] = text.replace('type="Convolution"', 'type="Convolutions"')
    if damage != "missing":
        path.write_text(broken.get(damage, text), encoding="utf-8")
    if damage != "no-weights":
        path.with_suffix(".bin").write_bytes(values[:5] if damage == "cut-weights" else values)
    with pytest.raises(InputError, match=r"odd\.xml") as caught:
        lint_openvino(path)
    assert "\n" not in str(caught.value)


def test_the_command_names_the_faults_of_a_file(fptk: Callable[..., Any], tmp_path: Path) -> None:
    finished = fptk("check", write(patches(), tmp_path))
    assert finished.code == 2
    assert finished.out.startswith("error: reduce: unpadded int8 convolution")
    assert finished.out.strip().endswith("[patch-convolution]")
    assert len(finished.err.strip().splitlines()) == 1


def test_the_command_says_that_a_file_is_sound(fptk: Callable[..., Any], tmp_path: Path) -> None:
    path = write(patches(data=None), tmp_path)
    finished = fptk("check", path)
    assert finished.code == 0
    assert finished.out.strip() == f"{path}: nothing that OpenVINO is known to compute wrongly"


def test_the_command_refuses_a_damaged_file(fptk: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_text("<net", encoding="utf-8")
    for name in ("model.xml", "missing.xml"):
        finished = fptk("check", tmp_path / name)
        assert finished.code == 2
        assert name in finished.err
        assert len(finished.err.strip().splitlines()) == 1
