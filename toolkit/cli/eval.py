"""``fptk eval``: metrics of a checkpoint or a bundle, per class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from fptk.cli.options import (
    JSON,
    PathType,
    data_option,
    images_option,
    json_option,
    model_argument,
    reference_option,
    threads_option,
    write_result,
)

if TYPE_CHECKING:
    from rich.table import Table

    from fptk.core.bootstrap import Intervals
    from fptk.core.confusions import ErrorReport
    from fptk.core.dataset import FaceParsingDataset
    from fptk.core.metrics import Scores
    from fptk.core.session import Session
    from fptk.data.pictures import Choice
    from fptk.runs.source import ModelSource
    from fptk.workflows.verdicts import GateResult

SHEET = "eval"
"""What its sheets are marked with."""

SYNTHETIC_IMAGES = 100
"""Faces that shipped weights are scored on where no data is given."""

VIEWS = ("flip", "scale")
"""Those of ``fptk.models.tta``, which imports torch; a test holds them together."""


class Extras(NamedTuple):
    """What is found beside the scores, where it was asked for."""

    intervals: Intervals | None
    errors: ErrorReport | None

    def as_dict(self) -> dict[str, Any]:
        """As the JSON file holds it."""
        named = {"bootstrap": self.intervals, "errors": self.errors}
        return {name: each.as_dict() for name, each in named.items() if each is not None}


@click.command("eval")
@model_argument
@reference_option
@data_option
@images_option
@threads_option
@click.option(
    "--tta",
    "views",
    metavar="VIEWS",
    default="",
    help="Average class probabilities over these views: flip, scale, or flip,scale. Only for weights. Default: none.",
)
@click.option("--refine", type=click.Choice(["guided"]), help="Draw class borders after the image's edges.")
@click.option(
    "--sheet",
    "sheet_path",
    type=PathType,
    help="Write a PNG of colour maps, each face's truth over its prediction; no photographs.",
)
@click.option(
    "--sheet-of",
    "choice",
    type=click.Choice(["even", "worst"]),
    default="even",
    show_default=True,
    help="Faces of the sheet: evenly spaced from the worst score to the best, or the worst.",
)
@click.option("--only", type=PathType, metavar="FILE", help="Score only the faces that FILE names, one a line.")
@click.option("--except", "excluded", type=PathType, metavar="FILE", help="Score all but the faces that FILE names.")
@click.option(
    "--bootstrap",
    "rounds",
    type=click.IntRange(100, 100_000),
    metavar="ROUNDS",
    help="Add 95 % intervals over the choice of faces, and how many faces show each class.",
)
@click.option(
    "--errors", "wants_errors", is_flag=True, help="Say which classes are taken for which, and how near borders."
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --sheet even if fptk eval did not write it.")
@click.option("--sheet-images", type=click.IntRange(1, 1000), default=12, show_default=True, help="Faces of the sheet.")
@json_option
def command(
    model: Path | None,
    reference: Path | None,
    data: Path | None,
    eval_images: int | None,
    threads: int | None,
    views: str,
    refine: str | None,
    sheet_path: Path | None,
    choice: Choice,
    sheet_images: int,
    only: Path | None,
    excluded: Path | None,
    rounds: int | None,
    wants_errors: bool,
    overwrite: bool,
    json_path: Path | None,
) -> None:
    """Score MODEL on the evaluation images.

    MODEL is a bundle folder, or a run folder or checkpoint, which is scored in PyTorch FP32, or an ONNX file, which is
    scored as it is in ONNX Runtime; by default it is the newest run below runs/, or else the shipped weights, on
    synthetic faces if no --data is given.

    A bundle is also judged, by its own limits, against the FP32 reference; a refusal ends the command with exit code 4.

    With --tta or --refine a network is scored with and without it, side by side, and what it gains and costs is
    printed below the table.
    """
    from fptk.core.bootstrap import bootstrap
    from fptk.core.confusions import BorderCount
    from fptk.core.console import TERMINAL, out
    from fptk.core.errors import InputError
    from fptk.core.evaluation import predictions
    from fptk.core.host import usable_cores
    from fptk.core.metrics import ConfusionMatrix
    from fptk.data.identity import check_files
    from fptk.runs.source import find_source
    from fptk.workflows.sessions import is_bundle, open_model

    chosen = _views(views)
    if (rounds or wants_errors) and (chosen or refine):
        raise InputError("--bootstrap and --errors are for the network as it is; leave out --tta and --refine")
    if sheet_path and (chosen or refine):
        raise InputError("--sheet shows the network as it is; leave out --tta and --refine")
    bundle = model if model is not None and is_bundle(model) else None
    if bundle is not None and (chosen or refine):
        raise InputError("--tta and --refine need class probabilities, and an engine gives labels; give the run")
    if bundle is None and reference is not None:
        raise InputError("--reference is for a bundle: a network is its own reference")
    given = find_source(model) if bundle is None else find_source(reference) if reference else None
    _check_outputs(json_path, sheet_path, overwrite, bundle, given, data)
    session, source = open_model(model, threads, data)
    dataset = _named(_evaluation_set(data, eval_images, source or given, session), only, excluded)
    check_files(dataset, workers=usable_cores(), listener=TERMINAL)
    if source is not None and (chosen or refine):
        from fptk.models.tta import augmented_session

        _compare(session, augmented_session(source.weights, chosen, refine, threads), dataset, json_path)
        return
    matrix, borders = ConfusionMatrix(dataset.classes, keep_images=rounds is not None), BorderCount(dataset.classes)
    with session:
        values = []
        for sample, labels in predictions(session, dataset, listener=TERMINAL):
            values.append(matrix.add(sample.mask, labels))
            if wants_errors:
                borders.add(sample.mask, labels)
        scores = matrix.scores()
        extras = Extras(
            bootstrap(matrix.images, rounds, classes=dataset.classes) if rounds and matrix.images else None,
            borders.report(matrix.counts) if wants_errors else None,
        )
        if str(json_path) != "-":
            out.print(_table(scores, f"{session.name} on {dataset.name}, {scores.images} images", extras.intervals))
            for line in _errors(extras.errors):
                out.print(line, markup=False, soft_wrap=True)
        if sheet_path:
            _write_sheet(session, dataset, values, choice, sheet_images, sheet_path)
    if bundle is not None:
        _judge(bundle, scores, dataset, given, json_path, extras)
    elif json_path:
        write_result(json_path, {**scores.as_dict(), **extras.as_dict()})


def _named(dataset: FaceParsingDataset, only: Path | None, excluded: Path | None) -> FaceParsingDataset:
    """The faces that ``--only`` and ``--except`` leave."""
    from fptk.data.splits import named

    if only is not None:
        dataset = named(dataset, only)
    return dataset if excluded is None else named(dataset, excluded, others=True)


def _check_outputs(
    json_path: Path | None,
    sheet_path: Path | None,
    overwrite: bool,
    bundle: Path | None,
    weights: ModelSource | None,
    data: Path | None,
) -> None:
    """Check before the scoring that its results replace nothing that it reads, and no picture of the user's.

    Args:
        json_path: ``--json``; it was checked to be JSON, so it is no image.
        sheet_path: ``--sheet``.
        overwrite: allow ``sheet_path`` to be a file that ``fptk eval`` did not write.
        bundle: what is scored, or ``None``.
        weights: what is scored, or what the bundle is held against.
        data: ``--data``.

    Raises:
        InputError: one of them would, or the bundle cannot be read.
    """
    from fptk.core.errors import InputError
    from fptk.core.files import check_pictures, check_unread
    from fptk.export.bundle import MANIFEST, read_bundle
    from fptk.runs.folder import RunFolder

    reads = [bundle / name for name in (MANIFEST, *read_bundle(bundle).files)] if bundle else []
    if weights:
        reads += [weights.weights, weights.weights.with_suffix(".json")]
    if weights and weights.is_run:
        reads.append(RunFolder(weights.folder).card)
    if json_path is not None and str(json_path) != "-":
        check_unread([json_path], reads, JSON)
    if sheet_path is not None:
        folders = [*([data] if data else []), *(weights.data if weights else ())]
        check_pictures([sheet_path], SHEET, reads=[*reads, *folders], overwrite=overwrite, option="--sheet")
        if json_path is not None and sheet_path.resolve() == json_path.resolve():
            raise InputError(f"--sheet and {JSON} are both {sheet_path}; choose another {JSON}")


def _evaluation_set(
    data: Path | None, eval_images: int | None, source: ModelSource | None, session: Session
) -> FaceParsingDataset:
    """The images of ``--data``, or else those of the run, or else synthetic ones for weights of no run."""
    from fptk.core.console import log
    from fptk.core.errors import InputError
    from fptk.data import open_evaluation
    from fptk.data.splits import limit
    from fptk.data.synthetic.faces import SyntheticFaces

    if data:
        return limit(open_evaluation(data), eval_images)
    if source is None:
        raise InputError("this bundle stands in no run; say what to score it on with --data DIR")
    found = source.evaluation_set(None)
    if found is None:
        count = eval_images or SYNTHETIC_IMAGES
        log.print(f"no --data given: scoring on {count} synthetic faces; these are drawings, no photographs")
        return SyntheticFaces(count, session.spec.size)
    return limit(found, eval_images)


def _judge(
    folder: Path,
    scores: Scores,
    dataset: FaceParsingDataset,
    given: ModelSource | None,
    json_path: Path | None,
    extras: Extras,
) -> None:
    """Say what the gate makes of a bundle's scores, and write them with it.

    Raises:
        GateRefusedError: the bundle is refused.
    """
    from fptk.calibration.gate import Decision
    from fptk.core.console import TERMINAL, out
    from fptk.core.cpu import cpu_model
    from fptk.core.errors import GateRefusedError
    from fptk.export.bundle import read_bundle
    from fptk.workflows.verdicts import Scored, evaluate_gates

    bundle = read_bundle(folder)
    (gate_result,) = evaluate_gates([Scored(folder, bundle, scores)], dataset, given, TERMINAL)
    if str(json_path) != "-":
        for line in _verdict(gate_result):
            out.print(line, markup=False, soft_wrap=True)
    if json_path:
        verdict = {
            "verdict": gate_result.word,
            "reason": gate_result.reason,
            "measured_on": cpu_model(),
            "reference": gate_result.reference.name if gate_result.reference else None,
            "judged_classes": gate_result.judged_classes,
            "unjudged_classes": gate_result.unjudged_classes,
        }
        write_result(json_path, {**scores.as_dict(), **extras.as_dict(), **verdict})
    if gate_result.word is Decision.REFUSED:
        raise GateRefusedError(f"{bundle.label}: {gate_result.reason}")


def _verdict(gate_result: GateResult) -> Iterator[str]:
    """The lines below the table of a bundle."""
    from fptk.workflows.verdicts import describe

    yield f"{gate_result.word}: {gate_result.reason.removeprefix('passed: ').removeprefix('refused: ')}"
    if gate_result.reference:
        yield f"reference: {describe(gate_result.reference.name)}, mIoU {100 * gate_result.reference.scores.miou:.2f}"
    if gate_result.unjudged_classes:
        yield f"classes not judged, which the images show too little of: {', '.join(gate_result.unjudged_classes)}"


def _write_sheet(
    session: Session, dataset: FaceParsingDataset, values: list[float], choice: Choice, count: int, path: Path
) -> None:
    """Write the sheet, and name its faces and their scores in its order."""
    from PIL import Image

    from fptk.core.console import log
    from fptk.data.pictures import choose, comparison_sheet, save_png

    indices = choose(values, count, choice)
    sheet, keys = comparison_sheet(session, dataset, indices, columns=6)
    save_png(Image.fromarray(sheet), path, command=SHEET, option="--sheet")
    faces = ", ".join(f"{key} {values[index]:.3f}" for key, index in zip(keys, indices, strict=True))
    log.print(f"{path}: {faces}", markup=False, soft_wrap=True)


def _views(text: str) -> tuple[str, ...]:
    """The names in ``--tta``, each once."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in VIEWS]
    if unknown:
        raise click.BadParameter(f"'{unknown[0]}' is no view; choose from {', '.join(VIEWS)}", param_hint="--tta")
    return names


