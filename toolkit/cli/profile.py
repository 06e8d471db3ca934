"""``fptk profile``: where an engine's time goes."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType, threads_option


@click.command("profile")
@click.argument("model", type=PathType)
@threads_option
def command(model: Path, threads: int | None) -> None:
    """Show where the time of MODEL (a bundle folder) goes: per operator type, and the ten slowest nodes.

    Each figure is the median of ten inferences of one synthetic face.
    """
    from fptk.cli.bench_tables import render_profile
    from fptk.core.console import out
    from fptk.workflows.profile import profile_bundle

    out.print(render_profile(*profile_bundle(model, threads)))
