"""Latency and throughput of the PyTorch network on a GPU: both graphs, every precision, eager, compiled, captured.

``python -m fptk.workflows.gpu_speed --out speed.json`` measures the shipped weights and writes the figures as JSON and,
beside it, as a Markdown table. On a CPU it measures what a CPU can run.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fptk.benchmarks.latency import LatencyPlan, time_in_turns
from fptk.core.console import TERMINAL
from fptk.core.dataset import UInt8Array
from fptk.core.errors import FptkError, InputError, one_line
from fptk.core.files import write_json, write_text
from fptk.core.host import describe_host, tool_versions
from fptk.core.preprocess import PreprocessSpec, check_size, read_image
from fptk.core.progress import SILENT, Listener
from fptk.data.folders import find_pair
from fptk.data.synthetic.faces import draw_face
from fptk.runs.source import shipped_weights
from fptk.workflows.predict import list_images

if TYPE_CHECKING:
    from torch import Tensor

    from fptk.models.network import FaceParsingNetwork
    from fptk.workflows.torch_variants import Runner, Variant

FACES = 16
"""Images whose labels are compared, at most."""

MEASURED, FAILED, LEFT_OUT = "measured", "failed", "not measured"

COMPILERS = {None: 0, "default": 1}
"""The pass in which a compiler's variants come in; those of the others come in the last."""

CONDITIONS = (
    "Weights are converted once (no autocast), memory is channels-last, no gradients, cuDNN picks convolutions by "
    "trial, TF32 only where the table says so. Latency: batch 1, from uint8 images to uint8 label maps, both on the "
    "device; with copies: both in host memory. Throughput: batches on the device, several calls in a row. Variants "
    "take turns in one interleaved run. Labels: share of pixels whose label is the original graph's in eager fp32."
)


@dataclass(frozen=True, kw_only=True)
class SpeedPlan:
    """What is measured, and for how long.

    ``variants`` come in order of importance: what no longer fits into ``limit`` is left out from the end.
    """

    device: str
    variants: tuple[Variant, ...]
    batches: tuple[int, ...] = (1, 8, 32, 64)
    """Latency is that of batch 1, throughput that of each; ascending."""
    compiled_batches: tuple[int, ...] = (1, 32)
    """Those of ``batches`` that are compiled for, each for itself: a size of any value takes three times as long to
    compile as a fixed one."""
    limit: float = 300.0
    """Seconds for everything; what has begun is finished."""
    share: float = 0.2
    """Part of ``limit`` that a pass over all variants may take."""
    latency: LatencyPlan = field(default_factory=lambda: LatencyPlan(rounds=25, calls=4))
    throughput: LatencyPlan = field(default_factory=lambda: LatencyPlan(rounds=5, calls=1))
    compilation: float = 40.0
    """Seconds that the first compilation is expected to take."""
    burst: int = 4
    """Calls in a row that are timed as one for the throughput."""
    clock: Callable[[], float] = time.monotonic

    def batches_of(self, variant: Variant) -> tuple[int, ...]:
        """The batch sizes at which a variant is timed."""
        from fptk.workflows.torch_variants import MODES

        compiled = MODES[variant.mode].compiler is not None
        return tuple(batch for batch in self.batches if not compiled or batch in self.compiled_batches)


@dataclass
class Row:
    """What is known of one variant; the fields are those of the JSON."""

    graph: str
    precision: str
    mode: str
    state: str = LEFT_OUT
    reason: str | None = "the time was up before its turn"
    """Why there are no figures, or not all of them."""
    prepare_s: float | None = None
    """Seconds of the first calls: compiling for each batch size, capturing, warm-up."""
    latency_ms: dict[str, float] | None = None
    """``median`` and ``p90`` of batch 1, and ``calls``."""
    latency_with_copies_ms: dict[str, float] | None = None
    images_per_s: dict[str, float] = field(default_factory=dict)
    """By batch size."""
    equal_labels: float | None = None
    """Share of pixels."""

    def fail(self, error: Exception, where: str) -> None:
        """Record in one line what went wrong."""
        first = next(iter(str(error).strip().splitlines()), "")
        self.reason = one_line(f"{where}: {type(error).__name__}: {first}")[:300]
        if self.state != MEASURED:
            self.state = FAILED


