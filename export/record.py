"""What a build leaves on record in its bundle: options, quantizer, findings, fallback, ranking, layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from fptk.calibration.gate import Verdict
from fptk.calibration.kernel_faults import Agreement
from fptk.calibration.report import QuantReport
from fptk.calibration.sensitivity import Sensitivity
from fptk.export.findings import Finding


class FallbackAttempt(BaseModel):
    """What became of one candidate of the fallback."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    candidate: str = Field(validation_alias=AliasChoices("candidate", "rung"))
    """Its name."""
    settings: dict[str, Any]
    """Every setting of the quantizer."""
    passed: bool
    """Whether the gate let it pass."""
    skipped: str
    """Why it was skipped; empty where it was built."""
    seconds: float
    """Time of build, scoring and verdict."""
    verdict: Verdict | None
    """``None`` where it was skipped."""


class FallbackRecord(BaseModel):
    """Every candidate that was tried, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passed: str | None
    """Name of the candidate that passed; only the last one can."""
    attempts: tuple[FallbackAttempt, ...]
    """One for each candidate."""


class LayerCounts(BaseModel):
    """What the layers of an engine run in, as its builder lists them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    summary: str
    """One line for people."""
    total: int
    """Convolution and matrix-product layers."""
    counts: dict[str, int]
    """How many of them run in each type."""
    int8_share: float | None = None
    """0-1; ``None`` where there are none."""
    absorbed: tuple[str, ...] = ()
    """Nodes of the graph that are part of another layer."""


class BuildRecord(BaseModel):
    """What a target tells of a build, and what the export adds to it."""

    model_config = ConfigDict(extra="forbid")

    options: dict[str, Any] = Field(default_factory=dict)
    """The target's options that were not left at their defaults."""
    quantizer: QuantReport | None = None
    """INT8 only: settings, layers in int8, layers kept in float and why."""
    findings: tuple[Finding, ...] = ()
    """What the target's checker found in the graph."""
    layers: LayerCounts | None = None
    """Where the builder tells what each layer runs in."""
    simulation: str | None = None
    """ONNX file of the bundle that computes what the engine does, for hosts that cannot run the engine."""
    rebuild: str | None = None
    """Command that builds the engine again from the bundle's own files."""
    agreement: Agreement | None = None
    """The int8 engine against its own graph in float arithmetic, on this host."""
    fallback: FallbackRecord | None = None
    """What was tried until an engine passed; ``None`` where there was nothing to choose from."""
    sensitivity: Sensitivity | None = None
    """Ranking of the layer groups by what INT8 costs each, where it was asked for."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What only this target has to tell."""

    @model_validator(mode="before")
    @classmethod
    def _from_before(cls, value: Any) -> Any:
        """A record as fptk wrote it before it had these fields: one flat dictionary."""
        if not isinstance(value, Mapping) or not value.keys() - cls.model_fields.keys():
            return value
        value = {_RENAMED.get(key, key): content for key, content in value.items()}
        if value.keys() >= {"settings", "quantised", "kept_float"}:
            value["quantizer"] = {key: value.pop(key) for key in QuantReport.model_fields if key in value}
        known = {key: content for key, content in value.items() if key in cls.model_fields}
        return {**known, "details": {key: content for key, content in value.items() if key not in cls.model_fields}}


_RENAMED = {
    "quantiser": "quantizer",
    "ladder": "fallback",
    "agreement_with_simulation": "agreement",
    "simulate_with": "simulation",
}
