"""What the engines came to: the headline, a card for each, and the sections on verdicts, accuracy and speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fptk.benchmarks.photo import PhotoSplit
from fptk.benchmarks.report import Row, recommend
from fptk.calibration.gate import Decision
from fptk.core.metrics import Scores
from fptk.report import figures
from fptk.report.blocks import (
    Block,
    Card,
    Cell,
    Facts,
    Lines,
    Section,
    Table,
    Tone,
    milliseconds,
    points,
    row,
    table,
)
from fptk.report.sources import Engine, Material

TONES: dict[str, Tone] = {Decision.PASS: "good", Decision.REFUSED: "bad"}


def headline(material: Material) -> tuple[str, Tone]:
    """What the report says in one sentence."""
    verdicts = [verdict_of(engine) for engine in material.engines]
    total, refused, passed = len(verdicts), verdicts.count(Decision.REFUSED), verdicts.count(Decision.PASS)
    if not total:
        return "Trained, and not exported yet", ""
    if refused:
        return f"{_count(refused, total)} {'was' if refused == 1 else 'were'} refused", "bad"
    if passed == total:
        all_of = {1: "The engine kept its", 2: "Both engines kept their"}
        return f"{all_of.get(total, f'All {total} engines kept their')} accuracy", "good"
    if passed:
        return f"{_count(passed, total)} kept {'its' if passed == 1 else 'their'} accuracy, none was refused", "good"
    return "No engine has been judged yet", ""


def _count(some: int, total: int) -> str:
    return f"{some} of {total} engines" if total > 1 else "The engine"


def summary(material: Material) -> Iterator[str]:
    """A few lines under the headline."""
    if material.bundles:
        first = material.bundles[0]
        names = dict.fromkeys(bundle.model for bundle in material.bundles)
        size = " × ".join(map(str, first.preprocess.size))
        yield f"{', '.join(names)}, {first.parameters:,} parameters, {len(first.classes)} classes, {size} pixels."
        sets = dict.fromkeys(
            f"{bundle.evaluation.images} images of {bundle.evaluation.dataset}"
            for bundle in material.bundles
            if bundle.evaluation
        )
        places = dict.fromkeys(str(bundle.host.get("cpu", "an unnamed processor")) for bundle in material.bundles)
        if sets:
            yield f"Scored on {'; '.join(sets)}. Exported on {', '.join(places)}."
    elif material.training:
        recipe = material.training.card["recipe"]
        yield f"Recipe {recipe.get('name', 'without a name')}."
    sentence = recommend(material.bench) if material.bench else None
    if sentence:
        yield sentence[:1].upper() + sentence[1:] + "."


def _judged_later(engine: Engine) -> Row | None:
    """The measurement that judged the engine again after its export, if one did."""
    found = engine.measured
    judged = found and found.accuracy == "measured" and found.verdict in (Decision.PASS, Decision.REFUSED)
    return found if judged else None


def verdict_of(engine: Engine) -> str:
    """The latest verdict: of the measurements where these judged, else of the export."""
    later = _judged_later(engine)
    return later.verdict if later else engine.bundle.verdict


def _reason(engine: Engine) -> str:
    bundle, later = engine.bundle, _judged_later(engine)
    reason = bundle.gate.summary if bundle.gate else bundle.unavailable or ""
    reason = later.reason if later else reason
    return reason.removeprefix("passed: ").removeprefix("refused: ") or "there was nothing to score it on"


def _place(engine: Engine) -> str:
    """Processor that the verdict is from."""
    later = _judged_later(engine)
    if later and later.measured_on:
        return later.measured_on
    simulated = engine.bundle.evaluation.simulated_by if engine.bundle.evaluation else None
    return str(engine.bundle.host.get("cpu", "unknown")) + (f", simulated by {simulated}" if simulated else "")


def verdict_cell(word: str) -> Cell:
    """A verdict as a cell."""
    return Cell(word, TONES.get(word, "quiet"))


def cards(material: Material) -> Iterator[Card]:
    """The engines at a glance."""
    for engine in material.engines:
        word = verdict_of(engine)
        figures_shown = []
        miou, drop = _accuracy(engine)
        if miou is not None:
            figures_shown.append(("mIoU", points(miou)))
        if drop is not None:
            figures_shown.append(("against FP32", points(drop, signed=True)))
        p50 = _p50(engine)
        if p50 is not None:
            figures_shown.append(("ms a call", milliseconds(p50)))
        figures_shown.append(("MB", f"{engine.bundle.size_bytes / 1e6:.1f}"))
        yield Card(engine.name, word, TONES.get(word, "quiet"), tuple(figures_shown))


def _accuracy(engine: Engine) -> tuple[float | None, float | None]:
    """mIoU and its change against the reference, 0-1."""
    measured, evaluation = engine.measured, engine.bundle.evaluation
    if measured and measured.accuracy == "measured":
        return measured.miou, measured.delta_miou
    if evaluation is None:
        return None, None
    return evaluation.engine.miou, evaluation.engine.miou - evaluation.reference.miou


def _p50(engine: Engine) -> float | None:
    if engine.measured and engine.measured.p50_ms is not None:
        return engine.measured.p50_ms
    return engine.bundle.latency.p50_ms if engine.bundle.latency else None


def verdicts(material: Material) -> Section:
    """Why each engine passed or not."""
    if not material.engines:
        return Section("verdicts", "Verdicts", "", (), "Nothing has been exported. Run `fptk export` first.")
    rows = [
        row(engine.name, verdict_cell(verdict_of(engine)), _reason(engine), _place(engine))
        for engine in material.engines
    ]
    headings = ("engine", "verdict", "why", "measured on")
    return Section(
        "verdicts",
        "Verdicts",
        "Each engine was scored as built and held against PyTorch FP32 on the same images. A class that the images "
        "show too little of is not judged. A verdict belongs to the processor that it was measured on.",
        (table("Verdict of each engine", headings, rows, *headings),),
    )


def accuracy(material: Material) -> Section:
    """Scores, over all and by class."""
    scored = [engine for engine in material.engines if engine.bundle.evaluation]
    if not scored:
        missing = "No engine was scored at its export. Export again with --data DIR, or from a run that has its data."
        return Section("accuracy", "Accuracy", "", (), missing)
    blocks: list[Block] = [*_scores_tables(scored)]
    alike = _alike(scored)
    blocks += _by_class(alike)
    if len(alike) < len(scored):
        others = ", ".join(engine.name for engine in scored if engine not in alike)
        blocks.append(Lines((f"By class only engines of one network on the same images are shown, not {others}.",)))
    return Section(
        "accuracy",
        "Accuracy",
        "Scores at the export, in points (hundredths). mIoU is the mean over the classes that occur.",
        tuple(blocks),
    )


def _scores_tables(scored: Sequence[Engine]) -> Iterator[Table]:
    """A table for each reference: engines of one network on the same images."""
    for reference in dict.fromkeys(_reference_key(engine) for engine in scored):
        engines = [engine for engine in scored if _reference_key(engine) == reference]
        evaluation = engines[0].bundle.evaluation
        assert evaluation is not None
        rows = [row("PyTorch FP32", *_means(evaluation.reference), "–")]
        for engine in engines:
            own = engine.bundle.evaluation
            assert own is not None
            change = points(own.engine.miou - own.reference.miou, signed=True)
            rows.append(row(engine.name, *_means(own.engine), change))
        headings = ("engine", "mIoU", "f1", "f1 challenge", "f1 no background", "pixels right", "Δ mIoU")
        yield table(f"Scores on {evaluation.images} images of {evaluation.dataset}", headings, rows)


def _reference_key(engine: Engine) -> tuple[str, str]:
    evaluation = engine.bundle.evaluation
    return engine.bundle.checkpoint_sha256, evaluation.content_sha256 if evaluation else ""


def _means(scores: Scores) -> list[str]:
    means = (scores.miou, scores.f1, scores.f1_challenge, scores.f1_nobg, scores.pixel_accuracy)
    return [points(mean) for mean in means]


def _alike(scored: Sequence[Engine]) -> list[Engine]:
    """The engines that share network, images and classes with the first."""
    first = scored[0]
    key = (_reference_key(first), first.bundle.classes)
    return [engine for engine in scored if (_reference_key(engine), engine.bundle.classes) == key]


def _by_class(engines: Sequence[Engine]) -> Iterator[Block]:
    """Charts and table of the IoU by class."""
    first = engines[0].bundle
    assert first.evaluation is not None
    reference = first.evaluation.reference.per_class
    classes = [*reference]
    ious = [reference[name].iou for name in classes]
    named = []
    for engine in engines:
        assert engine.bundle.evaluation is not None
        scores = engine.bundle.evaluation.engine.per_class
        named.append((engine.name, [scores[name].iou if name in scores else None for name in classes]))
    limits = {engine.bundle.judged.policy.max_class_drop for engine in engines if engine.bundle.judged}
    yield figures.class_iou(classes, ious, named)
    yield figures.class_change(classes, ious, named, limits.pop() if len(limits) == 1 else None)
    rows = [
        row(name, f"{reference[name].pixels:,}", points(ious[place]), *_class_cells(ious[place], place, named))
        for place, name in enumerate(classes)
    ]
    headings = ["class", "pixels of truth", "PyTorch FP32"]
    for name, _ in named:
        headings += [name, f"Δ {name}"]
    yield table("IoU by class, in points", headings, rows, folded=True)


def _class_cells(reference: float | None, place: int, named: Sequence[figures.Named]) -> Iterator[str]:
    for _, values in named:
        value = values[place]
        yield points(value)
        yield points(None if value is None or reference is None else value - reference, signed=True)


def speed(material: Material) -> Section:
    """How fast each engine is, and what that costs."""
    timed = [engine for engine in material.engines if _p50(engine) is not None]
    if not timed:
        missing = "No engine was timed. Run `fptk bench` on a machine that runs them."
        return Section("speed", "Speed", "", (), missing)
    blocks: list[Block] = []
    known = [(engine.name, p50, miou) for engine in timed for p50, miou in [(_p50(engine), _accuracy(engine)[0])]]
    scored = [(name, p50, miou) for name, p50, miou in known if p50 is not None and miou is not None]
    if len(scored) > 1:
        blocks.append(figures.tradeoff(scored, _least(timed)))
    measured = [(engine.name, engine.measured) for engine in timed if engine.measured]
    times = [(name, found.calls_ms) for name, found in measured if found.calls_ms]
    if times:
        blocks.append(figures.latency(times))
    blocks.append(_speed_table(material, timed))
    notes = tuple((name, found.note) for name, found in measured if found.note)
    if notes:
        blocks.append(Facts("Notes on the measurements", notes, folded=True))
    photographs = [(name, found.photo) for name, found in measured if found.photo]
    if photographs:
        blocks.append(_photo_table(material, photographs))
    return Section("speed", "Speed", _conditions(material), tuple(blocks))


def _least(engines: Sequence[Engine]) -> float | None:
    """The lowest mIoU that passes, where all engines were held against one reference by one gate."""
    found = {
        (judged.reference_miou, judged.policy.max_miou_drop) if judged else None
        for judged in (engine.bundle.judged for engine in engines)
    }
    only = found.pop() if len(found) == 1 else None
    return only[0] - only[1] / 100 if only else None


def _conditions(material: Material) -> str:
    if material.bench is None:
        return (
            "Each engine was timed alone for about a second at its export, so compare these figures with care: "
            "`fptk bench` lets the engines take turns."
        )
    host, conditions = material.bench.host, material.bench.conditions
    what = "several requests at once" if conditions.get("mode") == "throughput" else "one call after another"
    return (
        f"The engines took turns on {host.get('cpu', 'an unnamed processor')} with {conditions.get('threads', '?')} "
        f"threads, batch {conditions.get('batch', '?')}, {what}. Compare times within this table only."
    )


def _speed_table(material: Material, timed: Sequence[Engine]) -> Table:
    if material.bench is None:
        rows = [
            row(engine.name, milliseconds(own.p50_ms), milliseconds(own.p90_ms), str(own.calls), _size(engine))
            for engine in timed
            if (own := engine.bundle.latency)
        ]
        return table("Latency at the export, milliseconds", ("engine", "median", "90 %", "calls", "MB"), rows)
    rows = []
    for engine in timed:
        found = engine.measured
        if found is not None:
            times = (milliseconds(each) for each in (found.p50_ms, found.p90_ms, found.p99_ms))
            fps = "–" if found.fps is None else f"{found.fps:.1f}"
            peak = "–" if found.peak_bytes is None else f"{found.peak_bytes / 1e6:.1f}"
            rows.append(row(engine.name, fps, *times, _size(engine), peak))
    return table("Speed of each engine", ("engine", "images/s", "median ms", "90 %", "99 %", "MB", "peak MB"), rows)


def _size(engine: Engine) -> str:
    return f"{engine.bundle.size_bytes / 1e6:.1f}"


def _photo_table(material: Material, measured: Sequence[tuple[str, PhotoSplit]]) -> Table:
    sides = material.bench.conditions.get("photo") if material.bench else None
    size = " × ".join(map(str, sides)) if isinstance(sides, list) else "unknown size"
    rows = []
    for name, each in measured:
        stages = (each.preprocess_ms, each.infer_ms, each.postprocess_ms, each.whole_ms)
        rows.append(row(name, *map(milliseconds, stages)))
    headings = ("engine", "preprocess", "infer", "postprocess", "whole")
    return table(f"A photograph of {size} from pixels to labels, milliseconds", headings, rows)
