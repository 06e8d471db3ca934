"""``fptk predict``: label maps, colors, overlays or JSON of photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from fptk.cli.options import PathType, threads_option


@click.command("predict")
@click.argument("inputs", nargs=-1, required=True, type=PathType, metavar="INPUT...")
@click.option("--out", "folder", type=PathType, required=True, help="Folder for the results.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["labels", "color", "overlay", "json"]),
    default="labels",
    show_default=True,
    help="labels: index PNG with the palette, at the size of the input. color: RGB PNG of the classes' colors. "
    "overlay: the photograph tinted by class. json: size, area and box of each class, and the label map in runs.",
)
@click.option(
    "--model",
    type=PathType,
    help="Bundle, run folder or checkpoint. Default: the newest run below runs/, else the shipped weights.",
)
@click.option("--overwrite", is_flag=True, help="Replace files in --out that fptk predict did not write.")
@threads_option
def command(
    inputs: tuple[Path, ...],
    folder: Path,
    style: Literal["labels", "color", "overlay", "json"],
    model: Path | None,
    overwrite: bool,
    threads: int | None,
) -> None:
    """Parse photographs: each INPUT is an image or a folder of images; results keep the stem, as PNG or JSON.

    An image that cannot be read is left out and named at the end; the exit code is then 2. No result replaces an INPUT,
    and no other file that fptk predict did not write, unless --overwrite is given.
    """
    from fptk.core.console import TERMINAL, log
    from fptk.core.errors import InputError
    from fptk.core.files import make_folder
    from fptk.workflows.predict import check_results, list_images, predict_all, result_of
    from fptk.workflows.sessions import open_model

    images = list_images(inputs)
    check_results([result_of(path, folder, style) for path in images], style, reads=images, overwrite=overwrite)
    session, _ = open_model(model, threads)
    make_folder(folder)
    failures: list[str] = []
    done = 0
    try:
        with session:
            for _, failure in predict_all(session, images, folder, style, listener=TERMINAL):
                done += 1
                if failure:
                    failures.append(failure)
    finally:
        for line in failures:
            log.print(line, soft_wrap=True)
    written = f"{done - len(failures)} {style} written to {folder}"
    if failures:
        raise InputError(
            f"{len(failures)} of {len(images)} images could not be read (listed above), {written}; mend or remove them"
        )
    log.print(written, soft_wrap=True)
