"""``fptk data``: look into a data set, convert the original release, draw synthetic faces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import MAX_IMAGES, check_json

if TYPE_CHECKING:
    from fptk.data.inspect import Inspection

MAX_SIZE = 4096
"""Largest side of pictures that are written: four times the release's own."""

SHOWN_PER_KIND = 20
"""Faults of one kind that the terminal lists by name; the JSON holds all."""

_jobs = click.option(
    "--jobs", type=click.IntRange(1, 1024), help="Processes.  [default: one per core, fewer for little work]"
)


@click.group()
def command() -> None:
    """Inspect, convert or draw face-parsing data."""


@command.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--json",
    "json_file",
    metavar="FILE",
    type=click.Path(path_type=Path, allow_dash=True),
    callback=check_json,
    help="Write everything as JSON; - writes it to stdout in place of the tables.",
)
@_jobs
def inspect(folder: Path, json_file: Path | None, jobs: int | None) -> None:
    """Read every file of a data set and report counts, class frequencies and faults.

    DIR is a data set root (with train/, val/, test/), one split, or a list of pairs. What its masks hold stands in its
    classes.yaml; without one they hold the 19 classes of CelebAMask-HQ. Ends with exit code 2 where a fault would
    stop a training: an image without mask, a damaged file, a mask of another size, a label of no class. What was
    counted of each face is kept in the user's cache folder, so that a training that needs it (class weights,
    rare-class sampling, whitening) need not count again.
    """
    from fptk.core.console import TERMINAL
    from fptk.core.errors import InputError
    from fptk.core.files import write_json
    from fptk.data.inspect import inspect_folder
    from fptk.data.statistics import StatisticsCache

    result = inspect_folder(folder, jobs=jobs, cache=StatisticsCache(), listener=TERMINAL)
    to_stdout = json_file == Path("-")
    if json_file is not None and not to_stdout:
        write_json(json_file, result.as_dict(), option="--json")
    if to_stdout:
        _print_json(result)
    else:
        _print_tables(result)
    if result.errors:
        raise InputError(f"{folder} is not fit to train on: {result.summary()}; repair or remove the files listed")


@command.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="Write it there instead of to stdout.")
@_jobs
def classes(folder: Path, out: Path | None, jobs: int | None) -> None:
    """Propose a classes.yaml for a data set, from what its masks hold.

    DIR is a data set root, one of its splits, or a list of pairs. Each value or colour of the masks becomes a class
    with a made-up name, and its share of the pixels stands behind it: look at a few masks, write the names, and save
    the text as classes.yaml at the root of the data set. A file that is there is not replaced.
    """
    from fptk.core.console import TERMINAL
    from fptk.core.errors import InputError
    from fptk.core.files import kind_of, write_text
    from fptk.data.propose import propose

    if out is not None and kind_of(out, "--out") is not None:
        raise InputError(f"--out {out} exists; name a file that does not, and compare the two")
    text = propose(folder, jobs=jobs, listener=TERMINAL)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_text(out, text, option="--out")


@command.command()
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder to write.")
@click.option(
    "--splits",
    "splits_text",
    metavar="NAMES",
    default="train,val,test",
    show_default=True,
    help="Splits to write, separated by commas.",
)
@click.option(
    "--size",
    type=click.IntRange(32, MAX_SIZE),
    default=512,
    show_default=True,
    help="Side of images and masks in pixels; the longest one that LaPa's and Helen's keep.",
)
@_jobs
def convert(source: Path, out: Path, splits_text: str, size: int, jobs: int | None) -> None:
    """Convert CelebAMask-HQ, LaPa or Helen to index masks with the official split.

    SRC is the original release: CelebAMask-HQ with CelebA-HQ-img/, CelebAMask-HQ-mask-anno/ and
    CelebA-HQ-to-CelebA-mapping.txt; LaPa with train/images/ and train/labels/; or Helen with images/, labels/,
    exemplars.txt, tuning.txt and testing.txt. Pictures of CelebAMask-HQ become squares, the others keep their aspect
    ratio. A run that was stopped
    goes on where it ended when it's started again. Faces that cannot be read are left out and listed (exit code 2).
    """
    from fptk.core.console import TERMINAL, log
    from fptk.core.console import out as results
    from fptk.core.errors import InputError
    from fptk.data.convert_sets import convert as convert_source

    result = convert_source(source, out, splits=_parse_splits(splits_text), size=size, jobs=jobs, listener=TERMINAL)
    for split in sorted(result.written | result.kept):
        kept = f", {result.kept[split]} were there already" if result.kept[split] else ""
        results.print(f"{out / split}: {result.written[split]} faces written{kept}", markup=False, soft_wrap=True)
    if result.absent:
        log.print(f"{result.absent} faces of the mapping file have no photograph in {source}", markup=False)
    for stem, reason in result.failures:
        log.print(f"left out {stem}: {reason}", markup=False, soft_wrap=True)
    if result.failures:
        raise InputError(f"{len(result.failures)} faces were left out of {out}; mend them and run the command again")
    if not result.written and not result.kept:
        raise InputError(f"{source} holds no photograph of a face of {splits_text}; add it, or choose other --splits")


