"""``fptk export``: deploy form, ONNX, precision, engine, gate, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import PathType, data_option, images_option, threads_option, weights_option
from fptk.errors import GateRefusedError, TargetUnavailableError

if TYPE_CHECKING:
    from fptk.pipeline import Outcome


@click.command("export")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Engine to build for (repeatable): onnx, openvino, trt, trt-rtx, or all. Default: onnx and openvino.",
)
@click.option("--fp32", is_flag=True, help="Build in float32.")
@click.option("--fp16", is_flag=True, help="Build in float16.")
@click.option(
    "--int8", is_flag=True, help="Build in INT8, calibrated. Default without any of the three: --fp32 --int8."
)
@weights_option
@data_option
@images_option
@click.option("--calib", type=PathType, help="Calibration images: a folder, or a file that lists training images.")
@click.option("--calib-size", type=click.IntRange(1), help="Calibration images to choose. Default: the recipe's.")
@click.option("--max-miou-drop", type=float, help="Points of mIoU an engine may lose. Default: the recipe's, 0.5.")
@click.option("--max-class-drop", type=float, help="Points of IoU a class may lose. Default: the recipe's, 3.0.")
@click.option("--no-gate", is_flag=True, help="Build and score, but do not judge.")
@click.option("--no-deploy-form", is_flag=True, help="Export the network as it is written, without the exact rewrites.")
@click.option("--out", type=PathType, help="Folder that gets bundles/. Default: the run's folder.")
@threads_option
def command(
    targets: tuple[str, ...],
    fp32: bool,
    fp16: bool,
    int8: bool,
    weights: Path | None,
    data: Path | None,
    eval_images: int | None,
    calib: Path | None,
    calib_size: int | None,
    max_miou_drop: float | None,
    max_class_drop: float | None,
    no_gate: bool,
    no_deploy_form: bool,
    out: Path | None,
    threads: int | None,
) -> None:
    """Build engines from trained weights, and prove each on the evaluation images.

    Every engine becomes a bundle: a folder that can be copied to a device. An engine that loses more accuracy than
    allowed goes to rejected/ instead, and the command ends with exit code 4.
    """
    from fptk.cli.options import invocation
    from fptk.export.targets.base import Precision
    from fptk.export.targets.registry import resolve_targets
    from fptk.files import make_folder
    from fptk.pipeline import ExportPlan, export_bundles, gate_policy
    from fptk.runs import find_source

    source = find_source(weights)
    section = source.recipe.export
    asked = {Precision.FP32: fp32, Precision.FP16: fp16, Precision.INT8: int8}
    chosen = tuple(precision for precision, wanted in asked.items() if wanted)
    plan = ExportPlan(
        targets=resolve_targets(targets or ("onnx", "openvino")),
        precisions=chosen or (Precision.FP32, Precision.INT8),
        out=make_folder(out or source.folder),
        command=invocation(),
        variant="naive" if no_deploy_form else "deploy",
        data=data,
        eval_images=eval_images,
        calib=calib,
        calib_size=calib_size or section.calibration_images,
        gate=None if no_gate else gate_policy(section, max_miou_drop, max_class_drop),
        threads=threads,
    )
    finish(export_bundles(source, plan))


def finish(outcomes: list[Outcome]) -> None:
    """Print what became of each engine.

    Raises:
        GateRefusedError: the gate refused one (exit code 4).
        TargetUnavailableError: none was refused, but one could not be built here (exit code 3).
    """
    from fptk.cli.console import out

    for outcome in outcomes:
        out.print(f"{outcome.label:<16} {outcome.verdict:<12} {outcome.folder}", soft_wrap=True)
        out.print(f"{'':<16} {outcome.message}", soft_wrap=True, markup=False)
    for verdict, error in (("refused", GateRefusedError), ("unavailable", TargetUnavailableError)):
        hit = [outcome for outcome in outcomes if outcome.verdict == verdict]
        if hit:
            raise error("; ".join(f"{outcome.label}: {outcome.message}; kept in {outcome.folder}" for outcome in hit))
