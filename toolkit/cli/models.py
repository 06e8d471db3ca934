"""``fptk models``: the networks with their sizes and options, and the weights with their scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import json_option, write_result

if TYPE_CHECKING:
    from rich.table import Table

    from fptk.workflows.models import Models


@click.command("models")
@json_option
def command(json_path: Path | None) -> None:
    """List what can be trained and what is trained.

    Networks are what `fptk train --model NAME` takes. Weights are those in the package and those of the runs below
    runs/; their scores are of the images that chose them.
    """
    from fptk.core.console import out
    from fptk.workflows.models import list_all

    found = list_all()
    if json_path:
        write_result(json_path, found.as_dict())
        if str(json_path) == "-":
            return
    out.print(_networks(found))
    out.print(_weights(found))


def _networks(found: Models) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="networks: fptk train --model NAME", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("name", "parameters", "options"):
        table.add_column(heading, justify="right" if heading == "parameters" else "left", overflow="fold")
    for each in found.networks:
        options = ", ".join(f"{name}={value}" for name, value in each.options.items())
        table.add_row(each.name, "-" if each.parameters is None else f"{each.parameters:,}", each.problem or options)
    return table


def _weights(found: Models) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(title="weights", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("weights", "network", "parameters", "size", "mIoU", "f1"):
        table.add_column(heading, justify="left" if heading in ("weights", "network") else "right", overflow="fold")
    for each in found.weights:
        scores = (f"{100 * each.scores[name]:.2f}" if name in each.scores else "-" for name in ("miou", "f1"))
        table.add_row(each.name, each.model, f"{each.parameters:,}", "x".join(map(str, each.size)), *scores)
    return table
