"""What a quantizer did, in a form that a bundle keeps and a report prints."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class FloatLayer(BaseModel):
    """A layer that kept its float arithmetic."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """Its name in the graph."""
    op_type: str
    """Its operator."""
    reason: str
    """Why it stayed float."""


class QuantReport(BaseModel):
    """Record of one quantization; ``as_dict()`` is what a bundle stores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    """``onnx`` or ``openvino``."""
    settings: dict[str, Any]
    """Every field of the settings object that was used."""
    quantised: tuple[str, ...]
    """Names of the layers whose inputs are int8."""
    kept_float: tuple[FloatLayer, ...]
    """Layers of quantizable types that stayed float."""
    images: int
    """Calibration images read (in one pass)."""
    calibration_sha256: str | None
    """Hash of the calibration list, where the caller gave it."""
    source_sha256: str
    """Hash of the float model's file (ONNX) or of its serialised graph and weights (OpenVINO)."""
    seconds: float
    """Wall-clock time of the whole quantization."""
    versions: dict[str, str]
    """Versions of the packages that took part."""

    def as_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for JSON."""
        return self.model_dump(mode="json")

    @property
    def summary(self) -> str:
        """One line for a table, e.g. ``64 of 66 layers int8, 32 images, 5.1 s``."""
        total = len(self.quantised) + len(self.kept_float)
        return f"{len(self.quantised)} of {total} layers int8, {self.images} images, {self.seconds:.1f} s"
