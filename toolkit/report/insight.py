"""How the figures came about: training, mistakes, faces, and what INT8 costs which layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fptk.calibration.sensitivity import Sensitivity
from fptk.core.classes import IGNORE, ClassSet
from fptk.export.record import FallbackRecord
from fptk.report import figures
from fptk.report.blocks import (
    Block,
    Cell,
    Facts,
    Lines,
    Picture,
    PictureRow,
    Pictures,
    Section,
    Table,
    points,
    row,
    table,
)
from fptk.report.faces import Comparison, Labelled, Mistakes, ShownFace
from fptk.report.pictures import LOST, OTHER, WON, Color, difference_picture, label_picture, photograph
from fptk.report.sources import Engine, Material
from fptk.training.curves import PANELS

MOST_CONFUSIONS = 8
"""Largest mistakes that are named of each engine."""
MOST_RANKED = 24
"""Layer groups that a ranking names."""


def training(material: Material) -> Section:
    """The training's curves and facts."""
    found = material.training
    if found is None:
        missing = "These bundles stand in no run, so nothing tells how the network was trained."
        return Section("training", "Training", "", (), missing)
    card, result = found.card, found.card["result"]
    pairs = [
        ("recipe", str(card["recipe"].get("name", "without a name"))),
        *(
            (f"{word} on", f"{card[f'{part}_set']}, {card[f'{part}_images']:,} images")
            for part, word in (("train", "trained"), ("val", "validated"))
            if card.get(f"{part}_set") and f"{part}_images" in card  # an older fptk recorded neither
        ),
    ]
    if result:
        pairs += [
            ("steps", f"{result['step']:,}"),
            ("best validation", f"f1 {points(result['best_f1'])} at step {result['best_step']:,}"),
            ("time", f"{result['seconds'] / 60:.1f} minutes"),
        ]
    elif found.records:
        pairs.append(("steps", f"{found.records[-1]['step']:,}, not finished"))
    blocks: list[Block] = [figures.curve(found.records, panel) for panel in PANELS] if len(found.records) > 1 else []
    blocks.append(Facts("The training", tuple(pairs)))
    if found.records:
        blocks.append(_validations(found.records))
    introduction = "Loss and learning rate of the training, scores of its validations."
    if len(found.records) < 2:
        introduction = "There are no curves to draw: the network was validated once at most."
    return Section("training", "Training", introduction, tuple(blocks))


def _validations(records: Sequence[dict[str, float]]) -> Table:
    rows = [
        row(
            f"{record['step']:,}",
            f"{record['epoch']:.1f}",
            *(f"{record[key]:.4f}" for key in ("loss", "f1", "miou")),
            f"{record['lr']:.1e}",
        )
        for record in records
    ]
    return table("Validations", ("step", "epoch", "loss", "f1", "mIoU", "learning rate"), rows, folded=True)


def mistakes(labelled: Labelled | None, reason: str) -> Section:
    """Which classes are taken for which."""
    if labelled is None:
        return Section("mistakes", "Mistakes", "", (), f"No engine could label an image: {reason}.")
    shown = [_first_float(labelled.mistakes), *_first_other(labelled.mistakes)]
    classes = labelled.mistakes[0].engine.bundle.classes
    blocks: list[Block] = [
        figures.confusion(each.engine.name, number, each.counts, classes) for number, each in enumerate(shown)
    ]
    blocks += [_largest(each, classes) for each in labelled.mistakes]
    if labelled.left_out:
        blocks.append(Lines(tuple(f"Left out: {line}." for line in labelled.left_out)))
    images = labelled.images
    return Section(
        "mistakes",
        "Mistakes",
        f"Counted for this report on {len(images.dataset)} images of {images.dataset.name}, against their "
        f"{images.truth}.",
        tuple(blocks),
    )


def _first_float(found: Sequence[Mistakes]) -> Mistakes:
    return next((each for each in found if each.engine.bundle.precision == "fp32"), found[0])


def _first_other(found: Sequence[Mistakes]) -> list[Mistakes]:
    return [each for each in found if each is not _first_float(found) and each.engine.bundle.precision != "fp32"][:1]


def _largest(found: Mistakes, classes: Sequence[str]) -> Table:
    """The largest confusions of one engine."""
    counts = found.counts
    errors = counts * (1 - np.eye(len(classes), dtype=np.int64))
    wrong, of_class = int(errors.sum()), counts.sum(axis=1)
    order = [divmod(int(at), len(classes)) for at in np.argsort(-errors, axis=None, kind="stable")[:MOST_CONFUSIONS]]
    rows = []
    for t, p in order:
        if pixels := int(errors[t, p]):
            shares = (points(pixels / wrong), points(pixels / of_class[t]))
            rows.append(row(classes[t], classes[p], f"{pixels:,}", *shares))
    share = f"{100 * wrong / max(1, int(counts.sum())):.2f} % of the pixels are wrong"
    headings = ("true class", "taken for", "pixels", "% of all wrong", "% of the class")
    return table(f"{found.engine.name}: largest mistakes; {share}", headings, rows, "taken for", folded=True)


def faces(labelled: Labelled | None, reason: str) -> Section:
    """Faces on which INT8 differs most, least, and in between."""
    if labelled is None:
        return Section("faces", "Faces", "", (), f"No engine could label an image: {reason}.")
    images = labelled.images
    hidden = "" if images.shown else " Photographs are left out, for a licence may forbid showing them."
    introduction = (
        f"The faces with the lowest, the median and the highest agreement, of {len(images.dataset)} images of "
        f"{images.dataset.name}.{hidden}"
    )
    blocks: list[Block] = [_comparison(each, images.truth) for each in labelled.comparisons]
    ignored = any((face.truth == IGNORE).any() for each in labelled.comparisons for face in each.faces)
    blocks.append(_legend(labelled.mistakes[0].engine, ignored=ignored))
    return Section("faces", "Faces", introduction, tuple(blocks))


