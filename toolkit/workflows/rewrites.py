"""What each exact rewrite gives, per engine: cumulative sets of rewrites, all timed in one interleaved run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fptk.benchmarks.latency import Latency, LatencyPlan, TimedCall, as_call, time_in_turns
from fptk.benchmarks.roofline import gemm_call, gemm_rate, roofline_fraction
from fptk.core.classes import CELEBAMASK, ClassSet
from fptk.core.host import describe_host, tool_versions
from fptk.core.precision import Precision
from fptk.core.preprocess import PreprocessSpec
from fptk.core.progress import SILENT, Listener
from fptk.core.session import Session
from fptk.data.synthetic.faces import draw_face
from fptk.export.macs import count_macs
from fptk.export.onnx import export_onnx
from fptk.export.targets.base import BuildRequest, Target
from fptk.export.targets.registry import get_target

if TYPE_CHECKING:
    from fptk.models.network import FaceParsingNetwork

ORIGINAL = "original export"


@dataclass(frozen=True)
class RewriteRow:
    """The network with the rewrites up to this one."""

    name: str
    """Of the rewrite that this row adds, or :data:`ORIGINAL`."""
    macs: int
    """Multiply-adds of the graph."""
    p50_ms: dict[str, float]
    """Median latency by target."""


@dataclass(frozen=True)
class RewriteTable:
    """Rows in the order of the rewrites, with the conditions they were measured under."""

    rows: tuple[RewriteRow, ...]
    threads: int
    plan: LatencyPlan
    size: tuple[int, int]
    gemm_macs_per_s: float
    """Rate of a float32 GEMM in the same run."""


def measure_rewrites(
    network: FaceParsingNetwork,
    spec: PreprocessSpec,
    *,
    targets: Sequence[str] = ("onnx", "openvino"),
    threads: int,
    plan: LatencyPlan,
    classes: ClassSet = CELEBAMASK,
    listener: Listener = SILENT,
) -> RewriteTable:
    """Export, build and time every cumulative set of rewrites in FP32, for every target.

    Args:
        network: with or without trained weights; the time does not depend on them.
        spec: input size and normalisation.
        targets: names of targets that run on this host.
        threads: CPU threads of one inference.
        plan: rounds and calls of the one interleaved run.
        classes: what the network's labels mean.
        listener: is told how many rounds are done.
    """
    image = draw_face(0, 0, spec.size)[0]
    names: list[tuple[str, str]] = []
    macs: dict[str, int] = {}
    calls: list[TimedCall] = []
    with tempfile.TemporaryDirectory(prefix="fptk-") as scratch, ExitStack() as stack:
        for target in map(get_target, targets):
            for step, chosen in _cumulative(network):
                folder = Path(scratch) / f"{target.name}-{len(names)}"
                session, count = _build(network, spec, target, chosen, folder, threads)
                session.classes = classes
                calls.append(as_call(stack.enter_context(session), image))
                names.append((step, target.name))
                macs[step] = count
        times = time_in_turns([*calls, gemm_call(threads)], plan, listener)
    medians = {name: Latency(milliseconds).percentile(50) for name, milliseconds in zip(names, times, strict=False)}
    rows = tuple(
        RewriteRow(step, count, {target: medians[step, target] for target in targets}) for step, count in macs.items()
    )
    return RewriteTable(rows, threads, plan, spec.size, gemm_rate(Latency(times[-1]).percentile(50)))


def _cumulative(network: FaceParsingNetwork) -> Iterator[tuple[str, frozenset[str] | None]]:
    """Name of each row and the rewrites it has; ``None`` is the network as written."""
    from fptk.models.deploy import REWRITES, to_deploy

    yield ORIGINAL, None
    names = to_deploy(network).applies
    for count in range(1, len(names) + 1):
        yield REWRITES[names[count - 1]], frozenset(names[:count])


def _build(
    network: FaceParsingNetwork,
    spec: PreprocessSpec,
    target: Target,
    chosen: frozenset[str] | None,
    folder: Path,
    threads: int,
) -> tuple[Session, int]:
    """The engine of one set of rewrites, and its multiply-adds."""
    from fptk.models.deploy import to_deploy
    from fptk.models.deploy.serving import Serving

    folder.mkdir()
    form: Any = network.original() if chosen is None else to_deploy(network, engine=target.form, rewrites=chosen)
    path = export_onnx(Serving(form, spec), folder / "graph.onnx", spec)
    engine = target.build(BuildRequest(path, Precision.FP32, folder, spec)).files[0]
    return target.load(engine, spec, threads=threads), count_macs(path)


def markdown(table: RewriteTable, command: str) -> str:
    """The table as a document that says how it was made."""
    host, tools = describe_host(), tool_versions()
    targets = list(table.rows[0].p50_ms)
    lines = [
        "# What each exact rewrite gives",
        "",
        f"Made by `{command}`. {host['cpu']} ({' '.join(host['isa'])}), {host['system']}, {table.threads} threads, "
        f"{table.size[0]}x{table.size[1]}, batch 1, FP32, uint8 image in, label map out; median of "
        f"{table.plan.samples} calls in {table.plan.rounds} interleaved rounds. "
        + ", ".join(f"{name} {tools[name]}" for name in ("torch", "onnxruntime", "openvino") if name in tools)
        + f". A float32 GEMM ran at {table.gemm_macs_per_s / 1e9:.1f} G multiply-adds/s in the same run.",
        "",
        "Rows are cumulative: each has the rewrites above it. `×` is the speed relative to the original export in "
        "the same engine; `of GEMM` is the share of the GEMM rate that the row's multiply-adds reach.",
        "",
        "| rewrites up to | M multiply-adds | " + " | ".join(f"{name} ms | × | of GEMM" for name in targets) + " |",
        "|---|---:|" + "---:|---:|---:|" * len(targets),
    ]
    first = table.rows[0]
    for row in table.rows:
        cells = []
        for name in targets:
            share = roofline_fraction(row.macs, row.p50_ms[name], table.gemm_macs_per_s)
            cells.append(f"{row.p50_ms[name]:.1f} | {first.p50_ms[name] / row.p50_ms[name]:.2f} | {share:.0%}")
        lines.append(f"| {row.name} | {row.macs / 1e6:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
