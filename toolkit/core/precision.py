"""The arithmetic that an engine is asked for."""

from __future__ import annotations

from enum import StrEnum


class Precision(StrEnum):
    """Arithmetic of an engine's products, most exact first."""

    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"
    INT8 = "int8"