@command.command()
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Data set root to write.")
@click.option("--count", type=click.IntRange(1, MAX_IMAGES), default=1000, show_default=True, help="Faces of train/.")
@click.option(
    "--val", "val_count", type=click.IntRange(0, MAX_IMAGES), default=0, show_default=True, help="Faces of val/."
)
@click.option("--size", type=click.IntRange(32, MAX_SIZE), default=256, show_default=True, help="Side in pixels.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Which series of faces.")
def synth(out: Path, count: int, val_count: int, size: int, seed: int) -> None:
    """Draw synthetic faces with exact masks into DIR/train (and DIR/val).

    The same seed draws the same faces; the faces of val/ follow those of train/ in the series, so none is in both.
    """
    from fptk.core.console import TERMINAL
    from fptk.core.console import out as results
    from fptk.data.synthetic.faces import SyntheticFaces
    from fptk.data.writer import check_target, write_dataset

    parts = [part for part in (("train", count, 0), ("val", val_count, count)) if part[1]]
    for split, _, _ in parts:
        check_target(out, split)
    for split, number, start in parts:
        folder = write_dataset(SyntheticFaces(number, (size, size), seed, start), out, split, TERMINAL)
        results.print(f"{folder}: {number} faces of {size}x{size} written", markup=False, soft_wrap=True)


def _parse_splits(text: str) -> tuple[str, ...]:
    from fptk.data.folders import SPLITS

    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [name for name in names if name not in SPLITS]
    if unknown or not names:
        raise click.BadParameter(f"'{text}' is not a list of {', '.join(SPLITS)}", param_hint="--splits")
    return names


def _print_json(result: Inspection) -> None:
    import json

    click.echo(json.dumps(result.as_dict(), indent=2, allow_nan=False))


def _print_tables(result: Inspection) -> None:
    from rich.table import Table

    from fptk.core.console import out

    counts = Table(title=str(result.folder), title_justify="left")
    for column in ("split", "images", "masks", "readable", "sizes", "both eyes", "eyes swapped"):
        counts.add_column(column, justify="left" if column in ("split", "sizes") else "right")
    for split, report in result.splits.items():
        sizes = [f"{size} ({number})" for size, number in report.sizes.most_common(3)]
        sizes += [f"{len(report.sizes) - 3} more"] if len(report.sizes) > 3 else []
        swapped = f"{report.eyes_swapped} ({report.eyes_swapped / max(1, report.eyes):.1%})"
        numbers = [f"{number:,}" for number in (report.images, report.masks, report.readable)]
        counts.add_row(split, *numbers, ", ".join(sizes), f"{report.eyes:,}", swapped)
    out.print(counts)
    for split, report in result.splits.items():
        if report.mean_and_std:
            mean, std = (", ".join(f"{value:.3f}" for value in values) for values in report.mean_and_std)
            out.print(f"{split}: mean of R, G, B {mean}; standard deviation {std}", markup=False)
    out.print(_class_table(result))
    for split, report in result.splits.items():
        if ignored := 1 - int(report.class_pixels.sum()) / max(1, report.pixels):
            out.print(f"{split}: {ignored:.3%} of the pixels are ignored", markup=False)
    _print_findings(result)


def _class_table(result: Inspection) -> object:
    from rich.table import Table

    table = Table(title="share of pixels / share of images", title_justify="left")
    table.add_column("class")
    for split in result.splits:
        table.add_column(f"{split} pixels", justify="right")
        table.add_column(f"{split} images", justify="right")
    reports = list(result.splits.values())
    for label, name in enumerate(reports[0].classes.names):
        cells: list[str] = []
        for report in reports:
            cells += [f"{report.pixel_share[label]:.3%}", f"{report.image_share[label]:.1%}"]
        table.add_row(f"{label} {name}", *cells)
    return table


def _print_findings(result: Inspection) -> None:
    from itertools import groupby

    from fptk.core.console import out

    out.print(f"findings: {result.summary()}" if result.findings else "no fault found")
    for kind, group in groupby(result.findings, key=lambda finding: finding.kind):
        findings = list(group)
        for finding in findings[:SHOWN_PER_KIND]:
            out.print(f"{finding.severity}: {finding.message}", markup=False, soft_wrap=True)
        if len(findings) > SHOWN_PER_KIND:
            out.print(f"… and {len(findings) - SHOWN_PER_KIND} more of kind '{kind}'; --json FILE lists all")
