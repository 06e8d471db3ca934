"""``fptk train``: train a recipe into a run folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fptk.recipes import Recipe


@click.command()
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Data set folder, or list of pairs (.csv, .json); may be given several times. None: synthetic faces.",
)
@click.option(
    "--recipe", metavar="NAME|FILE", help="Shipped recipe or YAML file.  [default: microsegformer; demo without --data]"
)
@click.option("--model", metavar="NAME", help="Network, instead of the recipe's.")
@click.option("--epochs", type=float, help="Passes over the training images.")
@click.option("--size", type=int, help="Side of the training images; a multiple of 32. Replaces the recipe's phases.")
@click.option("--batch", type=int, help="Images a step, over all processes. Replaces the phases' batches.")
@click.option("--amp/--no-amp", default=None, help="Mixed precision: fp16 on CUDA, bf16 on a CPU.")
@click.option("--seed", type=int, help="Seed of weights, order, augmentation and dropout.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set any key of the recipe, e.g. optim.lr=5e-4; may be given several times.",
)
@click.option(
    "--init-weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Start from this checkpoint (or the best one of a run folder).",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder.  [default: runs/RECIPE-TIME]")
@click.option("--resume", is_flag=True, help="Go on with the run in --out, or else with the newest unfinished one.")
@click.option(
    "--param-budget",
    type=click.IntRange(min=1),
    metavar="COUNT",
    help="Largest number of parameters; more is an error.  [default: the recipe's, or else 1821085]",
)
@click.option(
    "--stop-after", type=click.IntRange(min=1), metavar="STEPS", help="End after this many steps, ready to be resumed."
)
@click.option("--profile", is_flag=True, help="Say at the end where a step's time went, and images a second.")
def command(
    data: tuple[Path, ...],
    recipe: str | None,
    out: Path | None,
    resume: bool,
    init_weights: Path | None,
    stop_after: int | None,
    profile: bool,
    **changes: Any,
) -> None:
    """Train a face-parsing network.

    Without --data it trains on synthetic faces. The run folder holds best.safetensors (highest validation f1),
    last.safetensors, metrics.jsonl and curves.png. An interrupted run goes on with --resume, and ends in the same
    weights as if it had never been interrupted.
    """
    _require("torch", "accelerate", "safetensors", "matplotlib")
    from fptk.training.machine import wait_without_spinning

    wait_without_spinning()
    from fptk.core.console import TERMINAL, log
    from fptk.runs.folder import default_folder
    from fptk.workflows.api import train

    if resume:
        chosen, folders, out = _resumed(recipe, data, out, init_weights, changes)
    else:
        chosen, folders = _recipe(recipe or ("microsegformer" if data else "demo"), changes), list(data)
        out = out or default_folder(chosen)
    log.quiet = os.environ.get("RANK", "0") != "0"  # of several processes, the first speaks
    if not folders:
        log.print("no --data given: training on synthetic faces")
    result = train(
        chosen,
        folders,
        out,
        resume=resume,
        init_weights=init_weights,
        stop_after=stop_after,
        profile=profile,
        listener=TERMINAL,
    )
    if not result.finished:
        log.print(f"stopped after step {result.step}; go on with: fptk train --resume --out {out}")
        return
    scores = " · ".join(f"{name} {value:.4f}" for name, value in result.scores.items())
    log.print(f"best weights: {result.best} (step {result.best_step}: {scores})", soft_wrap=True)


def _recipe(name: str, changes: dict[str, Any]) -> Recipe:
    """The recipe with the command line's changes; --set comes last and wins."""
    from fptk.recipes import Recipe

    assignments = []
    if changes["model"] is not None:
        assignments += [f"model.name={json.dumps(changes['model'])}", "model.options={}"]
    if changes["param_budget"] is not None:
        assignments.append(f"model.param_budget={changes['param_budget']}")
    if changes["size"] is not None:
        assignments += ["data.phases=[]", f"data.size={changes['size']}", "data.eval_size=null"]
    recipe = Recipe.load(name)
    if changes["batch"] is not None:
        phases = () if changes["size"] is not None else recipe.data.phases
        assignments += [f"data.phases.{index}.batch=null" for index in range(len(phases))]
        assignments.append(f"data.batch={changes['batch']}")
    if changes["epochs"] is not None:
        assignments.append(f"optim.epochs={changes['epochs']}")
    if changes["seed"] is not None:
        assignments.append(f"seed={changes['seed']}")
    if changes["amp"] is not None:
        assignments.append(f"precision.amp={_amp() if changes['amp'] else 'off'}")
    return recipe.with_overrides([*assignments, *changes["assignments"]])


def _amp() -> str:
    import torch

    return "fp16" if torch.cuda.is_available() else "bf16"


def _resumed(
    recipe: str | None, data: tuple[Path, ...], out: Path | None, init_weights: Path | None, changes: dict[str, Any]
) -> tuple[Recipe, list[Path], Path]:
    """Recipe, data and folder of the run to go on with; what was given again must say the same."""
    from fptk.core.errors import InputError
    from fptk.core.files import kind_of
    from fptk.runs.folder import RunFolder, newest_run

    if init_weights is not None:
        raise InputError("--init-weights starts a new run and --resume goes on with one; give one of them")
    run = RunFolder(out) if out else newest_run(unfinished=True)
    if run is None:
        raise InputError("there is no unfinished run in runs/; name one with --out, or start one without --resume")
    if kind_of(run.card, "run card") is None:
        raise InputError(f"{run.path} holds no run to resume (no run.json); start it without --resume")
    given = any(value is not None and value != () for value in changes.values())
    if given and recipe is None:
        raise InputError("--resume goes on with the run's own recipe; leave the options out, or start a new run")
    chosen = _recipe(recipe, changes) if recipe else run.recipe()
    folders = list(data) or run.data()
    gone = next((folder for folder in folders if not data and kind_of(folder) is None), None)
    if gone:
        raise InputError(f"{run.path} was started with data in {gone}, which is not there; say with --data where it is")
    return chosen, folders, run.path


def _require(*packages: str) -> None:
    """Say which extra is missing before anything is begun."""
    from importlib.util import find_spec

    from fptk.core.errors import missing_package

    for package in packages:
        if find_spec(package) is None:
            raise missing_package(package, "train")
