"""``fptk profile``: where an engine's time goes."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import PathType, json_option, threads_option, write_result


@click.command("profile")
@click.argument("models", nargs=-1, required=True, type=PathType, metavar="MODEL...")
@threads_option
@json_option
def command(models: tuple[Path, ...], threads: int | None, json_path: Path | None) -> None:
    """Show where the time of each MODEL (a bundle folder, or a folder of bundles) goes.

    One table has it by group: products, attention, normalization, activation, quantization, layout, upsampling, label
    map, elementwise, other. It also shows the bytes that a group moves, and the time that they take at this machine's
    memory rate. A second has it per operator type, with the ten slowest nodes. Several engines are compared in a last
    one.

    Each time is the median of ten inferences of one synthetic face.
    """
    from fptk.cli.profile_tables import render_comparison, render_groups, render_operators
    from fptk.core.console import TERMINAL, out
    from fptk.workflows.profile import profile_bundles

    report = profile_bundles(models, threads, TERMINAL)
    if str(json_path) != "-":
        for profile in report.engines:
            out.print(render_groups(profile, report))
            out.print(render_operators(profile))
        if len(report.engines) > 1:
            out.print(render_comparison(report))
    if json_path:
        write_result(json_path, report.as_dict())
