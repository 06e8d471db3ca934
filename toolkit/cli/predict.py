"""``fptk predict``: label maps or overlays of photographs."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType, threads_option, weights_option


@click.command("predict")
@click.argument("inputs", nargs=-1, required=True, type=PathType, metavar="INPUT...")
@click.option("--out", "folder", type=PathType, required=True, help="Folder for the results.")
@click.option(
    "--format",
    "style",
    type=click.Choice(["labels", "overlay"]),
    default="labels",
    show_default=True,
    help="labels: index PNG with the palette, at the size of the input. overlay: the photograph tinted by class.",
)
@click.option("--bundle", type=PathType, help="Predict with this bundle instead of the weights in PyTorch.")
@weights_option
@threads_option
def command(
    inputs: tuple[Path, ...],
    folder: Path,
    style: str,
    bundle: Path | None,
    weights: Path | None,
    threads: int | None,
) -> None:
    """Parse photographs: each INPUT is an image or a folder of images; results keep the stem, as PNG."""
    from fptk.console import log, track
    from fptk.files import make_folder
    from fptk.predict import list_images, predict, save_labels, save_overlay
    from fptk.preprocess import read_image
    from fptk.runs import open_session

    images = list_images(inputs)
    make_folder(folder)
    session, _ = open_session(bundle, weights, threads)
    with session:
        for path in track(images, "predicting"):
            image = read_image(path)
            labels = predict(session, image)
            destination = folder / f"{path.stem}.png"
            if style == "labels":
                save_labels(labels, destination)
            else:
                save_overlay(image, labels, destination)
    log.print(f"{len(images)} {style} written to {folder}")
