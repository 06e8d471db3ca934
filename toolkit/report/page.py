"""The page itself: everything that was found, put into the template, and written whole or not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fptk.core.errors import InputError, missing_package, one_line
from fptk.core.files import check_destination, check_unread, kind_of, open_regular, write_text, writing
from fptk.core.progress import SILENT, Listener
from fptk.core.version import __version__
from fptk.report import insight, places, results
from fptk.report.blocks import Page
from fptk.report.faces import Labelled, NothingToLabelError, label_faces
from fptk.report.sources import Material, ReportRequest, default_out, gather

MARK = '<meta name="generator" content="fptk report">'
"""Stands near the beginning of every report: what a later one may take the place of."""

_SEARCHED = 1024
"""Bytes among which the mark is looked for."""


def write_report(
    request: ReportRequest, out: Path | None = None, *, overwrite: bool = False, listener: Listener = SILENT
) -> Path:
    """Make the report and write it.

    Args:
        request: what it is about.
        out: the file; ``None`` is ``report.html`` in the run, or in the working folder for bundles of no run.
        overwrite: allow the replacing of a file that is no report.
        listener: hears of the progress.

    Returns:
        The file.

    Raises:
        InputError: there is no run or bundle, a file of it is damaged, a package is not installed, or ``out`` is a file
            of the user's, lies in a bundle, or cannot be written.
    """
    _check_packages()
    material = gather(request)
    path = out or default_out(request)
    _check_out(path, material, overwrite)
    check_unread([path], [each for each in (*request.verified, request.bench, request.data) if each is not None])
    labelled, reason = None, ""
    try:
        labelled = label_faces(material, request, listener)
    except NothingToLabelError as error:
        reason = str(error)
    listener.say("drawing the report")
    write_text(path, render(assemble(material, labelled, reason)))
    return path


def assemble(material: Material, labelled: Labelled | None, reason: str) -> Page:
    """Everything that the page shows.

    Args:
        material: what was read.
        labelled: what came of labelling images, if anything.
        reason: why nothing came of it.
    """
    sentence, tone = results.headline(material)
    names = dict.fromkeys(bundle.model for bundle in material.bundles)
    if not names and material.training:
        names = {str(material.training.card["recipe"].get("name", "a training")): None}
    return Page(
        title=f"{', '.join(names)}: {sentence}",
        headline=sentence,
        tone=tone,
        summary=tuple(results.summary(material)),
        cards=tuple(results.cards(material)),
        sections=(
            results.verdicts(material),
            results.accuracy(material),
            results.speed(material),
            insight.faces(labelled, reason),
            insight.mistakes(labelled, reason),
            insight.quantization(material),
            insight.training(material),
            places.processors(material),
            places.machines(material),
            places.provenance(material),
        ),
        footer=f"Made by fptk {__version__} on {datetime.now(UTC):%Y-%m-%d at %H:%M} UTC.",
    )


def render(page: Page) -> str:
    """The page as HTML that fetches nothing."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fptk.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
    )
    environment.filters["code"] = _code
    return environment.get_template("report.html").render(page=page, mark=Markup(MARK))


def _visible(value: Any) -> Any:
    """Text with its control characters shown; what is markup already is left alone."""
    return value if hasattr(value, "__html__") else one_line(str(value))


def _code(text: str) -> Any:
    """A sentence of ours, with what stands between backticks set as code."""
    from markupsafe import Markup, escape

    parts = [escape(one_line(part)) for part in text.split("`")]
    return Markup("".join(f"<code>{part}</code>" if place % 2 else str(part) for place, part in enumerate(parts)))


def _check_packages() -> None:
    """Refuse before any work what could not be finished.

    Raises:
        InputError: a package is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise missing_package(error.name or "jinja2", "export") from error


def _check_out(path: Path, material: Material, overwrite: bool) -> None:
    """Refuse before any work to replace what is not ours.

    Raises:
        InputError: the file is no report, or lies in a bundle, which holds its own files alone.
    """
    check_destination(path)
    for bundle in material.bundles:
        if path.resolve().is_relative_to(bundle.folder.resolve()):
            raise InputError(f"--out {path} lies inside bundle {bundle.folder}; choose a file outside of it")
    if overwrite or kind_of(path) != "file":
        return
    with writing(path), open_regular(path) as handle:
        start = handle.read(_SEARCHED)
    if MARK.encode() not in start:
        raise InputError(f"{path} exists and is no report of fptk; choose another --out, or add --overwrite")
