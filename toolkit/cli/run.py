"""``fptk run``: train, export and bench in one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import PathType

if TYPE_CHECKING:
    from fptk.recipes import Recipe


@click.command("run")
@click.option("--recipe", default="microsegformer", show_default=True, help="Name of a shipped recipe, or a YAML file.")
@click.option(
    "--data",
    multiple=True,
    type=PathType,
    help="Data set folder, or list of pairs (repeatable). Default: synthetic faces.",
)
@click.option("--target", "targets", multiple=True, help="Engine to build for (repeatable). Default: the recipe's.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe (repeatable)."
)
@click.option("--out", type=PathType, help="Run folder. Default: runs/ and the recipe's name.")
def command(
    recipe: str, data: tuple[Path, ...], targets: tuple[str, ...], assignments: tuple[str, ...], out: Path | None
) -> None:
    """Train a recipe, export it to every target, measure the engines, and print the table.

    Run it again and finished stages are kept, an interrupted training is resumed.
    """
    from fptk.recipes import Recipe

    run_recipe(Recipe.load(recipe).with_overrides(assignments), data, targets, out)


def run_recipe(recipe: Recipe, data: tuple[Path, ...], targets: tuple[str, ...], out: Path | None) -> None:
    """Carry ``fptk run`` and ``fptk demo`` through to the table and the exit code."""
    from fptk.benchmarks.report import raise_if_refused, recommend
    from fptk.cli.bench_tables import render
    from fptk.cli.export import finish
    from fptk.cli.options import invocation
    from fptk.core import console
    from fptk.core.precision import Precision
    from fptk.export.targets.registry import resolve_targets
    from fptk.runs.folder import DEFAULT_ROOT
    from fptk.training.machine import wait_without_spinning
    from fptk.workflows.run import RunRequest, run

    wait_without_spinning()
    request = RunRequest(
        recipe=recipe,
        data=data,
        out=out or DEFAULT_ROOT / recipe.name,
        targets=resolve_targets(targets or recipe.export.targets),
        precisions=tuple(Precision(name) for name in recipe.export.precisions),
        command=invocation(),
    )
    result = run(request, console.TERMINAL)
    report = _report(request.out)
    if result.report:
        console.out.print(render(result.report))
        if sentence := recommend(result.report):
            console.out.print(sentence, soft_wrap=True, markup=False)
    if report:
        console.log.print(f"report: {report}", soft_wrap=True)
    finish(result.bundles)
    if result.report:
        raise_if_refused(result.report)
    console.log.print(f"everything of this run is in {request.out}")


def _report(run: Path) -> Path | None:
    """Write the report of a run; one that cannot be written is no fault of the run, and is said in a line."""
    from fptk.core.console import TERMINAL, log
    from fptk.core.errors import InputError
    from fptk.report.page import write_report
    from fptk.report.sources import ReportRequest

    try:
        return write_report(ReportRequest((run,)), listener=TERMINAL)
    except InputError as error:
        log.print(f"no report: {error}", soft_wrap=True)
        return None
