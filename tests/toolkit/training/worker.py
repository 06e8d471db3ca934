"""One process of a data-parallel training: run under torchrun's variables, or alone; see ``test_distributed.py``.

Usage: worker.py RECIPE.yaml OUT. Writes OUT/gradients-RANK.safetensors with the gradients of every step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from fptk.recipes import Recipe
from fptk.runs.data import open_data
from fptk.runs.folder import RunFolder
from fptk.training.start import make_accelerator, make_model
from fptk.training.trainer import Trainer


def main(recipe_file: Path, out: Path) -> None:
    torch.set_num_threads(1)
    recipe = Recipe.load(recipe_file)
    accelerator = make_accelerator(recipe)
    model = make_model(recipe, None)
    run = RunFolder(out / "run")
    if accelerator.is_main_process:
        run.start(recipe, [], {})
    accelerator.wait_for_everyone()
    trainer = Trainer(recipe, run, model, *open_data(recipe, []), accelerator)
    trainer.restore()
    gradients: dict[str, torch.Tensor] = {}
    step = trainer.state.stepper.step

    def record_and_step() -> None:
        for name, parameter in trainer.state.model.named_parameters():
            assert parameter.grad is not None
            gradients[f"{trainer.state.counters.step}.{name}"] = parameter.grad.clone()
        step()

    trainer.state.stepper.step = record_and_step
    trainer.run_to(None)
    save_file(gradients, out / f"gradients-{accelerator.process_index}.safetensors")
    accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
