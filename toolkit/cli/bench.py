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
    threads_option,
    weights_option,
    write_result,
)

if TYPE_CHECKING:
    from fptk.runs.source import ModelSource
    from fptk.workflows.bench import BenchReport


@click.command("bench")
@click.argument("bundles", nargs=-1, type=PathType)
@click.option("--fps", is_flag=True, help="Measure speed; accuracy is what the bundles carry from their export.")
@click.option("--accuracy", is_flag=True, help="Score every engine on the evaluation images, and judge it.")
@weights_option
@data_option
@images_option
@threads_option
@click.option("--batch", type=click.IntRange(1, MAX_BATCH), default=1, show_default=True, help="Images in one call.")
@click.option(
    "--transfers/--no-transfers",
    default=True,
    show_default=True,
    help="Count the copies to and from a GPU; without them a GPU engine's figure is trtexec's GPU compute time.",
)
@click.option("--rounds", type=click.IntRange(1, MAX_ROUNDS), help="Interleaved rounds. Default: the recipe's.")
@click.option(
    "--baseline", is_flag=True, help="Add the naive export of each target: what the rewrites are measured by."
)
@click.option(
    "--roofline", is_flag=True, help="Add what share of this processor's float32 GEMM rate each engine reaches."
)
@click.option(
    "--profile", is_flag=True, help="Print instead where the time goes: per operator type, and the slowest nodes."
)
@click.option(
    "--rewrites",
    "document",
    type=PathType,
    help="Measure instead what each rewrite of the deploy form gives, and write the table to this Markdown file.",
)
@json_option
def command(
    bundles: tuple[Path, ...],
    fps: bool,
    accuracy: bool,
    weights: Path | None,
    data: Path | None,
    eval_images: int | None,
    threads: int | None,
    batch: int,
    transfers: bool,
    rounds: int | None,
    baseline: bool,
    roofline: bool,
    profile: bool,
    document: Path | None,
    json_path: Path | None,
) -> None:
    """Measure BUNDLES (folders; default: all of the newest run) against each other.

    With neither --fps nor --accuracy both are measured; BUNDLES are scored with --data or --accuracy only. An FPS
    figure is one synchronous call at a time (latency), uint8 images in, label maps out; the engines take turns, so that
    a drifting machine favours none.

    What is scored is judged, by the bundle's own limits. Figures and verdicts from the bundles are marked, with the
    processor they are from. A refused engine ends the command with exit code 4.
    """
    from fptk.cli.bench_tables import render_profile
    from fptk.core.console import out
    from fptk.core.errors import InputError
    from fptk.runs.source import find_source
    from fptk.workflows.bench import (
        BenchRequest,
        bench_folders,
        bench_source,
        bundles_of,
        profile_bundles,
        raise_if_refused,
    )

    for switch, heeded in ALONE.items():
        if click.get_current_context().params[switch]:
            refuse_beside(switch, heeded)
    if document:
        if bundles:
            raise InputError("--rewrites measures a network, not bundles; name its run with --weights instead")
        write_rewrites(document, find_source(weights), threads, rounds)
        return
    if profile:
        for label, nodes in profile_bundles(bundles or bundles_of(find_source(weights)), threads):
            out.print(render_profile(label, nodes))
        return
    request = BenchRequest(
        fps=fps or not accuracy,
        accuracy=accuracy or data is not None or not fps,
        must_score=accuracy,
        data=data,
        eval_images=eval_images,
        threads=threads,
        batch=batch,
        transfers=transfers,
        rounds=rounds,
        baseline=baseline,
        roofline=roofline,
    )
    if bundles:
        report = bench_folders(bundles, request, find_source(weights) if weights else None)
    else:
        report = bench_source(find_source(weights), request)
    show(report, json_path, roofline=roofline)
    raise_if_refused(report)


ALONE = {
    "document": {"document", "weights", "threads", "rounds", "bundles"},
    "profile": {"profile", "weights", "threads", "bundles"},
}
"""Options that print something else than the table, and the parameters that they heed."""


def refuse_beside(switch: str, heeded: set[str]) -> None:
    """Refuse every option that was given beside ``switch`` and would be dropped.

    Raises:
        InputError: there is one.
    """
    from fptk.core.errors import InputError

    context = click.get_current_context()
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in context.params:
        given = context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and name not in heeded:
            raise InputError(f"{names[switch]} does not heed {names[name]}; leave one of the two out")


def show(report: BenchReport, json_path: Path | None, *, roofline: bool) -> None:
    """Print the report, and write what ``--json`` asks for."""
    from fptk.cli.bench_tables import render, render_roofline
    from fptk.core.console import out
    from fptk.workflows.bench import recommend

    sentence = recommend(report)
    if str(json_path) != "-":
        out.print(render(report))
        if sentence:
            out.print(sentence, markup=False, soft_wrap=True)
        if roofline:
            out.print(render_roofline(report))
    if json_path:
        write_result(json_path, {**report.as_dict(), "recommendation": sentence})


def write_rewrites(document: Path, source: ModelSource, threads: int | None, rounds: int | None) -> None:
    """Measure the rewrites on the run's network and write the table."""
    from fptk.benchmarks.latency import LatencyPlan
    from fptk.cli.options import invocation
    from fptk.core.console import counting, out
    from fptk.core.files import check_destination, write_text
    from fptk.core.host import usable_cores
    from fptk.models.checkpoint import load_checkpoint
    from fptk.workflows.rewrites import markdown, measure_rewrites

    check_destination(document, "--rewrites")
    network, card = load_checkpoint(source.weights)
    plan = LatencyPlan(rounds=rounds or source.recipe.bench.rounds, calls=source.recipe.bench.calls)
    with counting("timing, in turns", plan.rounds, animated=False) as on_round:
        table = measure_rewrites(
            network, card.preprocess, threads=threads or usable_cores(), plan=plan, on_round=on_round
        )
    text = markdown(table, invocation())
    write_text(document, text, option="--rewrites")
    out.print_lines(text, soft_wrap=True)
