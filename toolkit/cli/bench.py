"""``fptk bench``: accuracy and speed of every bundle of a run, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import (
    MAX_BATCH,
    MAX_ROUNDS,
    PathType,
    data_option,
    images_option,
    json_option,
    reference_option,
    threads_option,
    write_result,
)

if TYPE_CHECKING:
    from fptk.benchmarks.report import BenchReport
    from fptk.benchmarks.throughput import Mode
    from fptk.runs.source import ModelSource

MAX_SIDE = 16384
"""Pixels; no camera's photograph is larger."""


def photo_size(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Callback of ``--photo``: width and height, written ``1024x768``.

    Raises:
        click.BadParameter: it is something else, or too large.
    """
    if value is None:
        return None
    sides = value.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise click.BadParameter(f"'{value}' is no size; write width and height, e.g. 1024x768")
    if not all(len(side) <= len(str(MAX_SIDE)) and 1 <= int(side) <= MAX_SIDE for side in sides):
        raise click.BadParameter(f"{value} has a side that is not from 1 to {MAX_SIDE}")
    return int(sides[0]), int(sides[1])


@click.command("bench")
@click.argument("models", nargs=-1, type=PathType, metavar="[MODEL]...")
@click.option("--fps", is_flag=True, help="Measure speed; accuracy is what the bundles carry from their export.")
@click.option(
    "--mode",
    type=click.Choice(["latency", "throughput"]),
    default="latency",
    show_default=True,
    help="Time one call after another, or as many requests at once as each engine takes.",
)
@click.option("--accuracy", is_flag=True, help="Score every engine on the evaluation images, and judge it.")
@reference_option
@data_option
@images_option
@threads_option
@click.option("--batch", type=click.IntRange(1, MAX_BATCH), default=1, show_default=True, help="Images in one call.")
@click.option(
    "--photo",
    metavar="WxH",
    callback=photo_size,
    help="Size of the photograph whose preprocessing, inference and postprocessing are timed. Default: 1024x1024.",
)
@click.option(
    "--transfers/--no-transfers",
    default=True,
    show_default=True,
    help="Count the copies to and from a GPU; without them a GPU engine's figure is trtexec's GPU compute time.",
)
@click.option("--rounds", type=click.IntRange(1, MAX_ROUNDS), help="Interleaved rounds. Default: the recipe's.")
@click.option("--original", is_flag=True, help="Add the export of the network as it is written, for each target.")
@click.option(
    "--roofline", is_flag=True, help="Add what share of this processor's rate in its precision each engine reaches."
)
@click.option(
    "--rewrites",
    "document",
    type=PathType,
    help="Measure instead what each rewrite of the deploy form gives, and write the table to this Markdown file.",
)
@json_option
def command(
    models: tuple[Path, ...],
    fps: bool,
    mode: Mode,
    accuracy: bool,
    reference: Path | None,
    data: Path | None,
    eval_images: int | None,
    threads: int | None,
    batch: int,
    photo: tuple[int, int] | None,
    transfers: bool,
    rounds: int | None,
    original: bool,
    roofline: bool,
    document: Path | None,
    json_path: Path | None,
) -> None:
    """Measure the engines of MODEL against each other.

    MODEL is a bundle folder, a folder of bundles, or a run folder or checkpoint, whose bundles are meant; by default it
    is the newest run below runs/, or else the shipped weights, of which FP32 engines are built first. Several may be
    given.

    With neither --fps nor --accuracy both are measured; bundles are scored with --data or --accuracy only. The engines
    take turns, so that a drifting machine favours none.

    In mode latency each timing is one synchronous call: uint8 images in, label maps out. A second table splits the way
    of a drawn photograph into its stages. In mode throughput each engine works on several requests at once; the table
    says on how many, and FPS is the rate of all together.

    A scored engine is also judged, by its bundle's own limits. Figures and verdicts from the bundles are marked, with
    the processor they are from. A refused engine ends the command with exit code 4.
    """
    from fptk.benchmarks.report import raise_if_refused
    from fptk.core.console import TERMINAL
    from fptk.core.errors import InputError
    from fptk.runs.source import find_source
    from fptk.workflows.bench import BenchRequest, bench_folders, bench_source

    network = find_source(*models or (None,)) if is_network(*models) else None
    if document:
        refuse_beside_rewrites()
        if network is None:
            raise InputError("--rewrites measures one network, not engines; give its run or checkpoint")
        write_rewrites(document, network, threads, rounds)
        return
    if network is not None and reference is not None:
        raise InputError("--reference is for bundles: a run is its own reference")
    request = BenchRequest(
        fps=fps or not accuracy,
        must_time=fps,
        mode=mode,
        accuracy=accuracy or data is not None or not fps,
        must_score=accuracy,
        data=data,
        eval_images=eval_images,
        threads=threads,
        batch=batch,
        photo=photo,
        transfers=transfers,
        rounds=rounds,
        original=original,
        roofline=roofline,
    )
    if network is not None:
        report = bench_source(network, request, TERMINAL)
    else:
        report = bench_folders(models, request, find_source(reference) if reference else None, TERMINAL)
    show(report, json_path)
    raise_if_refused(report)


def is_network(*models: Path) -> bool:
    """Whether one network was given (a run folder, checkpoint or ONNX file), or nothing: the newest run."""
    from fptk.core.files import kind_of
    from fptk.runs.folder import RunFolder

    if len(models) != 1:
        return not models
    return models[0].suffix in (".safetensors", ".onnx") or kind_of(RunFolder(models[0]).card, "run card") is not None


def refuse_beside_rewrites() -> None:
    """Refuse the options that were given beside ``--rewrites`` and would be dropped.

    Raises:
        InputError: there is one.
    """
    from fptk.core.errors import InputError

    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
        if given and parameter.name not in ("models", "document", "threads", "rounds"):
            raise InputError(f"--rewrites does not heed {parameter.opts[0]}; leave one of the two out")


def show(report: BenchReport, json_path: Path | None) -> None:
    """Print the report, and write what ``--json`` asks for."""
    from fptk.benchmarks.report import recommend
    from fptk.cli.bench_tables import render, render_photo, render_roofline
    from fptk.core.console import out

    sentence = recommend(report)
    if str(json_path) != "-":
        out.print(render(report))
        if sentence:
            out.print(sentence, soft_wrap=True)
        if any(row.photo for row in report.rows):
            out.print(render_photo(report))
        if report.conditions["limits"]:
            out.print(render_roofline(report))
    if json_path:
        write_result(json_path, {**report.as_dict(), "recommendation": sentence})


def write_rewrites(document: Path, source: ModelSource, threads: int | None, rounds: int | None) -> None:
    """Measure the rewrites on the run's network and write the table."""
    from fptk.benchmarks.latency import LatencyPlan
    from fptk.cli.options import invocation
    from fptk.core.console import TERMINAL, out
    from fptk.core.files import check_destination, write_text
    from fptk.core.host import usable_cores
    from fptk.models.checkpoint import load_checkpoint
    from fptk.workflows.rewrites import markdown, measure_rewrites

    check_destination(document, "--rewrites")
    network, card = load_checkpoint(source.weights)
    plan = LatencyPlan(rounds=rounds or source.recipe.bench.rounds, calls=source.recipe.bench.calls)
    cores = threads or usable_cores()
    table = measure_rewrites(
        network, card.preprocess, threads=cores, plan=plan, classes=card.class_set, listener=TERMINAL
    )
    text = markdown(table, invocation())
    write_text(document, text, option="--rewrites")
    out.print_lines(text, soft_wrap=True)
