"""The tables of ``fptk profile``."""

from __future__ import annotations

from rich import box
from rich.table import Table

from fptk.benchmarks.groups import GROUPS
from fptk.benchmarks.profile import by_type, slowest
from fptk.workflows.profile import Profile, ProfileReport


def render_groups(profile: Profile, report: ProfileReport) -> Table:
    """Time by group, the bytes that it moves, and the time that these take at the memory rate."""
    table = Table(
        title=f"{profile.label}: {profile.milliseconds:.1f} ms; memory {report.bytes_per_s / 1e9:.1f} GB/s",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for heading in ("group", "ms", "share", "nodes", "MB", "ms at the memory rate", "of the time"):
        table.add_column(heading, justify="left" if heading == "group" else "right")
    for row in profile.groups:
        memory = ["-"] * 3
        if row.bytes is not None and row.memory_ms is not None:
            part = f"{row.memory_ms / row.milliseconds:.0%}" if row.milliseconds else "-"
            memory = [f"{row.bytes / 1e6:.1f}", f"{row.memory_ms:.2f}", part]
        table.add_row(row.group, f"{row.milliseconds:.2f}", f"{row.share:.0%}", str(row.nodes), *memory)
    table.caption = "MB: inputs, weights and outputs; near 100% memory is the limit, above it caches hold the tensors"
    table.caption_justify = "left"
    return table


def render_operators(profile: Profile) -> Table:
    """Time by operator type, then the ten slowest nodes."""
    whole, ran = profile.milliseconds, sum(node.ran for node in profile.nodes)
    table = Table(title=f"{profile.label}: {whole:.1f} ms in {ran} nodes", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("operator", "ms", "share", "nodes"):
        table.add_column(heading, justify="left" if heading == "operator" else "right", overflow="fold")
    for kind, milliseconds, count in by_type(profile.nodes):
        table.add_row(kind, f"{milliseconds:.2f}", _share(milliseconds, whole), str(count))
    table.add_section()
    for node in slowest(profile.nodes):
        name = f"{node.type} {node.name}"
        table.add_row(name, f"{node.milliseconds:.2f}", _share(node.milliseconds, whole), "")
    return table


def render_comparison(report: ProfileReport) -> Table:
    """Milliseconds of each group in each engine."""
    table = Table(title="ms by group", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("group")
    for profile in report.engines:
        table.add_column(profile.label, justify="right")
    times = [{row.group: row.milliseconds for row in profile.groups} for profile in report.engines]
    for group in GROUPS:
        if any(group in each for each in times):
            table.add_row(group, *(f"{each[group]:.2f}" if group in each else "-" for each in times))
    table.add_section()
    table.add_row("all", *(f"{profile.milliseconds:.2f}" for profile in report.engines))
    return table


def _share(milliseconds: float, whole: float) -> str:
    return f"{milliseconds / whole:.0%}" if whole else "-"