def _comparison(found: Comparison, truth: str) -> Pictures:
    against = found.baseline.name if found.baseline else truth
    caption = f"{found.engine.name} against {against}"
    classes = found.engine.bundle.class_set
    rows = []
    for face in found.faces:
        share = f"{100 * face.agreement:.2f} % of the pixels agree"
        pictures = tuple(_face_pictures(face, found, truth, classes))
        rows.append(PictureRow(f"{face.place}: {face.key}", share, pictures))
    name, other = found.engine.name, against
    if found.baseline:
        legend = (
            (_hex(LOST), f"only {other} is right"),
            (_hex(WON), f"only {name} is right"),
            (_hex(OTHER), "both are wrong, differently"),
        )
        return Pictures(caption, tuple(rows), legend)
    return Pictures(caption, tuple(rows), ((_hex(LOST), f"differs from the {truth}"),))


def _face_pictures(face: ShownFace, found: Comparison, truth: str, classes: ClassSet) -> Iterator[Picture]:
    subject = f"{face.place} face, {face.key}"
    if face.image is not None:
        source, size = photograph(face.image)
        yield Picture(source, f"The {subject}", "image", size)
    maps = [(truth, face.truth)]
    if face.baseline is not None and found.baseline is not None:
        maps.append((found.baseline.name, face.baseline))
    maps.append((found.engine.name, face.labels))
    for name, labels in maps:
        source, size = label_picture(labels, classes)
        yield Picture(source, f"The {subject}: classes in colors, {name}", name, size)
    if face.baseline is None:
        source, size = difference_picture(face.labels, face.truth, None)
    else:
        source, size = difference_picture(face.labels, face.baseline, face.truth)
    share = f"{100 * (1 - face.agreement):.2f} % of the pixels"
    yield Picture(source, f"The {subject}: where the two differ, {share}", f"difference, {share}", size)


def _legend(engine: Engine, *, ignored: bool) -> Pictures:
    """The colors of the classes, and of pixels that count nowhere."""
    bundle = engine.bundle
    colors = tuple((_hex(color), name) for name, color in zip(bundle.classes, bundle.palette, strict=True))
    return Pictures("Colors of the classes", (), (*colors, *([("#ffffff", "counts nowhere")] if ignored else [])))


def _hex(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def quantization(material: Material) -> Section:
    """What was tried, what INT8 costs which layers, and which stayed in float."""
    blocks: list[Block] = []
    for number, engine in enumerate(material.engines):
        build = engine.bundle.build
        if build.sensitivity and build.sensitivity.rows:
            blocks.append(figures.sensitivity(engine.name, number, build.sensitivity, MOST_RANKED))
    for engine in material.engines:
        build = engine.bundle.build
        if build.fallback:
            blocks.append(_attempts(engine, build.fallback))
        if build.sensitivity and build.sensitivity.rows:
            blocks.append(_ranking(engine, build.sensitivity))
        if build.quantizer:
            blocks.append(_float_layers(engine))
    if not blocks:
        missing = "No engine was quantized. `fptk export --int8` builds one, and `--explain` ranks its layers."
        return Section("quantization", "Quantization", "", (), missing)
    ranked = any(engine.bundle.build.sensitivity for engine in material.engines)
    advice = "" if ranked else " `fptk export --int8 --explain` ranks the layers by what INT8 costs each."
    introduction = f"What was tried until an engine passed, and the layers that stayed in float.{advice}"
    return Section("quantization", "Quantization", introduction, tuple(blocks))


def _attempts(engine: Engine, record: FallbackRecord) -> Table:
    rows = []
    for attempt in record.attempts:
        word = Cell("passed", "good") if attempt.passed else Cell("skipped" if attempt.skipped else "refused", "bad")
        why = attempt.verdict.summary if attempt.verdict else attempt.skipped
        change = f"{-attempt.verdict.miou_drop:+.2f}".replace("-", "−") if attempt.verdict else "–"
        why = why.removeprefix("passed: ").removeprefix("refused: ")
        rows.append(row(attempt.candidate, word, change, f"{attempt.seconds:.0f}", why))
    headings = ("settings", "outcome", "Δ mIoU", "seconds", "why")
    return table(f"{engine.name}: settings in the order they were tried", headings, rows, "outcome", "why")


def _ranking(engine: Engine, ranking: Sensitivity) -> Table:
    rows = [row(each.group, f"{each.snr_db:.1f}", str(len(each.nodes))) for each in ranking.rows]
    caption = f"{engine.name}: layer groups, the most sensitive first"
    return table(caption, ("group", "SNR, dB", "layers"), rows, folded=True)


def _float_layers(engine: Engine) -> Block:
    quantizer = engine.bundle.build.quantizer
    assert quantizer is not None
    if not quantizer.kept_float:
        return Lines((f"{engine.name}: {quantizer.summary}; no layer stayed in float.",))
    rows = [row(layer.name, layer.op_type, layer.reason) for layer in quantizer.kept_float]
    headings = ("layer", "operator", "why")
    return table(f"{engine.name}: {quantizer.summary}; layers in float", headings, rows, *headings, folded=True)
