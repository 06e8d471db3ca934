"""``fptk ablate``: train the rows of a paper's table at a chosen scale and print its figures beside ours."""

from __future__ import annotations

from pathlib import Path

import click

from fptk.cli.options import (
    MAX_IMAGES,
    MAX_THREADS,
    FiniteRange,
    PathType,
    json_option,
    threads_option,
    write_result,
)


@click.command("ablate")
@click.argument("table")
@click.option(
    "--data",
    multiple=True,
    type=PathType,
    help="Data set folder, or list of pairs (repeatable). Default: synthetic faces.",
)
@click.option(
    "--train-images", type=click.IntRange(1, MAX_IMAGES), help="Training images, evenly spaced over the training set."
)
@click.option("--epochs", type=FiniteRange(0, 1e6, min_open=True), help="Passes over the training images.")
@click.option(
    "--size", type=click.IntRange(32, 4096), help="Side of the training and validation images; a multiple of 32."
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, help="Trainings of each row.")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Change a key of every recipe (repeatable)."
)
@click.option("--jobs", type=click.IntRange(1, MAX_THREADS), default=1, show_default=True, help="Trainings at a time.")
@click.option(
    "--target", "targets", multiple=True, help="Export each row for this engine (repeatable). Default: the table's."
)
@click.option("--no-engines", is_flag=True, help="Train only.")
@threads_option
@click.option("--out", type=PathType, help="Folder of trainings and tables.  [default: runs/ablate]")
@json_option
def command(
    table: str,
    data: tuple[Path, ...],
    train_images: int | None,
    epochs: float | None,
    size: int | None,
    seeds: int,
    assignments: tuple[str, ...],
    jobs: int,
    targets: tuple[str, ...],
    no_engines: bool,
    threads: int | None,
    out: Path | None,
    json_path: Path | None,
) -> None:
    """Train the rows of TABLE and print the paper's figures beside ours.

    TABLE is networks, lmsa, flip, focal, learning-rate, weighted-loss, or a YAML file. What the options leave open is
    as each row's recipe has it. Run it again and finished rows are kept, an interrupted one goes on; tables that share
    --out share their common rows. The folder gets TABLE.md, TABLE.json and TABLE.png.
    """
    from fptk.cli.options import invocation
    from fptk.core.console import TERMINAL, log
    from fptk.core.console import out as results
    from fptk.core.files import write_json, write_text
    from fptk.export.targets.registry import resolve_targets
    from fptk.runs.folder import DEFAULT_ROOT
    from fptk.workflows.ablation.report import draw, markdown
    from fptk.workflows.ablation.run import AblationRequest, Scale, ablate
    from fptk.workflows.ablation.table import load_table

    chosen = load_table(table)
    names = () if no_engines else targets or chosen.engines
    request = AblationRequest(
        table=chosen,
        data=data,
        out=out or DEFAULT_ROOT / "ablate",
        scale=Scale(train_images, epochs, size, assignments),
        seeds=seeds,
        jobs=jobs,
        engines=resolve_targets(names) if names else (),
        threads=threads,
        command=invocation(),
    )
    result = ablate(request, TERMINAL)
    files = {suffix: request.out / f"{chosen.name}.{suffix}" for suffix in ("md", "json", "png")}
    text = markdown(result, files["png"].name)
    draw(result, files["png"])
    write_text(files["md"], text)
    write_json(files["json"], result.as_dict())
    if json_path:
        write_result(json_path, result.as_dict())
    if str(json_path) != "-":
        results.print_lines(text, soft_wrap=True)
    log.print(f"the table: {files['md']}")
