"""Settings of a TensorRT build."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from fptk.export.tensorrt.product import DEFAULT_SM, Product

SUPPORTED_SM = (75, 80, 86, 89, 120, 121)
"""Compute capabilities that TensorRT-RTX 1.7 builds for."""


class SharedOptions(BaseModel):
    """Settings that TensorRT and TensorRT-RTX both take; ``None`` leaves the builder its own default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dynamic_batch: tuple[int, int, int] | None = None
    """Smallest, optimal and largest batch of the optimization profile, ``MIN:OPT:MAX``; ``None`` builds for one."""
    workspace_mib: int | None = Field(default=None, gt=0, le=2**20)
    """Upper limit of the builder's workspace, MiB."""
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    """Builder optimization level: higher searches longer."""
    min_int8_layers: float = Field(default=0.9, ge=0, le=1)
    """INT8 only: smallest share of convolution and matrix-product layers that must run in INT8."""
    int8_rest: Literal["fp32", "fp16"] = "fp32"
    """INT8 only: type of everything between the quantized products. Strong typing runs it as the file says."""
    attention_int8: bool = True
    """INT8 only: whether the two products of activations in each attention (scores, and scores by values) take Q/DQ."""
    cuda_graph: bool = False
    """Launch the engine as one CUDA graph, which spares the host a launch for every kernel."""
    timeout: float = Field(default=1800.0, gt=0, le=1e6)
    """Seconds after which a build is stopped."""

    @field_validator("dynamic_batch", mode="before")
    @classmethod
    def _read_batch(cls, batch: Any) -> Any:
        if isinstance(batch, list | tuple) or batch is None:
            return batch
        parts = str(batch).split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise ValueError(f"expected MIN:OPT:MAX, e.g. 1:4:8, found {str(batch)[:40]}")
        return tuple(int(part) for part in parts)

    @field_validator("dynamic_batch")
    @classmethod
    def _check_batch(cls, batch: tuple[int, int, int] | None) -> tuple[int, int, int] | None:
        if batch is not None and not 1 <= batch[0] <= batch[1] <= batch[2]:
            raise ValueError(f"dynamic batch {batch[0]}:{batch[1]}:{batch[2]} must rise from at least 1")
        return batch


class OnlyTensorRT(BaseModel):
    """Settings that only TensorRT takes, which builds for the GPU of its host."""

    timing_cache: Path | None = None
    """A file of kernel timings to start from; the updated cache is written beside the engine."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs the engine shall run on, at some cost in speed."""
    version_compatible: bool = False
    """Let later TensorRT versions of the same major version run the engine."""
    dla_core: int | None = Field(default=None, ge=0, le=15)
    """On Jetson: deep-learning accelerator to build for; layers that it lacks fall back to the GPU."""


class OnlyRTX(BaseModel):
    """Settings that only TensorRT-RTX takes, which builds without a GPU."""

    sm: tuple[int, ...] | Literal["current"] = ()
    """Compute capabilities without the dot (86 is 8.6), one or a list. ``current`` is the GPU of this host, an empty
    list :data:`DEFAULT_SM`."""

    @field_validator("sm", mode="before")
    @classmethod
    def _read_sm(cls, sm: Any) -> Any:
        if isinstance(sm, str) and sm != "current":
            raise ValueError(f"expected compute capabilities, e.g. 86 or [86, 89], or current, found {sm[:40]}")
        return (sm,) if isinstance(sm, int) and not isinstance(sm, bool) else sm

    @field_validator("sm")
    @classmethod
    def _check_sm(cls, sm: tuple[int, ...] | Literal["current"]) -> tuple[int, ...] | Literal["current"]:
        if sm == "current":
            return sm
        unknown = [capability for capability in sm if capability not in SUPPORTED_SM]
        if unknown:
            raise ValueError(f"compute capability {unknown[0]} is not one of {', '.join(map(str, SUPPORTED_SM))}")
        return tuple(dict.fromkeys(sm))


class TensorRTOptions(SharedOptions, OnlyTensorRT, OnlyRTX):
    """All that a builder of either product may be told; a target sets what its product has."""

    def compute_capabilities(self, product: Product) -> tuple[int, ...]:
        """Compute capabilities the engine is compiled for ahead of time; empty where the build host's GPU decides."""
        if not product.builds_without_gpu or self.sm == "current":
            return ()
        return self.sm or DEFAULT_SM
