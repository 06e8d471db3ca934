"""What an export was asked for, with every default resolved: the one way from a recipe to a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fptk.calibration.gate import GatePolicy
from fptk.core.errors import InputError
from fptk.core.precision import Precision
from fptk.core.progress import SILENT, Listener
from fptk.export.bundle import Graph
from fptk.export.targets.base import Target
from fptk.export.targets.registry import get_target
from fptk.recipes.schema import ExportSection


@dataclass(frozen=True)
class ExportPlan:
    """Which engines to build, and how to prove them."""

    targets: tuple[str, ...]
    precisions: tuple[Precision, ...]
    """Each is built by the targets that have it."""
    out: Path
    """Folder that gets ``bundles/`` and ``rejected/``."""
    command: str
    """What a manifest names as the command that builds the bundle again."""
    implied: tuple[Precision, ...] = ()
    """Precisions that nobody asked for: built where target and processor have them, and not mentioned elsewhere."""
    graph: Graph = "deploy"
    data: Path | None = None
    """Evaluation data; ``None`` takes the validation images of the run."""
    eval_images: int | None = None
    """Evaluate on so many images, evenly spaced; ``None`` is all."""
    calib: Path | None = None
    """Calibration folder or list; ``None`` chooses from the training images of the run."""
    calib_size: int = 64
    calib_strategy: Literal["coverage", "random"] = "coverage"
    """How the images are chosen where ``calib`` is no list."""
    gate: GatePolicy | None = field(default_factory=GatePolicy)
    """``None`` builds without judging."""
    fallback: bool = True
    """Try gentler settings where the gate refuses the first INT8 engine."""
    explain: bool = False
    """Measure which layer groups INT8 costs most, and keep the ranking in the bundle."""
    sensitivity_images: int = 8
    """Images that the ranking compares logits on."""
    matrix_images: int | None = 16
    """Evaluation images of the processor matrix; ``None`` leaves the matrix out."""
    golden: int = 4
    """Samples that each bundle takes along; see :mod:`fptk.export.golden`."""
    golden_data: bool = False
    """Take them from the evaluation images instead of drawing faces."""
    threads: int | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By target: values of fields of its :attr:`fptk.export.targets.base.Target.options`."""

    @classmethod
    def of_recipe(cls, section: ExportSection, *, out: Path, command: str, **changes: Any) -> ExportPlan:
        """What a recipe says, with what the caller says instead.

        Args:
            section: ``export`` of the recipe.
            out: folder for the bundles.
            command: see :attr:`command`.
            **changes: further fields of this class; one that is ``None`` is left as the recipe has it. ``gate`` is not
                among these: ``None`` there builds without judging.
        """
        resolved: dict[str, Any] = {
            "targets": section.targets,
            "precisions": tuple(Precision(name) for name in section.precisions),
            "calib_size": section.calibration_images,
            "gate": recipe_gate(section),
        }
        resolved |= {key: value for key, value in changes.items() if value is not None or key in _NONE_MEANS}
        return cls(out=out, command=command, **resolved)

    def engines(self, listener: Listener = SILENT) -> list[tuple[Target, Precision]]:
        """What is built: each precision for the targets that have it; the listener hears which have not.

        Raises:
            InputError: no chosen target has one of the precisions.
        """
        targets = [get_target(name) for name in self.targets]
        for precision in self.precisions:
            lacking = [target for target in targets if precision not in target.precisions]
            if len(lacking) == len(targets):
                have = "; ".join(f"{target.name} builds {', '.join(target.precisions)}" for target in targets)
                raise InputError(f"no chosen target builds {precision}: {have}")
            for target in lacking:
                listener.say(f"{target.name} has no {precision}: it builds {', '.join(target.precisions)}")
        asked = self.precisions
        return [
            (target, precision)
            for target in targets
            for precision in Precision
            if precision in target.precisions
            and (precision in asked or (precision in self.implied and target.cannot_compute(precision) is None))
        ]

    def bundle_name(self, target: Target, precision: Precision) -> str:
        """Name of the bundle's folder."""
        return f"{target.name}-{precision}" + ("-original" if self.graph == "original" else "")


_NONE_MEANS = frozenset({"gate", "matrix_images"})
"""Fields whose ``None`` says something."""


def recipe_gate(
    section: ExportSection, max_miou_drop: float | None = None, max_class_drop: float | None = None
) -> GatePolicy:
    """The gate of a recipe, with what the caller says instead."""
    return GatePolicy(
        max_miou_drop=section.max_miou_drop if max_miou_drop is None else max_miou_drop,
        max_class_drop=section.max_class_drop if max_class_drop is None else max_class_drop,
    )
