"""``fptk eval``: metrics of a checkpoint or a bundle, per class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import (
    PathType,
    data_option,
    images_option,
    json_option,
    threads_option,
    weights_option,
    write_result,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fptk.metrics import Scores


@click.command("eval")
@click.argument("bundle", required=False, type=PathType)
@weights_option
@data_option
@images_option
@threads_option
@json_option
def command(
    bundle: Path | None,
    weights: Path | None,
    data: Path | None,
    eval_images: int | None,
    threads: int | None,
    json_path: Path | None,
) -> None:
    """Score BUNDLE (a folder), or else the weights in PyTorch FP32, on the evaluation images."""
    from fptk.console import out
    from fptk.data import open_evaluation
    from fptk.data.splits import limit
    from fptk.errors import InputError
    from fptk.pipeline import score
    from fptk.runs import find_source, open_session

    session, source = open_session(bundle, weights, threads)
    if data:
        dataset = open_evaluation(data)
    else:
        found = (source or find_source(weights)).evaluation_set(None)
        if found is None:
            raise InputError("these weights belong to no run; say what to score them on with --data DIR")
        dataset = found
    with session:
        scores = score(session, limit(dataset, eval_images), session.name)
    if str(json_path) != "-":
        out.print(_table(scores, f"{session.name} on {dataset.name}, {scores.images} images"))
    if json_path:
        write_result(json_path, scores.as_dict())


def _table(scores: Scores, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("class", "IoU", "F1", "pixels"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, entry in scores.per_class.items():
        iou, f1 = ("absent" if value is None else f"{100 * value:.2f}" for value in (entry.iou, entry.f1))
        table.add_row(name, iou, f1, f"{entry.pixels:,}")
    table.caption_justify = "left"
    table.caption = (
        f"mIoU {100 * scores.miou:.2f}  f1 {scores.f1:.4f}  f1_challenge {scores.f1_challenge:.4f}  "
        f"f1_nobg {scores.f1_nobg:.4f}  pixel accuracy {scores.pixel_accuracy:.4f}"
    )
    return table
