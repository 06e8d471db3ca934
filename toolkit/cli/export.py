"""``fptk export``: deploy form, ONNX, precision, engine, gate, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from fptk.cli.options import (
    MAX_IMAGES,
    FiniteRange,
    PathType,
    data_option,
    images_option,
    threads_option,
    weights_option,
)
from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError

if TYPE_CHECKING:
    from fptk.export.pipeline import Outcome


@click.command("export")
@click.option(
    "--target",
    "targets",
    multiple=True,
    help="Engine to build for (repeatable): onnx, openvino, trt, trt-rtx, or all. Default: onnx and openvino.",
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
@weights_option
@data_option
@images_option
@click.option("--calib", type=PathType, help="Calibration images: a folder, or a file that lists training images.")
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
@click.option("--no-deploy-form", is_flag=True, help="Export the network as it is written, without the exact rewrites.")
@click.option("--out", type=PathType, help="Folder that gets bundles/. Default: the run's folder.")
@threads_option
@click.option(
    "--cpu",
    type=click.Choice(["any", "avx2", "vnni", "amx"]),
    help="onnx, openvino: processors that INT8 must be right on: without VNNI, with it, with AMX. Default: any.",
)
@click.option(
    "--no-processor-matrix",
    is_flag=True,
    help="Do not run each engine under every instruction set that this processor has.",
)
@click.option("--sm", multiple=True, type=int, help="trt-rtx: compute capability to build for, e.g. 86 (repeatable).")
@click.option("--dynamic-batch", metavar="MIN:OPT:MAX", help="trt, trt-rtx: batch sizes of the optimisation profile.")
@click.option("--workspace", type=click.IntRange(1, 2**20), help="trt, trt-rtx: limit of the builder's workspace, MiB.")
@click.option("--min-int8-layers", type=FiniteRange(0, 1), help="trt, trt-rtx: least share of INT8 conv and gemm.")
@click.option("--float-attention", is_flag=True, help="trt, trt-rtx: no INT8 in the products inside attention.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="trt, trt-rtx: how long the builder searches.")
@click.option("--timing-cache", type=PathType, help="trt: kernel timings of an earlier build to start from.")
@click.option(
    "--int8-rest",
    type=click.Choice(["fp32", "fp16", "bf16"]),
    help="Type of INT8's float rest: fp32 or fp16 for trt and trt-rtx, fp32 or bf16 for openvino.",
)
@click.option("--dla", type=click.IntRange(0, 15), help="trt on Jetson: deep-learning accelerator to build for.")
@click.option("--version-compatible", is_flag=True, default=None, help="trt: let later versions run the engine.")
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["ampere_plus", "same_compute_capability"]),
    help="trt: let other GPUs run the engine.",
)
@click.option(
    "--check",
    type=PathType,
    help="Only check this file: an ONNX file for what TensorRT rejects or mis-scales, an OpenVINO .xml file for what "
    "OpenVINO computes wrongly on some processor.",
)
def command(
    targets: tuple[str, ...],
    fp32: bool,
    bf16: bool,
    fp16: bool,
    int8: bool,
    weights: Path | None,
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
    no_deploy_form: bool,
    out: Path | None,
    threads: int | None,
    cpu: str | None,
    no_processor_matrix: bool,
    sm: tuple[int, ...],
    dynamic_batch: str | None,
    workspace: int | None,
    min_int8_layers: float | None,
    float_attention: bool,
    optimization_level: int | None,
    timing_cache: Path | None,
    int8_rest: str | None,
    dla: int | None,
    version_compatible: bool | None,
    hardware_compatibility: str | None,
    check: Path | None,
) -> None:
    """Build engines from trained weights, and prove each on the evaluation images.

    Every engine becomes a bundle: a folder that can be copied to a device. An engine that loses more accuracy than
    allowed goes to rejected/ instead, and the command ends with exit code 4.
    """
    from fptk.cli.options import invocation
    from fptk.core.files import make_folder
    from fptk.core.precision import Precision
    from fptk.export.pipeline import ExportPlan, export_bundles, gate_policy
    from fptk.export.targets.registry import resolve_targets
    from fptk.runs.source import find_source

    if check:
        check_graph(check, sm)
        return
    options = {
        "cpu": cpu,
        "sm": sm or None,
        "dynamic_batch": parse_batches(dynamic_batch) if dynamic_batch else None,
        "workspace_mib": workspace,
        "min_int8_layers": min_int8_layers,
        "attention_int8": False if float_attention else None,
        "optimization_level": optimization_level,
        "timing_cache": timing_cache,
        "int8_rest": int8_rest,
        "dla_core": dla,
        "version_compatible": version_compatible,
        "hardware_compatibility": hardware_compatibility,
    }
    names = resolve_targets(targets or ("onnx", "openvino"))
    source = find_source(weights)
    section = source.recipe.export
    asked = {Precision.FP32: fp32, Precision.BF16: bf16, Precision.FP16: fp16, Precision.INT8: int8}
    chosen = tuple(precision for precision, wanted in asked.items() if wanted)
    precisions = chosen or (Precision.FP32, Precision.INT8)
    if explain and Precision.INT8 not in precisions:
        raise InputError("--explain ranks layers by what INT8 costs them; add --int8")
    plan = ExportPlan(
        targets=names,
        precisions=precisions,
        implied=() if chosen else (Precision.BF16,),
        out=make_folder(out or source.folder),
        command=invocation(),
        variant="naive" if no_deploy_form else "deploy",
        data=data,
        eval_images=eval_images,
        calib=calib,
        calib_size=calib_size or section.calibration_images,
        calib_strategy=calib_strategy,
        gate=None if no_gate else gate_policy(section, max_miou_drop, max_class_drop),
        fallback=not no_fallback,
        explain=explain,
        sensitivity_images=sensitivity_images,
        matrix_images=None if no_processor_matrix else ExportPlan.matrix_images,
        threads=threads,
        options=used_options(options, names),
    )
    outcomes = export_bundles(source, plan)
    finish(outcomes)


def finish(outcomes: list[Outcome]) -> None:
    """Print what became of each engine: of a refused one class by class, and the ranking that ``--explain`` asked for.

    Raises:
        GateRefusedError: the gate refused one (exit code 4).
        TargetUnavailableError: none was refused, but one could not be built here (exit code 3).
    """
    from fptk.cli.export_tables import render_classes, render_processors, render_sensitivity
    from fptk.core.console import out
    from fptk.export.bundle import read_bundle

    matrices = []
    for outcome in outcomes:
        bundle = read_bundle(outcome.folder)
        out.print(f"{outcome.label:<16} {outcome.verdict:<12} {outcome.folder}", soft_wrap=True)
        out.print(f"{'':<16} {outcome.message}", soft_wrap=True, markup=False)
        if bundle.processors:
            matrices.append((bundle.label, bundle.processors))
        if outcome.verdict == "refused" and "classes" in (bundle.gate or {}):
            out.print(render_classes(bundle))
        if "sensitivity" in bundle.build:
            out.print(render_sensitivity(bundle))
    if matrices:
        out.print(render_processors(matrices))
    for verdict, error in (("refused", GateRefusedError), ("unavailable", TargetUnavailableError)):
        hit = [outcome for outcome in outcomes if outcome.verdict == verdict]
        if hit:
            raise error("; ".join(f"{outcome.label}: {outcome.message}; kept in {outcome.folder}" for outcome in hit))


def parse_batches(text: str) -> tuple[int, ...]:
    """``1:4:8`` as numbers.

    Raises:
        InputError: it is not three whole numbers.
    """
    parts = text.split(":")
    if len(parts) != 3 or not all(part.isdigit() for part in parts):
        raise InputError(f"--dynamic-batch {text}: expected MIN:OPT:MAX, e.g. 1:4:8")
    return tuple(int(part) for part in parts)


FLAGS = {"workspace_mib": "--workspace", "dla_core": "--dla", "attention_int8": "--float-attention"}
"""Flags of the options that are called otherwise than the builder's setting."""