def default_variants(device: str) -> tuple[Variant, ...]:
    """All variants that make sense on ``"cuda"`` or ``"cpu"``, the most important first.

    What takes seconds comes before what is compiled for a minute.
    """
    from fptk.workflows.torch_variants import DEPLOY, ORIGINAL, Variant

    gpu = device == "cuda"
    graphs = (DEPLOY, ORIGINAL)
    precisions = ("fp16", "fp32", "bf16", "tf32") if gpu else ("fp32", "bf16")
    quick = ("eager", "eager, CUDA graph") if gpu else ("eager",)
    long = ("compiled", "compiled, CUDA graph") if gpu else ("compiled",)
    found = [Variant(graph, name, mode) for name in precisions for graph in graphs for mode in quick]
    found += [Variant(graph, name, mode) for name in precisions for graph in graphs for mode in long]
    if gpu:
        found += [Variant(DEPLOY, "fp16", f"compiled {mode}") for mode in ("reduce-overhead", "max-autotune")]
    return tuple(found)


class Speed:
    """One measurement.

    Args:
        network: in evaluation mode, on the CPU; it is left alone.
        spec: size and normalization.
        faces: uint8 (H, W, 3) each, of the spec's size; labels are compared on them. At least one.
        plan: what is measured.
        listener: hears which variant is prepared, and of failures.
    """

    def __init__(
        self,
        network: FaceParsingNetwork,
        spec: PreprocessSpec,
        faces: Sequence[UInt8Array],
        plan: SpeedPlan,
        listener: Listener = SILENT,
    ) -> None:
        import torch

        from fptk.workflows.torch_variants import Variants

        self.plan = plan
        self._listener = listener
        self._device = torch.device(plan.device)
        self._variants = Variants(network, spec, plan.device)
        self._faces = torch.from_numpy(np.stack(faces))
        self.rows = {each: Row(each.graph, each.precision, each.mode) for each in plan.variants}
        self.profile: list[dict[str, Any]] = []
        self._runners: dict[Variant, Runner] = {}
        self._start = plan.clock()
        self._longest: dict[bool, float] = {}  # seconds, of those that were compiled and of the others
        self._last_pass = 0.0

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self.plan.clock() - self._start

    def passes(self) -> Iterator[list[Row]]:
        """Measure; the rows after each pass over all variants that are ready by then.

        The first pass is over those that are not compiled. The next one times them again beside those that are, the
        last one beside those whose compilation takes longest; the figures of a pass replace those before.
        """
        from fptk.workflows.torch_variants import MODES, measuring

        ranks = {each: COMPILERS.get(MODES[each.mode].compiler, len(COMPILERS)) for each in self.plan.variants}
        with measuring():
            self._reference = self._labels_of_the_original()
            for rank in sorted(set(ranks.values())):
                before = len(self._runners)
                for variant in self.plan.variants:
                    if ranks[variant] == rank:
                        self._prepare(variant)
                if len(self._runners) > before:
                    self._time_all()
                    if not self.profile:
                        self._profile()
                yield list(self.rows.values())

    def _labels_of_the_original(self) -> Tensor:
        from fptk.workflows.torch_variants import ORIGINAL, Variant

        runner = self._variants.runner(Variant(ORIGINAL, "fp32", "eager"))
        runner.select()
        return self._labels(runner)

    def _labels(self, runner: Runner) -> Tensor:
        """uint8 (faces, H, W)."""
        import torch

        from fptk.workflows.torch_variants import labels_of

        return torch.cat([labels_of(runner, face, self._device) for face in self._faces.unsqueeze(1)])

    def _images(self, batch: int) -> Tensor:
        """uint8 (batch, H, W, 3) in host memory: the faces, again and again."""
        import torch

        images = self._faces[torch.arange(batch) % len(self._faces)]
        return images.pin_memory() if self._device.type == "cuda" else images

    def _prepare(self, variant: Variant) -> None:
        """Compile and compare labels, if one more that takes as long as the longest, and one more pass, still fit."""
        from fptk.workflows.torch_variants import MODES

        kind = MODES[variant.mode].compiler is not None
        expected = self._longest.get(kind, self.plan.compilation if kind else 0.0)
        if self.seconds + expected + self._last_pass >= self.plan.limit:
            return
        row, start = self.rows[variant], self.seconds
        self._listener.say(f"preparing {variant.label}")
        try:
            runner = self._variants.runner(variant)
            runner.ready(self._images(1).to(self._device))
            row.equal_labels = float((self._labels(runner) == self._reference).double().mean())
        except Exception as error:
            row.fail(error, "preparing")
            self._listener.say(f"{variant.label}: {row.reason}")
        else:
            self._runners[variant], row.reason = runner, None
            for batch in self.plan.batches_of(variant) if kind else ():  # compiled here, not in the passes' time
                images = self._images(batch).to(self._device)
                Turn(row, runner, f"batch {batch}").survives(lambda images=images: runner.ready(images))  # type: ignore[misc]
        row.prepare_s = round(self.seconds - start, 1)
        self._longest[kind] = max(self._longest.get(kind, 0.0), row.prepare_s)

    def _time_all(self) -> None:
        """One interleaved run of each batch size over everything that is ready, at least one round each."""
        start = self.seconds
        end = min(self.plan.limit, start + self.plan.limit * self.plan.share)
        for count, batch in enumerate(self.plan.batches):
            left = max(0.0, end - self.seconds) / (len(self.plan.batches) - count)
            self._time_batch(batch, self.seconds + left)
        self._last_pass = self.seconds - start

    def _time_batch(self, batch: int, until: float) -> None:
        from fptk.workflows.torch_variants import timed, timed_with_copies

        host = self._images(batch)
        images = host.to(self._device)
        turns: list[Turn] = []
        for variant, runner in self._runners.items():
            if batch not in self.plan.batches_of(variant):
                continue
            turn = Turn(self.rows[variant], runner, f"batch {batch}")
            if turn.survives(lambda runner=runner: runner.ready(images)):  # type: ignore[misc]
                turns.append(turn)
        if batch == 1:
            alone = [turn.timing(lambda r: timed(r, images)) for turn in turns]
            copied = [turn.timing(lambda r: timed_with_copies(r, host, self._device)) for turn in turns]
            most = self.seconds + 2 / 3 * (until - self.seconds)
            times_of = self._rounds([*alone, *copied], self.plan.latency, most)
            for turn, first, second in zip(turns, times_of, times_of[len(turns) :], strict=False):
                if not turn.failed:
                    turn.row.latency_ms, turn.row.latency_with_copies_ms = summary(first), summary(second)
        calls = [turn.timing(lambda r: timed(r, images, self.plan.burst)) for turn in turns]
        for turn, times in zip(turns, self._rounds(calls, self.plan.throughput, until), strict=True):
            if not turn.failed:
                turn.row.images_per_s[str(batch)] = round(1e3 * batch / statistics.median(times), 1)
                turn.row.state = MEASURED
        for turn in turns:
            turn.runner.release()

    def _rounds(self, calls: Sequence[Callable[[], float]], plan: LatencyPlan, until: float) -> list[list[float]]:
        """Milliseconds of each call: as many rounds as fit, at least one."""
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(plan.rounds if calls else 0):
            if times[0] and self.seconds >= until:
                break
            once = time_in_turns(calls, dataclasses.replace(plan, rounds=1, warmup=0))
            for record, new in zip(times, once, strict=True):
                record.extend(new.tolist())
        return times

    def _profile(self) -> None:
        """The share of the time in which the GPU works: eager fp16, batch 1 and 32."""
        from fptk.workflows.torch_variants import busy_ms, timed

        for variant, runner in self._runners.items():
            if self._device.type != "cuda" or (variant.precision, variant.mode) != ("fp16", "eager"):
                continue
            for batch in (1, 32):
                if self.seconds >= self.plan.limit:
                    return
                entry: dict[str, Any] = {"graph": variant.graph, "precision": "fp16", "mode": "eager", "batch": batch}
                try:
                    images = self._images(batch).to(self._device)
                    runner.ready(images)
                    wall, busy = timed(runner, images, calls=20), busy_ms(runner, images, calls=20)
                    entry |= {"wall_ms": wall, "busy_ms": busy, "busy_share": busy / wall}
                except Exception as error:
                    entry["reason"] = one_line(f"{type(error).__name__}: {error}".splitlines()[0])[:300]
                self.profile.append(entry)


