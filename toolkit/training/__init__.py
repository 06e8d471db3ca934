"""The training loop and its parts; importing this package imports no torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fptk.runs.data import open_data
    from fptk.runs.folder import RunFolder, TrainResult, default_folder, newest_run
    from fptk.training.train import train

_LAZY = {
    "TrainResult": "fptk.runs.folder",
    "train": "fptk.training.train",
    "RunFolder": "fptk.runs.folder",
    "default_folder": "fptk.runs.folder",
    "newest_run": "fptk.runs.folder",
    "open_data": "fptk.runs.data",
}

__all__ = ["RunFolder", "TrainResult", "default_folder", "newest_run", "open_data", "train"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
