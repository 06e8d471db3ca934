"""``fptk export``: deploy form, ONNX, precision, engine, gate, bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fptk.cli.options import (
    MAX_IMAGES,
    FiniteRange,
    PathType,
    data_option,
    images_option,
    model_argument,
    threads_option,
)
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError

if TYPE_CHECKING:
    from fptk.export.bundle import Bundle

MOST_GOLDEN = 64
"""``fptk.export.golden.MOST_SAMPLES``, whose module ``--help`` is too fast to import; a test holds them together."""


class GoldenType(click.ParamType):  # type: ignore[type-arg]
    """Values of ``--golden``: a number of samples, or ``data``."""

    name = "golden"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        return "data" if value == "data" else click.IntRange(1, MOST_GOLDEN).convert(value, param, ctx)


@click.command("export")
@model_argument
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Engine to build for (repeatable): onnx, openvino, trt, trt-rtx, web, or all. Default: onnx and openvino.",
)
@click.option("--fp32", is_flag=True, help="Build in float32.")
@click.option("--bf16", is_flag=True, help="Build in bfloat16: OpenVINO on processors that have it.")
@click.option("--fp16", is_flag=True, help="Build in float16.")
@click.option(
    "--int8",
    is_flag=True,
    help="Build in INT8, calibrated. Default without any of the four: --fp32 --int8, and --bf16 where target and "
    "processor have it.",
)
@data_option
@images_option
@click.option(
    "--calib",
    type=PathType,
    help="Calibration images: a data set, a folder of photographs without masks, a list of pairs (.csv), or a file "
    "that lists training images.",
)
@click.option(
    "--calib-size", type=click.IntRange(1, MAX_IMAGES), help="Calibration images to choose. Default: the recipe's."
)
@click.option(
    "--calib-strategy",
    type=click.Choice(["coverage", "random"]),
    default="coverage",
    show_default=True,
    help="Choose calibration images that show every class, rare ones included, or any.",
)
@click.option(
    "--max-miou-drop", type=FiniteRange(0, 100), help="Points of mIoU an engine may lose. Default: the recipe's, 0.5."
)
@click.option(
    "--max-class-drop", type=FiniteRange(0, 100), help="Points of IoU a class may lose. Default: the recipe's, 3.0."
)
@click.option("--no-gate", is_flag=True, help="Build and score, but do not judge.")
@click.option("--no-fallback", is_flag=True, help="Do not try gentler INT8 settings where the gate refuses the first.")
@click.option("--explain", is_flag=True, help="Rank the layer groups by what INT8 costs each, and keep the ranking.")
@click.option(
    "--sensitivity-images",
    type=click.IntRange(1, MAX_IMAGES),
    default=8,
    show_default=True,
    help="Images for --explain.",
)
@click.option(
    "--graph",
    type=click.Choice(["deploy", "original"]),
    default="deploy",
    show_default=True,
    help="The network with its exact rewrites, or as it is written.",
)
@click.option(
    "--network",
    "description",
    multiple=True,
    metavar="KEY=VALUE",
    help="What an ONNX file does not say of itself, e.g. --network channels=bgr --network classes=19 (repeatable). "
    "Default: network.yaml beside it.",
)
@click.option("--out", type=PathType, help="Folder that gets bundles/. Default: the run's folder.")
@threads_option
@click.option(
    "--no-processor-matrix",
    is_flag=True,
    help="Do not run each engine under every instruction set that this processor has.",
)
@click.option(
    "--golden",
    multiple=True,
    type=GoldenType(),
    metavar="N|data",
    help="Samples that each bundle takes along to be verified with: how many, or data for evaluation images instead of "
    "drawn faces (repeatable). Default: 4 drawn faces.",
)
@click.option(
    "-o",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set an option of the targets, e.g. -o cpu=vnni or -o openvino.int8_rest=bf16 (repeatable). "
    "`fptk doctor --options` lists them.",
)
def command(
    model: Path | None,
    targets: tuple[str, ...],
    fp32: bool,
    bf16: bool,
    fp16: bool,
    int8: bool,
    data: Path | None,
    eval_images: int | None,
    calib: Path | None,
    calib_size: int | None,
    calib_strategy: Literal["coverage", "random"],
    max_miou_drop: float | None,
    max_class_drop: float | None,
    no_gate: bool,
    no_fallback: bool,
    explain: bool,
    sensitivity_images: int,
    graph: Literal["deploy", "original"],
    description: tuple[str, ...],
    out: Path | None,
    threads: int | None,
    no_processor_matrix: bool,
    golden: tuple[int | str, ...],
    assignments: tuple[str, ...],
) -> None:
    """Build engines from MODEL, and prove each on the evaluation images.

    MODEL is a checkpoint or a run folder; by default the newest run below runs/, or else the shipped weights. It may
    also be a network that is not fptk's: an ONNX file, with a network.yaml beside it.

    Every engine becomes a bundle: a folder that can be copied to a device. An engine that loses more accuracy than
    allowed goes to rejected/ instead, and the command ends with exit code 4.
    """
    from fptk.cli.options import invocation
    from fptk.core.console import TERMINAL
    from fptk.core.files import make_folder
    from fptk.core.precision import Precision
    from fptk.export.foreign.description import parse_assignments
    from fptk.export.plan import ExportPlan, recipe_gate
    from fptk.export.targets.options import read_options
    from fptk.export.targets.registry import resolve_targets
    from fptk.runs.source import find_source
    from fptk.workflows.api import build

    names = resolve_targets(targets or ("onnx", "openvino"))
    options = read_options(names, assignments)
    network = parse_assignments(description) if description else {}
    source = find_source(model, network=network)
    section = source.recipe.export
    asked = {Precision.FP32: fp32, Precision.BF16: bf16, Precision.FP16: fp16, Precision.INT8: int8}
    chosen = tuple(precision for precision, wanted in asked.items() if wanted)
    precisions = chosen or (Precision.FP32, Precision.INT8)
    if explain and Precision.INT8 not in precisions:
        raise InputError("--explain ranks layers by what INT8 costs them; add --int8")
    bundles = build(
        source.weights,
        targets=names,
        precisions=precisions,
        data=data,
        calibration=calib,
        gate=None if no_gate else recipe_gate(section, max_miou_drop, max_class_drop),
        out=make_folder(out or source.folder),
        options=options,
        command=invocation(),
        listener=TERMINAL,
        implied=() if chosen else (Precision.BF16,),
        graph=graph,
        eval_images=eval_images,
        calib_size=calib_size,
        calib_strategy=calib_strategy,
        fallback=not no_fallback,
        explain=explain,
        sensitivity_images=sensitivity_images,
        matrix_images=None if no_processor_matrix else ExportPlan.matrix_images,
        golden=next((each for each in reversed(golden) if isinstance(each, int)), None),
        golden_data="data" in golden,
        threads=threads,
        network=network,
    )
    finish(bundles)


def finish(bundles: Sequence[Bundle]) -> None:
    """Print what became of each engine: of a refused one class by class, and the ranking that ``--explain`` asked for.

    Raises:
        GateRefusedError: the gate refused one (exit code 4).
        TargetUnavailableError: none was refused, but one could not be built here (exit code 3).
    """
    from fptk.calibration.gate import Decision
    from fptk.cli.export_tables import render_classes, render_processors, render_sensitivity
    from fptk.core.console import out

    matrices = []
    for bundle in bundles:
        out.print(f"{bundle.label:<16} {bundle.verdict:<12} {bundle.folder}", soft_wrap=True)
        out.print(f"{'':<16} {bundle.message}", soft_wrap=True)
        if bundle.processors:
            matrices.append((bundle.label, bundle.processors))
        if bundle.verdict is Decision.REFUSED and bundle.judged:
            out.print(render_classes(bundle.label, bundle.judged))
        if bundle.build.sensitivity:
            out.print(render_sensitivity(bundle.label, bundle.build.sensitivity))
    if matrices:
        out.print(render_processors(matrices))
    for verdict, error in ((Decision.REFUSED, GateRefusedError), (Decision.UNAVAILABLE, TargetUnavailableError)):
        hit = [bundle for bundle in bundles if bundle.verdict is verdict]
        if hit:
            raise error("; ".join(f"{each.label}: {each.message}; kept in {each.folder}" for each in hit))
