"""``fptk verify``: a bundle proves on this machine that it is right, or says why not."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fptk.cli.options import JSON, PathType, data_option, images_option, json_option, threads_option, write_result

if TYPE_CHECKING:
    from fptk.workflows.verify import Verification, VerifyReport


@click.command("verify")
@click.argument("bundles", nargs=-1, required=True, type=PathType, metavar="BUNDLE...")
@data_option
@images_option
@threads_option
@click.option(
    "--compare",
    is_flag=True,
    help="Show results of several machines side by side: each BUNDLE is then a file that --json wrote.",
)
@json_option
def command(
    bundles: tuple[Path, ...],
    data: Path | None,
    eval_images: int | None,
    threads: int | None,
    compare: bool,
    json_path: Path | None,
) -> None:
    """Check each BUNDLE, and its engine against the samples that it holds.

    BUNDLE is a bundle folder, a folder of bundles, or a run folder. fptk checks manifest, files, runtime and processor.
    Then the engine labels the golden samples and a photograph, and must agree with the FP32 reference as far as it did
    at its export, less a margin. Its latency is shown beside the exporting host's and never refuses. --data DIR runs
    the whole accuracy gate too. Each bundle is verified in a process of its own: an engine that crashes is one that
    cannot run here.

    Each bundle gets one verdict. Exit codes: 4 one is refused; else 2 one is damaged; else 3 one cannot run here; else
    0.
    """
    from fptk.cli.verify_tables import render, render_comparison
    from fptk.core.console import TERMINAL, out
    from fptk.core.errors import InputError
    from fptk.workflows.verify import VerifyPlan, bundles_in, read_reports
    from fptk.workflows.verify_apart import verify_bundles

    if compare:
        if data or eval_images or threads or json_path:
            raise InputError("--compare shows results that are there; it takes no other option")
        out.print(render_comparison(read_reports(bundles)))
        return
    if eval_images and not data:
        raise InputError("--eval-images needs images; give --data DIR")
    _refuse_inside(json_path, bundles_in(bundles))
    plan = VerifyPlan(data, eval_images, threads).checked(TERMINAL)
    report = verify_bundles(bundles, plan, TERMINAL)
    if str(json_path) != "-":
        out.print(render(report))
    if json_path:
        write_result(json_path, report.model_dump(mode="json"))
    _raise_if_not_passed(report)


def _raise_if_not_passed(report: VerifyReport) -> None:
    """End with the gravest verdict.

    Raises:
        GateRefusedError, InputError, TargetUnavailableError: the message names every bundle that did not pass, the
            gravest first.
    """
    from fptk.core.errors import GateRefusedError, InputError, TargetUnavailableError

    failed = [each for each in report.bundles if not each.passed]
    for kind in (GateRefusedError, InputError, TargetUnavailableError):
        if kind.exit_code == report.exit_code:
            failed.sort(key=lambda each: each.exit_code != kind.exit_code)
            raise kind("; ".join(f"{each.verdict}: {_named(each)}" for each in failed))


def _named(each: Verification) -> str:
    """The reason, with the folder of the bundle where it does not name it."""
    return each.reason if each.folder in each.reason else f"{each.folder}: {each.reason}"


def _refuse_inside(json_path: Path | None, folders: list[Path]) -> None:
    """Refuse a result inside a bundle, which holds its own files alone.

    Raises:
        InputError: ``--json`` names such a file.
    """
    from fptk.core.errors import InputError

    for folder in folders if json_path and str(json_path) != "-" else ():
        assert json_path is not None
        if json_path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{JSON} {json_path} lies inside bundle {folder}; choose a file outside of it")
