"""Where the time of bundles' engines goes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fptk.benchmarks.groups import Group, GroupTime, by_group, groups_of
from fptk.benchmarks.profile import PROFILED_CALLS, NodeTime, by_type
from fptk.benchmarks.roofline import measure_memory
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.host import describe_host, usable_cores
from fptk.core.progress import SILENT, Listener, track
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import Bundle, checked_bundle, find_bundles
from fptk.export.targets.registry import get_target


@dataclass(frozen=True)
class Profile:
    """Where the time of one engine goes."""

    label: str
    """Short name, e.g. ``onnx int8``."""
    target: str
    precision: str
    nodes: list[NodeTime]
    """Every node, in the order of computation; also those that needed no work."""
    group_of: dict[str, Group]
    """Group of each node, by its name."""
    groups: list[GroupTime]

    @property
    def milliseconds(self) -> float:
        """Time of all nodes."""
        return sum(node.milliseconds for node in self.nodes if node.ran)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {
            "label": self.label,
            "target": self.target,
            "precision": self.precision,
            "milliseconds": self.milliseconds,
            "groups": [asdict(row) for row in self.groups],
            "operators": [
                {"type": kind, "milliseconds": milliseconds, "nodes": count}
                for kind, milliseconds, count in by_type(self.nodes)
            ],
            "nodes": [
                {
                    "name": node.name,
                    "type": node.type,
                    "kernel": node.kernel,
                    "fused": list(node.fused),
                    "group": self.group_of[node.name],
                    "milliseconds": node.milliseconds,
                    "bytes": node.bytes,
                }
                for node in self.nodes
                if node.ran
            ],
        }


@dataclass(frozen=True)
class ProfileReport:
    """Profiles of several engines, with the conditions they were measured under."""

    host: dict[str, Any]
    threads: int
    bytes_per_s: float
    """Bytes a second, read and written, of a copy that no cache holds."""
    engines: list[Profile]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        conditions = {
            "threads": self.threads,
            "calls": PROFILED_CALLS,
            "memory_gb_per_s": self.bytes_per_s / 1e9,
        }
        return {
            "host": self.host,
            "conditions": conditions,
            "engines": [engine.as_dict() for engine in self.engines],
        }


def profile_bundles(folders: Sequence[Path], threads: int | None = None, listener: Listener = SILENT) -> ProfileReport:
    """Profile engines one after another, each beside the memory rate, whose median counts.

    Args:
        folders: bundles, or folders of bundles; at least one.
        threads: CPU threads of one inference and of the copy; ``None`` is every core this process may use.
        listener: is told how the work goes on.

    Raises:
        InputError: a folder is no bundle, the bundle holds no engine, or fptk has no profiler for its target.
        TargetUnavailableError: this host cannot run an engine.
    """
    cores = threads or usable_cores()
    bundles = [bundle for folder in folders for bundle in find_bundles(folder) or [folder]]
    measured: list[tuple[Bundle, list[NodeTime]]] = []
    rates: list[float] = []
    for folder in track(listener, bundles, "profiling"):
        measured.append(_profile(folder, cores))
        rates.append(measure_memory(cores))
    rate = statistics.median(rates)
    return ProfileReport(describe_host(), cores, rate, [_grouped(*each, rate) for each in measured])


def _grouped(bundle: Bundle, nodes: list[NodeTime], bytes_per_s: float) -> Profile:
    group_of = groups_of(nodes, len(bundle.classes))
    groups = by_group(nodes, group_of, bytes_per_s)
    return Profile(bundle.label, bundle.target, str(bundle.precision), nodes, group_of, groups)


def _profile(folder: Path, threads: int) -> tuple[Bundle, list[NodeTime]]:
    """A bundle, and the time of each node of its engine on one synthetic face."""
    bundle = checked_bundle(folder)
    if bundle.engine is None:
        raise InputError(f"bundle {folder} holds no engine to profile: {bundle.unavailable or bundle.verdict}")
    target = get_target(bundle.target)
    probe = target.probe()
    if not probe.can_run:
        raise TargetUnavailableError(f"{bundle.label} cannot run here: {probe.reason}; {probe.remedy}")
    image = draw_face(0, 0, (512, 512))[0]
    nodes = target.profile(
        folder / bundle.engine,
        bundle.preprocess,
        bundle.preprocess.apply(image)[None],
        threads=threads,
        precision_hint=bundle.precision_hint,
    )
    return bundle, nodes
