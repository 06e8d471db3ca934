"""Settings of a TensorRT build, read from :attr:`BuildRequest.options`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fptk.core.errors import InputError
from fptk.export.tensorrt.product import DEFAULT_SM, Product

if TYPE_CHECKING:
    from fptk.calibration.onnx_quantizer import OnnxQuantSettings

SUPPORTED_SM = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX 1.7 builds for."""


class TensorRTOptions(BaseModel):
    """Settings of a TensorRT or TensorRT-RTX build; ``None`` leaves the builder its own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dynamic_batch: tuple[int, int, int] | None = None
    """Smallest, optimal and largest batch of the optimisation profile; ``None`` builds for a fixed batch."""
    workspace_mib: int | None = Field(default=None, gt=0)
    """Upper limit of the builder's workspace, MiB."""
    timing_cache: Path | None = None
    """TensorRT only: a file of kernel timings to start from; the updated cache is written beside the engine."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """TensorRT only: which other GPUs the engine shall run on, at some cost in speed."""
    version_compatible: bool = False
    """TensorRT only: let later TensorRT versions of the same major version run the engine."""
    dla_core: int | None = Field(default=None, ge=0)
    """TensorRT on Jetson only: deep-learning accelerator to build for; layers that it lacks fall back to the GPU."""
    sm: tuple[int, ...] = ()
    """TensorRT-RTX only: compute capabilities without the dot (86 is 8.6); empty is :data:`DEFAULT_SM`."""
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    """Builder optimisation level: higher searches longer."""
    min_int8_layers: float = Field(default=0.9, ge=0, le=1)
    """INT8 only: smallest share of convolution and matrix-product layers that must run in INT8."""
    int8_rest: Literal["fp32", "fp16"] = "fp32"
    """INT8 only: type of everything between the quantized products. Strong typing runs it as the file says."""
    attention_int8: bool = True
    """INT8 only: whether the two products of activations in each attention (scores, and scores by values) take Q/DQ."""
    timeout: float = Field(default=1800.0, gt=0)
    """Seconds after which a build is stopped."""

    @field_validator("dynamic_batch")
    @classmethod
    def _check_batch(cls, batch: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if batch is not None and not 1 <= batch[0] <= batch[1] <= batch[2]:
            raise ValueError(f"dynamic batch {batch[0]}:{batch[1]}:{batch[2]} must rise from at least 1")
        return batch

    @field_validator("sm")
    @classmethod
    def _check_sm(cls, sm: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [capability for capability in sm if capability not in SUPPORTED_SM]
        if unknown:
            raise ValueError(f"compute capability {unknown[0]} is not one of {', '.join(map(str, SUPPORTED_SM))}")
        return tuple(dict.fromkeys(sm))

    def compute_capabilities(self, product: Product) -> tuple[int, ...]:
        """Compute capabilities the engine is compiled for ahead of time; empty where the build host's GPU decides."""
        return (self.sm or DEFAULT_SM) if product.builds_without_gpu else ()


ONLY_TENSORRT = frozenset({"timing_cache", "hardware_compatibility", "version_compatible", "dla_core"})
ONLY_RTX = frozenset({"sm"})


def split_options(options: Mapping[str, Any], product: Product) -> tuple[TensorRTOptions, dict[str, Any]]:
    """Part the settings of a request into the builder's and the quantizer's.

    Returns:
        The builder's settings, and what is left: fields of ``OnnxQuantSettings``.

    Raises:
        InputError: a value is out of range, or the product has no such option.
    """
    own = {key: value for key, value in options.items() if key in TensorRTOptions.model_fields}
    rest = {key: value for key, value in options.items() if key not in own}
    try:
        parsed = TensorRTOptions(**own)
    except ValidationError as error:
        raise InputError(_first_error(product.title, error)) from error
    refused = ONLY_TENSORRT if product.builds_without_gpu else ONLY_RTX
    for key in sorted(refused):
        if getattr(parsed, key) != TensorRTOptions.model_fields[key].get_default():
            raise InputError(f"{product.title} has no option '{key}'; leave it out or build the other target")
    return parsed, rest


def quantizer_settings(rest: Mapping[str, Any]) -> OnnxQuantSettings:
    """``OnnxQuantSettings`` of the keys that are not the builder's.

    Raises:
        InputError: a key belongs to neither.
    """
    from fptk.calibration.onnx_quantizer import OnnxQuantSettings

    known = set(OnnxQuantSettings.model_fields)
    unknown = sorted(set(rest) - known)
    if unknown:
        valid = ", ".join(sorted(known | set(TensorRTOptions.model_fields)))
        raise InputError(f"unknown option '{unknown[0]}' of a TensorRT build; there are {valid}")
    try:
        return OnnxQuantSettings(**rest)
    except ValidationError as error:
        raise InputError(_first_error("quantiser", error)) from error


def _first_error(what: str, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{what} option {where}={first['input']!r}: {first['msg'].removeprefix('Value error, ')}"
