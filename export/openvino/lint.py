"""The checker: forms in an OpenVINO graph that are known to be computed wrongly, or to crash, on some processor.

It reads the graph only. Nothing is compiled or run, so that it finds what goes wrong on processors that this one is
not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fptk.calibration.openvino_forms import (
    crashing_attentions,
    faulty_patch_convolutions,
    find_attentions,
    gate_layers,
    reads_int8,
    reads_symmetric_int8,
)
from fptk.core.cpu import FAMILIES, Family
from fptk.core.errors import FptkError, GateRefusedError, InputError, missing_package
from fptk.export.findings import ERROR, Finding, raise_on_errors


@dataclass(frozen=True)
class Rule:
    """A form that OpenVINO's CPU plugin gets wrong."""

    code: str
    """Short name, e.g. ``patch-convolution``."""
    form: str
    """What the form is."""
    what_happens: str
    """What the engine returns or does, as a noun phrase."""
    remedy: str
    """What to do instead."""
    source: str
    """Which part of OpenVINO gets it wrong, and how that is known."""
    versions: tuple[str, ...]
    """Versions of OpenVINO that were seen to do it; others were not tried."""
    processors: frozenset[Family]
    """Processors that it happens on."""

    @property
    def where(self) -> str:
        """Processors and versions, in words."""
        names = [_PROCESSORS[family] for family in FAMILIES if family in self.processors]
        processors = " and ".join(names) if len(names) < len(FAMILIES) else "every processor"
        return f"{processors} (OpenVINO {', '.join(self.versions)})"


_PROCESSORS: dict[Family, str] = {
    "avx2": "processors without VNNI",
    "vnni": "processors with VNNI",
    "amx": "processors with AMX",
}

RULES = (
    Rule(
        code="patch-convolution",
        form="an int8 convolution without padding whose kernel is its stride: a side k that 4 divides, C < 64 input "
        "channels, C * k a multiple of 64 and at least 128",
        what_happens="noise",
        remedy="keep it in float (NNCF's ignored scope)",
        source="oneDNN brg_conv_fwd, measured on an Intel Xeon with AMX; docs/measurements/processors.md",
        versions=("2025.4.1", "2026.1.0", "2026.4.1"),
        processors=frozenset({"amx"}),
    ),
    # Widths of 64 channels were measured right, but the fault depends on what ran before: every width is named.
    Rule(
        code="int8-attention",
        form="an attention whose query and key both have zero point 0, as ScaledDotProductAttention or as MatMul, "
        "Softmax, MatMul",
        what_happens="noise or NaN, depending on what ran before,",
        remedy="keep the attention in float (NNCF's ignored scope)",
        source="OpenVINO's fused attention (snippets), measured on an Intel Xeon with AMX; "
        "docs/measurements/processors.md",
        versions=("2026.4.1",),
        processors=frozenset({"amx"}),
    ),
    Rule(
        code="int8-behind-mean",
        form="an int8 matrix product that depends on a mean over a map",
        what_happens="wrong results or a crash",
        remedy="keep it in float (NNCF's ignored scope)",
        source="OpenVINO's int8 execution (LP_TRANSFORMS_MODE), measured on networks with gates; "
        "docs/measurements/processors.md",
        versions=("2026.4.1",),
        processors=frozenset(FAMILIES),
    ),
    Rule(
        code="attention-residual",
        form="an attention, float or int8, that meets another elementwise result in a sum with two readers, without a "
        "change of shape between",
        what_happens="a crash while compiling",
        remedy="change the shape between the two: attention in 4-D, sum in 3-D",
        source="OpenVINO's pass TokenizeSnippets, measured on an AMD EPYC with VNNI; docs/measurements/deploy-form.md",
        versions=("2026.4.1",),
        processors=frozenset(FAMILIES),
    ),
)


def lint_openvino(model: Any, families: Collection[Family] = FAMILIES) -> list[Finding]:
    """Check an OpenVINO graph.

    Args:
        model: ``openvino.Model``, float or quantized, or the path of an ``.xml`` file with its ``.bin`` beside it.
        families: processors that the graph must be right on.

    Returns:
        One error for each rule and node, rule by rule, in the order of the graph.

    Raises:
        InputError: the file is missing or no OpenVINO model.
    """
    graph = _read(model) if isinstance(model, Path) else model
    return [
        Finding(rule.code, ERROR, node, f"{found}: {rule.what_happens} on {rule.where}; {rule.remedy}")
        for rule in RULES
        if not rule.processors.isdisjoint(families)
        for node, found in dict(_FINDERS[rule.code](graph)).items()
    ]


def refuse_known_faults(name: str, findings: Collection[Finding], error: type[FptkError] = GateRefusedError) -> None:
    """Turn findings into one line that names up to three layers.

    Args:
        name: what the graph is called.
        findings: of :func:`lint_openvino`.
        error: what is raised.

    Raises:
        GateRefusedError: or what ``error`` says: there are findings.
    """
    raise_on_errors(f"OpenVINO is known to fail on {name}", findings, error)


def _read(path: Path) -> Any:
    """The graph of an ``.xml`` file.

    Only the front end for OpenVINO's own format reads it: no other format, and no extension that brings code along.
    """
    try:
        from openvino.frontend import FrontEndManager
    except ImportError:
        raise missing_package("openvino", "openvino") from None
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected an OpenVINO .xml file with its .bin beside it")
    reader = FrontEndManager().load_by_framework("ir")
    try:
        return reader.convert(reader.load(path))
    except RuntimeError as error:
        raise InputError(f"{path} is no OpenVINO model: {str(error).strip().splitlines()[-1]}") from error


Found = Iterator[tuple[str, str]]
"""Name of a node, and what was found there."""


def _patch_convolutions(model: Any) -> Found:
    faulty = set(faulty_patch_convolutions(model))
    for operation in model.get_ordered_ops():
        if operation.get_friendly_name() in faulty and reads_int8(operation, 0) and reads_int8(operation, 1):
            _, channels, height, width = operation.get_input_partial_shape(1).to_shape()
            what = f"unpadded int8 convolution of {channels} channels, kernel and stride {height}x{width}"
            yield operation.get_friendly_name(), what


def _int8_attentions(model: Any) -> Found:
    for attention in find_attentions(model):
        if reads_symmetric_int8(attention.scores, 0) and reads_symmetric_int8(attention.scores, 1):
            yield attention.scores.get_friendly_name(), "attention with int8 query and key, both of zero point 0"


def _int8_behind_mean(model: Any) -> Found:
    gates = set(gate_layers(model))
    for operation in model.get_ordered_ops():
        if operation.get_friendly_name() in gates and reads_int8(operation, 0) and reads_int8(operation, 1):
            yield operation.get_friendly_name(), "int8 matrix product behind a mean"


def _attention_residuals(model: Any) -> Found:
    for name in crashing_attentions(model):
        yield name, "attention that goes straight into a sum with two readers"


_FINDERS: dict[str, Callable[[Any], Found]] = {
    "patch-convolution": _patch_convolutions,
    "int8-attention": _int8_attentions,
    "int8-behind-mean": _int8_behind_mean,
    "attention-residual": _attention_residuals,
}
