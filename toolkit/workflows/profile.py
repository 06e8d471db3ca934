"""Where the time of a bundle's engine goes."""

from __future__ import annotations

from pathlib import Path

from fptk.benchmarks.profile import NodeTime
from fptk.core.errors import InputError, TargetUnavailableError
from fptk.core.host import usable_cores
from fptk.data.synthetic.faces import draw_face
from fptk.export.bundle import checked_bundle
from fptk.export.targets.registry import get_target


def profile_bundle(folder: Path, threads: int | None = None) -> tuple[str, list[NodeTime]]:
    """Label of a bundle, and the time of each node of its engine on one synthetic face.

    Args:
        folder: the bundle.
        threads: CPU threads of one inference; ``None`` is every core this process may use.

    Raises:
        InputError: the folder is no bundle, the bundle holds no engine, or fptk has no profiler for its target.
        TargetUnavailableError: this host cannot run the engine.
    """
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
        threads=threads or usable_cores(),
        precision_hint=bundle.precision_hint,
    )
    return bundle.label, nodes
