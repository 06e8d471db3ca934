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
    from dataclasses import asdict

    from rich.table import Table

    from fptk.core.console import out
    from fptk.core.host import describe_host, tool_versions
    from fptk.export.targets.registry import get_target, list_targets

    if show_options:
        print_options()
        return
    host, tools = describe_host(), tool_versions()
    probes = {name: get_target(name).probe() for name in list_targets()}
    if json_path:
        write_result(
            json_path,
            {"host": host, "tools": tools, "targets": {name: asdict(probe) for name, probe in probes.items()}},
        )
        if str(json_path) == "-":
            return
    out.print(f"{host['cpu']}, {host['cores']} cores, {host['system']}, Python {host['python']}")
    out.print(f"ISA: {' '.join(host['isa']) or 'unknown'}", soft_wrap=True)
    out.print("  ".join(f"{name} {version}" for name, version in tools.items()), soft_wrap=True)
    table = Table()
    for heading in ("target", "builds", "runs", "why not", "what to do"):
        table.add_column(heading, overflow="fold")
    for name, probe in probes.items():
        answers = ["yes" if answer else "no" for answer in (probe.can_build, probe.can_run)]
        table.add_row(name, *answers, probe.reason, probe.remedy)
    out.print(table)


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
