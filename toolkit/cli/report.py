"""``fptk report``: one HTML page about a run and its engines, whole in itself."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import MAX_IMAGES, PathType, threads_option


@click.command("report")
@click.argument("models", nargs=-1, type=PathType, metavar="[MODEL]...")
@click.option(
    "--out", type=PathType, help="File for the page. Default: report.html in the run, or here for bundles of no run."
)
@click.option(
    "--data",
    type=PathType,
    help="Images to show and to count mistakes on: a folder of images/ and masks/, or a data set with a val split. "
    "Default: the validation images of the run, else the golden samples of the bundles.",
)
@click.option(
    "--eval-images",
    type=click.IntRange(1, MAX_IMAGES),
    default=24,
    show_default=True,
    help="Label N of these images, evenly spaced.",
)
@click.option("--with-photos", is_flag=True, help="Show photographs too. Their licence may forbid passing the page on.")
@click.option("--bench", type=PathType, help="Result of `fptk bench --json`. Default: the run's own.")
@click.option(
    "--verified",
    multiple=True,
    type=PathType,
    metavar="FILE",
    help="Result of `fptk verify --json` on another machine (repeatable).",
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --out even if fptk report did not write it.")
@threads_option
def command(
    models: tuple[Path, ...],
    out: Path | None,
    data: Path | None,
    eval_images: int,
    with_photos: bool,
    bench: Path | None,
    verified: tuple[Path, ...],
    overwrite: bool,
    threads: int | None,
) -> None:
    """Write one HTML page about MODEL: verdicts, accuracy, speed, faces, training, hashes and commands.

    MODEL is a run, a bundle or a folder of bundles (several may be given); by default the newest run below runs/. The
    page fetches nothing from anywhere, so it can be mailed, printed and kept. Photographs stay out of it unless
    --with-photos is given; drawn faces are shown.
    """
    from fptk.core.console import TERMINAL, log
    from fptk.report.page import write_report
    from fptk.report.sources import ReportRequest

    request = ReportRequest(models, data, eval_images, with_photos, bench, verified, threads)
    path = write_report(request, out, overwrite=overwrite, listener=TERMINAL)
    log.print(f"report written to {path}", soft_wrap=True)
