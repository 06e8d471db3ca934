"""The training loop and its parts; importing this package imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fptk.training.runs import RunFolder, TrainResult, default_folder, newest_run
    from fptk.training.sources import open_data
    from fptk.training.start import train

_LAZY = {
    "TrainResult": "fptk.training.runs",
    "train": "fptk.training.start",
    "RunFolder": "fptk.training.runs",
    "default_folder": "fptk.training.runs",
    "newest_run": "fptk.training.runs",
    "open_data": "fptk.training.sources",
}

__all__ = ["RunFolder", "TrainResult", "default_folder", "newest_run", "open_data", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
