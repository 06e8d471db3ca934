"""fptk: train a face-parsing network, quantize it to INT8, and prove on every engine that it kept its accuracy.

>>> import fptk
>>> engine = fptk.load("runs/mine/bundles/openvino-int8")
>>> labels = fptk.predict(engine, "face.jpg")

Importing the package imports nothing else; each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fptk.core.version import __version__

if TYPE_CHECKING:
    from fptk.calibration.gate import GatePolicy as Gate
    from fptk.recipes import Recipe
    from fptk.workflows.api import benchmark, build, evaluate, load, predict, train, verify

__all__ = ["Gate", "Recipe", "__version__", "benchmark", "build", "evaluate", "load", "predict", "train", "verify"]

_API = ("benchmark", "build", "evaluate", "load", "predict", "train", "verify")

_HOMES = {
    "Gate": ("fptk.calibration.gate", "GatePolicy"),
    "Recipe": ("fptk.recipes", "Recipe"),
    **{name: ("fptk.workflows.api", name) for name in _API},
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    found = getattr(importlib.import_module(module), attribute)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