def used_options(options: dict[str, Any], targets: tuple[str, ...]) -> dict[str, Any]:
    """The options that were given; one that no chosen target knows is a mistake.

    Raises:
        InputError: an option fits none of the targets.
    """
    from fptk.export.targets.registry import get_target

    given = {key: value for key, value in options.items() if value is not None}
    known = frozenset().union(*(get_target(name).option_names for name in targets))
    for key in given.keys() - known:
        flag = FLAGS.get(key, f"--{key.replace('_', '-')}")
        raise InputError(f"{flag} does not apply to target {', '.join(targets)}; leave it out")
    return given


def check_graph(path: Path, compute_capabilities: tuple[int, ...]) -> None:
    """Print what an engine would get wrong in a graph.

    That is OpenVINO for an ``.xml`` file, on any processor; else TensorRT for an ONNX file, on these GPUs where any are
    named.

    Raises:
        InputError: there is an error among the findings.
    """
    from fptk.core.console import out
    from fptk.export.openvino.lint import lint_openvino, refuse_known_faults
    from fptk.export.tensorrt.lint import lint_tensorrt, refuse_errors

    is_openvino = path.suffix.lower() == ".xml"
    findings = lint_openvino(path) if is_openvino else lint_tensorrt(path, compute_capabilities)
    for finding in findings:
        out.print(str(finding), markup=False, soft_wrap=True)
    if is_openvino:
        refuse_known_faults(path.name, findings, InputError)
        out.print(f"{path}: nothing that OpenVINO is known to compute wrongly", soft_wrap=True)
    else:
        refuse_errors(path, findings)
        out.print(f"{path}: nothing that TensorRT rejects", soft_wrap=True)