class Turn:
    """A variant in an interleaved run; one that fails drops out, and the others go on."""

    def __init__(self, row: Row, runner: Runner, where: str) -> None:
        self.row = row
        self.runner = runner
        self.failed = False
        self._where = where

    def survives(self, work: Callable[[], object]) -> bool:
        """Whether ``work`` ends without an error; the row says which."""
        try:
            work()
        except Exception as error:
            self.failed = True
            self.row.fail(error, self._where)
        return not self.failed

    def timing(self, work: Callable[[Runner], float]) -> Callable[[], float]:
        """A call for :func:`time_in_turns` that gives NaN from the first failure on."""

        def call() -> float:
            times: list[float] = []
            if not self.failed:
                self.survives(lambda: times.append(work(self.runner)))
            return times[0] if times else math.nan

        return call


def summary(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median, 90th percentile and number of timed calls."""
    median, p90 = np.percentile(milliseconds, [50, 90])
    return {"median": round(float(median), 3), "p90": round(float(p90), 3), "calls": len(milliseconds)}


def measure(
    network: FaceParsingNetwork,
    spec: PreprocessSpec,
    faces: Sequence[UInt8Array],
    plan: SpeedPlan,
    listener: Listener = SILENT,
) -> Iterator[dict[str, Any]]:
    """The result as it grows, after each pass (:meth:`Speed.passes`).

    Args:
        network: in evaluation mode, on the CPU; it is left alone.
        spec: size and normalization.
        faces: uint8 (H, W, 3) each, of the spec's size.
        plan: what is measured.
        listener: hears how it goes on.

    Yields:
        What :func:`markdown` takes and the JSON holds.
    """
    speed = Speed(network, spec, faces, plan, listener)
    for rows in speed.passes():
        yield {
            **_machine(plan.device),
            "size": list(spec.size),
            "batches": list(plan.batches),
            "faces": len(faces),
            "conditions": CONDITIONS,
            "limit_s": plan.limit,
            "seconds": round(speed.seconds, 1),
            "rows": [dataclasses.asdict(row) for row in rows],
            "profile": list(speed.profile),
        }


def _machine(device: str) -> dict[str, Any]:
    import torch

    versions = tool_versions("fptk", "torch", "triton")
    if device != "cuda":
        return {"device": describe_host()["cpu"], "threads": torch.get_num_threads(), "versions": versions}
    major, minor = torch.cuda.get_device_capability()
    versions["cuda"] = str(torch.version.cuda)
    return {"device": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}", "versions": versions}


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as a table under a line that says how they came about.

    Args:
        result: what :func:`measure` yields, or the JSON it was written to.
    """
    batches = result["batches"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    size = "x".join(map(str, result["size"]))
    columns = ["graph", "precision", "mode", "ms", "p90", "with copies ms", *(f"images/s, batch {n}" for n in batches)]
    columns += ["equal labels", "prepared in s"]
    lines = [
        f"{result['device']}, {versions}; {size}, labels compared on {result['faces']} faces. {result['conditions']}",
        "",
        "| " + " | ".join(columns) + " |",
        "|---|---|---|" + "---:|" * (len(columns) - 3),
    ]
    measured = [row for row in result["rows"] if row["state"] == MEASURED]
    for row in measured:
        alone, copied = (row[key] or {} for key in ("latency_ms", "latency_with_copies_ms"))
        figures = [_number(alone.get("median"), 2), _number(alone.get("p90"), 2), _number(copied.get("median"), 2)]
        figures += [_number(row["images_per_s"].get(str(batch)), 0) for batch in batches]
        share = "–" if row["equal_labels"] is None else f"{row['equal_labels']:.3%}"
        cells = [row["graph"], row["precision"], row["mode"], *figures, share, _number(row["prepare_s"], 0)]
        lines.append("| " + " | ".join(cells) + " |")
    notes = [
        f"- {row['graph']}, {row['precision']}, {row['mode']}: {row['state']}; {row['reason']}"
        for row in result["rows"]
        if row["reason"]
    ]
    lines += ["", *notes] if notes else []
    shares = [_profile_line(entry) for entry in result["profile"]]
    return "\n".join([*lines, *(["", *shares] if shares else [])]) + "\n"


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _profile_line(entry: Mapping[str, Any]) -> str:
    name = f"- {entry['graph']}, {entry['precision']}, {entry['mode']}, batch {entry['batch']}"
    if "busy_share" not in entry:
        return f"{name}: not profiled; {entry['reason']}"
    return f"{name}: the GPU works {entry['busy_ms']:.2f} ms of {entry['wall_ms']:.2f} ms ({entry['busy_share']:.0%})"


def load_faces(folder: Path | None, spec: PreprocessSpec, count: int = FACES) -> list[UInt8Array]:
    """Faces to compare labels on, uint8 (H, W, 3) of the spec's size.

    Args:
        folder: of images, or a split folder of images and masks; ``None`` draws synthetic faces.
        spec: size.
        count: at most so many, spread over the folder.

    Raises:
        InputError: the folder is missing or holds no image, or an image cannot be read.
    """
    if folder is None:
        return [draw_face(0, index, spec.size)[0] for index in range(count)]
    pair = find_pair(folder)
    paths = list_images([pair[0] if pair else folder])
    return [spec.apply(read_image(path)) for path in paths[:: max(1, len(paths) // count)][:count]]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fptk.workflows.gpu_speed", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; the table stands beside it as .md")
    parser.add_argument("--weights", type=Path, help="checkpoint (default: the shipped one)")
    parser.add_argument("--faces", type=Path, help="folder of photographs (default: synthetic faces)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for everything")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", type=int, nargs=2, default=(512, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batches", type=int, nargs="+", default=SpeedPlan.batches)
    parser.add_argument("--only", default="", metavar="TEXT", help="variants whose name holds this, e.g. 'fp16, eager'")
    return parser


def run(arguments: Sequence[str], listener: Listener = SILENT) -> None:
    """Measure as the command line says.

    Raises:
        InputError: an option is not what is needed, or there is no such device.
    """
    import torch

    from fptk.models.checkpoint import load_checkpoint

    chosen = _parser().parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        raise InputError("torch finds no NVIDIA GPU here; give --device cpu, or check the driver with nvidia-smi")
    if min(chosen.batches) < 1:
        raise InputError(f"--batches {min(chosen.batches)} found; batches have at least one image")
    variants = tuple(each for each in default_variants(chosen.device) if chosen.only in each.label)
    if not variants:
        example = default_variants(chosen.device)[0].label
        raise InputError(f"--only '{chosen.only}' names no variant; names are like '{example}'")
    weights = chosen.weights or shipped_weights()
    if weights is None:
        raise InputError("this build of fptk ships no weights; give --weights FILE")
    spec = PreprocessSpec(size=check_size(*chosen.size))
    network, _ = load_checkpoint(weights)
    batches = tuple(sorted(set(chosen.batches)))
    plan = SpeedPlan(device=chosen.device, variants=variants, batches=batches, limit=chosen.limit)
    faces = load_faces(chosen.faces, spec)
    for result in measure(network, spec, faces, plan, listener):
        kind = "synthetic" if chosen.faces is None else "photographs"
        result |= {"weights": weights.name, "kind_of_faces": kind}
        write_json(chosen.out, result)
        write_text(chosen.out.with_suffix(".md"), markdown(result))


def main(arguments: Sequence[str]) -> int:
    """Run the program; the exit code."""
    try:
        run(arguments, TERMINAL)
    except FptkError as error:
        sys.stderr.write(f"{one_line(str(error))}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
