"""``fptk demo``: ``fptk run`` on the embedded default."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType


@click.command("demo")
@click.option("--out", type=PathType, help="Run folder. Default: runs/demo.")
def command(out: Path | None) -> None:
    """Train on synthetic faces, export FP32 and INT8 engines, and compare them: minutes, with no data."""
    from fptk.cli.run import run_recipe
    from fptk.recipes import Recipe

    run_recipe(Recipe.load("demo"), (), (), out)
