"""What every use of the wheel's builder begins with: a logger for its messages, and the flags of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

SEVERITY_LETTERS = "FEWIV"
"""Letters of TensorRT's severities, in the order of its enumeration."""


def make_logger(trt: Any, write: Callable[[str], object]) -> Any:
    """A logger that gives every message to ``write`` as one line: ``[F]``, ``[E]``, ``[W]``, ``[I]`` or ``[V]``, text.

    Args:
        trt: the module ``tensorrt`` or ``tensorrt_rtx``.
        write: for example the method of an open file.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            write(f"[{SEVERITY_LETTERS[int(severity)]}] {message}\n")

    return Logger()


def network_flags(trt: Any) -> int:
    """``STRONGLY_TYPED``: needed on 10.x, without effect on 11.x and TensorRT-RTX, where no other networks exist."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)
