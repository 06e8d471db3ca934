"""What a checker of graphs finds: one finding a defect and node, and the error that a command makes of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from fptk.core.errors import FptkError, InputError

ERROR = "error"
WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing in a graph that an engine would not take, or would take wrongly."""

    code: str
    """Short name of the defect, e.g. ``uint8-zero-point``."""
    severity: str
    """``error``: rejected, crashes or computed wrongly; ``warning``: built, but slower or less exact than it could
    be."""
    node: str
    """Name of the node."""
    message: str
    """What was found, what the engine makes of it or wants, and what to do."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.node}: {self.message} [{self.code}]"

    def as_dict(self) -> dict[str, str]:
        """The fields, for JSON."""
        return asdict(self)


def raise_on_errors(verdict: str, findings: Iterable[Finding], error: type[FptkError] = InputError) -> None:
    """Turn errors into one line.

    Args:
        verdict: what the line says first, e.g. ``TensorRT would not take model.onnx``.
        findings: of any severity.
        error: what is raised.

    Raises:
        FptkError: of the type ``error``: there is an error among ``findings``; the first three are named.
    """
    errors = [finding for finding in findings if finding.severity == ERROR]
    if errors:
        more = f"; and {len(errors) - 3} more" if len(errors) > 3 else ""
        listed = "; ".join(f"{entry.node}: {entry.message} [{entry.code}]" for entry in errors[:3])
        raise error(f"{verdict}: {listed}{more}")
