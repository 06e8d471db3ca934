"""Where the figures hold: instruction sets, other machines, and what everything was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fptk.benchmarks.processors import ProcessorMatrix
from fptk.report.blocks import Block, Cell, Facts, Lines, Section, Table, milliseconds, points, row, table
from fptk.report.results import verdict_cell
from fptk.report.sources import Engine, Material
from fptk.workflows.verify import same_bundles


def processors(material: Material) -> Section:
    """Each engine under each instruction set."""
    measured = [(engine, engine.bundle.processors) for engine in material.engines if engine.bundle.processors]
    if not measured:
        missing = "No processor matrix was measured. `fptk export` measures one for engines that run on the processor."
        return Section("processors", "Processors", "", (), missing)
    blocks = [block for engine, matrix in measured if matrix for block in _matrix(engine, matrix)]
    return Section(
        "processors",
        "Processors",
        "One engine under each instruction set that the exporting host has. Kernels differ between processors, so an "
        "engine that is right on one can be wrong on another.",
        tuple(blocks),
    )


def _matrix(engine: Engine, matrix: ProcessorMatrix) -> Iterator[Block]:
    """A table of what was measured, and a line for each reason why the rest was not."""
    rows = []
    others: dict[str, list[str]] = {}
    for each in matrix.rows:
        if each.agreement is None and each.status != "crashed":
            others.setdefault(f"{each.status}, {each.reason}", []).append(each.instruction_set)
            continue
        word = Cell("refused", "bad") if each.failed else Cell(each.status, "good" if each.agreement else "quiet")
        promised = "yes" if each.promised else "no"
        shares = (points(each.agreement), points(each.mean_miou), milliseconds(each.milliseconds))
        rows.append(row(each.instruction_set, promised, word, *shares, each.reason or "–"))
    headings = ("instruction set", "promised", "outcome", "as FP32, %", "mIoU of the images", "ms", "note")
    caption = f"{engine.name}: {matrix.images} images on {matrix.processor}, FP32 {points(matrix.reference_mean_miou)}"
    if rows:
        yield table(caption, headings, rows, "promised", "outcome", "note")
    yield Lines(tuple(f"{', '.join(names)}: {reason}." for reason, names in others.items()))


def machines(material: Material) -> Section:
    """The same bundles on several machines."""
    if not material.machines:
        missing = (
            "No result of another machine was given. Run `fptk verify BUNDLE --json FILE` there, and name the files "
            "with --verified."
        )
        return Section("machines", "Machines", "", (), missing)
    rows = []
    for group in same_bundles(material.machines):
        for report, each in group:
            agreement = points(each.agreement.pixels if each.agreement else None)
            lowest = f"{each.lowest_class[0]} {points(each.lowest_class[1])}" if each.lowest_class else "–"
            times = (milliseconds(timed.p50_ms if timed else None) for timed in (each.latency, each.latency_at_export))
            word = Cell(each.verdict, "good" if each.passed else "bad")
            processor = str(report.host.get("cpu", "an unnamed processor"))
            figures = (agreement, lowest, points(each.photograph), *times)
            rows.append(row(each.label or each.folder, processor, word, *figures, each.reason))
    words = ("processor", "verdict", "lowest class", "why")
    headings = ("engine", *words[:2], "as FP32, %", "lowest class", "photograph, %", "ms", "at export", "why")
    caption = f"Results of `fptk verify` on {len(material.machines)} machines"
    blocks: list[Block] = [table(caption, headings, rows, *words)]
    blocks += [
        Facts(f"Machine {number}", tuple(_machine(report.host, report.tools)))
        for number, report in enumerate(material.machines, start=1)
    ]
    introduction = "Each engine labelled its golden samples on each machine and was held against PyTorch FP32's labels."
    return Section("machines", "Machines", introduction, tuple(blocks))


def _machine(host: Mapping[str, Any], tools: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A host and its packages in words."""
    for key, value in host.items():
        yield key, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    yield "packages", ", ".join(f"{name} {version}" for name, version in tools.items())


def provenance(material: Material) -> Section:
    """Hosts, versions, hashes and commands: what it takes to make all of it again."""
    blocks: list[Block] = []
    if material.training:
        card = material.training.card
        command = card.get("command")
        words = " ".join(map(str, command)) if isinstance(command, list) else str(command or "not on record")
        pairs = [("command", words), ("started", str(card["created"])), ("folder", str(material.training.folder.path))]
        blocks.append(Facts("Training", tuple(pairs), code=True))
    hosts: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for engine in material.engines:
        hosts.setdefault(tuple(_machine(engine.bundle.host, engine.bundle.tools)), []).append(engine.name)
    blocks += [Facts(f"Made on, with: {', '.join(names)}", pairs) for pairs, names in hosts.items()]
    blocks += [Facts(engine.name, tuple(_identity(engine)), code=True, folded=True) for engine in material.engines]
    if material.engines:
        blocks.append(_verdict_words(material))
    return Section("provenance", "Provenance", "Versions, hashes, and the commands that make it again.", tuple(blocks))


def _verdict_words(material: Material) -> Table:
    rows = [
        row(engine.name, verdict_cell(engine.bundle.verdict), f"{engine.bundle.created:%Y-%m-%d %H:%M} UTC")
        for engine in material.engines
    ]
    return table("Verdicts at the export", ("engine", "verdict", "exported"), rows, "verdict", "exported")


def _identity(engine: Engine) -> Iterator[tuple[str, str]]:
    bundle = engine.bundle
    yield "made again by", bundle.command
    yield "folder", str(bundle.folder)
    yield "exported", f"{bundle.created:%Y-%m-%d %H:%M} UTC, fptk {bundle.fptk_version}"
    yield "weights, SHA-256", bundle.checkpoint_sha256
    yield "preprocessing, SHA-256", bundle.preprocess_sha256
    if bundle.calibration:
        yield "calibration set, SHA-256", str(bundle.calibration.get("sha256", "not on record"))
    if bundle.evaluation:
        yield "evaluation images, SHA-256", bundle.evaluation.content_sha256
    if bundle.engine and bundle.engine in bundle.files:
        yield f"{bundle.engine}, SHA-256", bundle.files[bundle.engine].sha256
