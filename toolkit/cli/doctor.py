"""``fptk doctor``: what this machine can build and run, and how to add what is missing."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import json_option, write_result


@click.command("doctor")
@click.option("--options", "show_options", is_flag=True, help="List what `fptk export -o KEY=VALUE` can set.")
@json_option
def command(show_options: bool, json_path: Path | None) -> None:
    """Report processor, versions, and what each target can do on this machine."""
    from rich.table import Table

    from fptk.core.console import out
    from fptk.workflows.doctor import examine

    if show_options:
        print_options()
        return
    found = examine()
    if json_path:
        write_result(json_path, found.as_dict())
        if str(json_path) == "-":
            return
    host = found.host
    out.print(f"{host['cpu']}, {host['cores']} cores, {host['system']}, Python {host['python']}")
    out.print(f"ISA: {' '.join(host['isa']) or 'unknown'}", soft_wrap=True)
    out.print("  ".join(f"{name} {version}" for name, version in found.tools.items()), soft_wrap=True)
    table = Table()
    for heading in ("target", "builds", "runs"):
        table.add_column(heading)
    for name, probe in found.targets.items():
        table.add_row(name, *("yes" if answer else "no" for answer in (probe.can_build, probe.can_run)))
    out.print(table)
    for each in found.problems:
        out.print(f"{each.what}: {each.problem}", soft_wrap=True)
        out.print(f"  to mend: {each.remedy}", soft_wrap=True)


def print_options() -> None:
    """Print the options of every target, with their types, defaults and meanings."""
    from rich.table import Table

    from fptk.core.console import out
    from fptk.export.targets.options import describe_options
    from fptk.export.targets.registry import get_target, list_targets

    for name in list_targets():
        table = Table(title=f"target {name}", title_justify="left")
        for heading in ("option", "values", "default", "meaning"):
            table.add_column(heading, overflow="fold")
        for option in describe_options(get_target(name)):
            cells = (option.name, option.values, option.default, option.meaning)
            table.add_row(*(cell.replace("`", "") for cell in cells))
        out.print(table)
