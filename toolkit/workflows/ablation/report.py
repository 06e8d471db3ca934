"""A table of ``fptk ablate`` as Markdown, and as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fptk.core.charts import chart
from fptk.workflows.ablation.engines import Engine
from fptk.workflows.ablation.run import Ablation, Result
from fptk.workflows.ablation.table import Metric

NAMES: dict[Metric, str] = {
    "f1": "f1",
    "f1_challenge": "f1 (challenge)",
    "f1_nobg": "f1 (no background)",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
}
TOOLS = ("fptk", "torch", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "nncf")


def markdown(ablation: Ablation, chart: str) -> str:
    """The table as a document that says how it was made; ``chart`` is the file name of its picture."""
    table = ablation.request.table
    blocks = [
        f"# {table.title}",
        _conditions(ablation),
        f"The papers' figures: {table.paper}.",
        _scores(ablation),
        f"![{table.title}]({chart})",
    ]
    if ablation.request.engines:
        blocks += ["## Engines", _engine_conditions(ablation), _engines(ablation)]
    return "\n\n".join(blocks) + "\n"


def _conditions(ablation: Ablation) -> str:
    request, first = ablation.request, ablation.results[0]
    trained, data = first.trained[0], first.recipe.data
    seeds = "one seed" if request.seeds == 1 else f"{request.seeds} seeds (mean ± standard deviation)"
    jobs = "one training at a time" if request.jobs == 1 else f"{request.jobs} trainings at a time, sharing the cores"
    steps = sorted({each.step for result in ablation.results for each in result.trained})
    return (
        f"Made by `{request.command}`. {ablation.host['cpu']}, {ablation.host['cores']} cores, {jobs}; "
        + ", ".join(f"{name} {ablation.tools[name]}" for name in TOOLS if name in ablation.tools)
        + f". {trained.train_images} training and {trained.val_images} validation images "
        f"({trained.train_set}; {trained.val_set}) at {data.size[0]}x{data.size[1]}, batch {data.batch}, "
        f"{_range(steps)} steps, {seeds}. Scores are those of the best validation. "
        + (
            f"Changed in every recipe: {', '.join(f'`{each}`' for each in request.scale.overrides)}."
            if request.scale.overrides
            else "The recipes stand as they are."
        )
    )


def _range(values: Sequence[int]) -> str:
    return f"{values[0]}" if len(values) == 1 else f"{values[0]} to {values[-1]}"


def _scores(ablation: Ablation) -> str:
    table, results = ablation.request.table, ablation.results
    columns = {table.heading: [result.row.label for result in results]}
    columns["parameters"] = [f"{result.trained[0].parameters:,}" for result in results]
    for metric in table.metrics:
        if any(metric in result.row.paper for result in results):
            columns[f"{NAMES[metric]}, paper"] = [_points(result.row.paper.get(metric)) for result in results]
        columns[f"{NAMES[metric]}, ours"] = [_with_deviation(result, metric) for result in results]
    columns["s/epoch"] = [f"{result.seconds_per_epoch:.1f}" for result in results]
    peaks = [result.peak_bytes for result in results]
    columns["peak MB"] = ["-" if peak is None else f"{peak / 1e6:.0f}" for peak in peaks]
    return _table(list(columns), 1, list(zip(*columns.values(), strict=True)))


def _with_deviation(result: Result, metric: Metric) -> str:
    deviation = result.deviation(metric)
    return _points(result.mean(metric)) + ("" if deviation is None else f" ± {_points(deviation)}")


def _points(score: float | None) -> str:
    return "-" if score is None else f"{100 * score:.2f}"


def _engine_conditions(ablation: Ablation) -> str:
    plan = ablation.timing
    text = (
        f"Each network's first seed, scored as built on its validation images. FPS: one synchronous call at a time, "
        f"{ablation.threads} threads, uint8 image in, label map out; median of {plan.samples} calls in {plan.rounds} "
        "rounds in which all engines of all networks take turns. Δ is to the network in PyTorch FP32, in points of "
        "mIoU; the worst class is that of the classes the gate judges."
    )
    engines = [engine for result in ablation.results for engine in result.engines]
    if any(engine.simulated for engine in engines):
        text += " `*`: the graph was scored by ONNX Runtime; the engine was built, and cannot run on this host."
    elsewhere = sorted({engine.judged_on for engine in engines if engine.judged_on})
    if elsewhere:
        text += f" `†`: scored and judged on another machine or with another engine version ({', '.join(elsewhere)})."
    return text


def _engines(ablation: Ablation) -> str:
    headings = [ablation.request.table.heading, "engine", "precision", "mIoU", "Δ", "worst class", "FPS", "gate"]
    rows = [[result.row.label, *_engine_cells(engine)] for result in ablation.results for engine in result.engines]
    return _table(headings, 3, rows)


def _engine_cells(engine: Engine) -> list[str]:
    dagger = "†" if engine.judged_on else ""
    mark = ("*" if engine.simulated else "") + dagger
    return [
        engine.target,
        engine.precision,
        _points(engine.miou) + mark,
        "-" if engine.delta_miou is None else f"{100 * engine.delta_miou:+.2f}{mark}",
        "-" if engine.worst_delta is None else f"{engine.worst_class} {100 * engine.worst_delta:+.1f}",
        "-" if engine.fps is None else f"{engine.fps:.1f}",
        engine.verdict + dagger,
    ]


def _table(headings: Sequence[str], left: int, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first ``left`` columns are text."""
    rule = ["---" if number < left else "---:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rule, *rows))


def draw(ablation: Ablation, path: Path) -> None:
    """Draw the first score of every row into a PNG: each seed a dot, their mean a stroke, the paper's figure a diamond.

    Raises:
        InputError: matplotlib is not installed, or the file cannot be written.
    """
    table = ablation.request.table
    metric = table.metrics[0]
    results = ablation.results[::-1]
    with chart(path, (8, 1.5 + 0.4 * len(results)), "train") as figure:
        axes = figure.subplots()
        places = list(range(len(results)))
        means = [100 * result.mean(metric) for result in results]
        axes.plot(means, places, "|", color="C0", markersize=22, label="mean")
        seeds = [(100 * score, place) for place, result in enumerate(results) for score in result.scores(metric)]
        axes.plot(*zip(*seeds, strict=True), "o", color="C0", alpha=0.6, label="a seed")
        papers = [(100 * result.row.paper[metric], n) for n, result in enumerate(results) if metric in result.row.paper]
        if papers:
            label = "paper, under its own conditions"
            axes.plot(*zip(*papers, strict=True), "D", color="C3", markerfacecolor="none", label=label)
        axes.set_yticks(places, [result.row.label for result in results])
        axes.set(title=table.title, xlabel=f"{NAMES[metric]}, points")
        axes.set_ylim(-0.6, len(results) - 0.4)
        axes.grid(axis="x", alpha=0.3)
        figure.legend(loc="outside lower center", ncols=3, fontsize=8, markerscale=0.7)