def _compare(plain: Session, augmented: Session, dataset: FaceParsingDataset, json_path: Path | None) -> None:
    """Score two sessions image by image in turns, and say what the second gains and costs."""
    from fptk.core.console import TERMINAL, out
    from fptk.core.evaluation import evaluate_all
    from fptk.models.tta import TimedSession

    with TimedSession(plain) as before, TimedSession(augmented) as after:
        without, scores = evaluate_all([before, after], dataset, listener=TERMINAL)
    if str(json_path) != "-":
        out.print(_table(scores, f"{after.name} on {dataset.name}, {scores.images} images"))
        gains = "  ".join(
            f"{label} {getattr(without, key):.4f} → {getattr(scores, key):.4f}"
            f" ({getattr(scores, key) - getattr(without, key):+.4f})"
            for key, label in (("miou", "mIoU"), ("f1", "f1"), ("f1_challenge", "f1_challenge"))
        )
        times = f"{before.milliseconds:.1f} → {after.milliseconds:.1f} ms an image"
        out.print(f"gain: {gains}", soft_wrap=True)
        out.print(f"cost: {times} ({after.milliseconds / before.milliseconds:.1f} times)", soft_wrap=True)
    if json_path:
        timing = {"milliseconds": after.milliseconds, "milliseconds_without": before.milliseconds}
        write_result(json_path, {**scores.as_dict(), "without": without.as_dict(), **timing})


def _table(scores: Scores, title: str, intervals: Intervals | None = None) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    more = ("F1, 95 %", "faces") if intervals else ()
    for heading in ("class", "IoU", "F1", "pixels", *more):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for name, entry in scores.per_class.items():
        iou, f1 = ("absent" if value is None else f"{100 * value:.2f}" for value in (entry.iou, entry.f1))
        table.add_row(name, iou, f1, f"{entry.pixels:,}", *_spread(intervals, name))
    table.caption_justify = "left"
    table.caption = (
        f"mIoU {100 * scores.miou:.2f}  f1 {scores.f1:.4f}  f1_challenge {scores.f1_challenge:.4f}  "
        f"f1_nobg {scores.f1_nobg:.4f}  pixel accuracy {scores.pixel_accuracy:.4f}"
    )
    if intervals:
        miou, macro, challenge = intervals.miou, intervals.f1, intervals.f1_challenge
        table.caption += (
            f"\n95 % of {intervals.rounds} bootstrap draws: mIoU {100 * miou.low:.2f} to {100 * miou.high:.2f}  "
            f"f1 {macro.low:.4f} to {macro.high:.4f}  f1_challenge {challenge.low:.4f} to {challenge.high:.4f}"
        )
    return table


def _errors(report: ErrorReport | None) -> Iterator[str]:
    """The lines that ``--errors`` adds."""
    if report is None:
        return
    yield f"{report.wrong:.2%} of all pixels are wrong; the most frequent confusions, as shares of them:"
    for each in report.confusions:
        which = f"{each.truth} taken for {each.prediction}"
        yield f"  {each.share:6.1%}  {which} ({each.share_of_class:.1%} of {each.truth})"
    yield "of the wrong pixels, so many lie near a border of the true classes:"
    for band in report.bands:
        share = f"{band.share_of_pixels:.1%} of all pixels lie there"
        yield f"  {band.share_of_errors:6.1%}  within {band.width} px ({share})"


def _spread(intervals: Intervals | None, name: str) -> tuple[str, ...]:
    """The cells of one class that ``--bootstrap`` adds."""
    if intervals is None:
        return ()
    images, f1 = intervals.per_class[name].images, intervals.per_class[name].f1
    return ("absent" if f1 is None else f"{100 * f1.low:.1f} to {100 * f1.high:.1f}", str(images))
