"""A training's files: all looked at before the first step, and known again by name and content when it goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fptk.core.errors import InputError
from fptk.core.files import atomic_file
from fptk.recipes import Recipe, recipe_from
from fptk.runs.folder import RunFolder
from fptk.runs.lock import NAME, RunLock
from fptk.training import train

from .listening import Recording

Fptk = Callable[..., Any]


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Six steps of 4 faces at 32x32, with a validation after every third."""
    values = {
        "data": {"size": 32, "batch": 4, "workers": 1},
        "optim": {"epochs": 2},
        "checkpoint": {"every_steps": 100},
    }
    return recipe_from({"name": "tiny", **values}, "tiny")


@pytest.fixture
def faces(faces_folder: Path, tmp_path: Path) -> Path:
    """A data set of one's own, to be damaged."""
    return shutil.copytree(faces_folder, tmp_path / "faces")


def picture(faces: Path, split: str, kind: str, number: int) -> Path:
    return sorted(next(faces.glob(f"{split}/*{kind}*")).iterdir())[number]


def same_weights(one: Path, other: Path) -> bool:
    a, b = (load_file(path / "last.safetensors") for path in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("split", "kind", "number", "word"),
    [("val", "image", 1, "image"), ("val", "mask", 3, "mask"), ("train", "image", 11, "image")],
)
def test_damaged_file_ends_a_training_before_its_first_step(
    fptk: Fptk, faces: Path, tmp_path: Path, split: str, kind: str, number: int, word: str
) -> None:
    path = picture(faces, split, kind, number)
    path.write_bytes(path.read_bytes()[:200])
    finished = fptk("train", "--data", faces, "--size", 32, "--batch", 4, "--out", tmp_path / "run")
    assert finished.code == 2
    last = finished.err.strip().splitlines()[-1]
    assert last.startswith("fptk: ")
    assert path.name in last
    assert word in last
    assert not (tmp_path / "run").exists()


def test_several_damaged_files_are_counted(recipe: Recipe, faces: Path, tmp_path: Path) -> None:
    for number in (0, 2):
        picture(faces, "val", "mask", number).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"1 more like it; fptk data inspect lists all"):
        train(recipe, [faces], tmp_path / "run")


def test_state_is_saved_before_a_validation_that_fails(recipe: Recipe, faces: Path, tmp_path: Path) -> None:
    """The disk breaks while the training runs; mended, it goes on from the very step, bit for bit."""
    train(recipe, [faces], tmp_path / "whole")
    path = picture(faces, "val", "image", 2)
    content = path.read_bytes()
    with pytest.raises(InputError, match=path.name):
        train(recipe, [faces], tmp_path / "run", listener=Recording(2, lambda: path.write_bytes(b"broken")))
    path.write_bytes(content)
    assert RunFolder(tmp_path / "run").records() == []
    counted = Recording()
    assert train(recipe, [faces], tmp_path / "run", resume=True, listener=counted).finished
    assert counted.steps == 3  # steps 4 to 6
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    whole, parts = (RunFolder(tmp_path / name).records() for name in ("whole", "run"))
    assert [record["f1"] for record in whole] == [record["f1"] for record in parts]
    assert [record["step"] for record in parts] == [3, 6]


def test_data_may_move_but_not_change(recipe: Recipe, faces: Path, tmp_path: Path) -> None:
    train(recipe, [faces], tmp_path / "whole")
    train(recipe, [faces], tmp_path / "run", stop_after=1)
    moved = faces.rename(tmp_path / "elsewhere")
    train(recipe, [moved], tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    assert RunFolder(tmp_path / "run").data() == [moved]
    assert train(recipe, [moved], tmp_path / "whole", resume=True).finished


def test_data_that_is_gone_is_asked_for(fptk: Fptk, recipe: Recipe, faces: Path, tmp_path: Path) -> None:
    train(recipe, [faces], tmp_path / "run", stop_after=1)
    moved = faces.rename(tmp_path / "elsewhere")
    finished = fptk("train", "--resume", "--out", tmp_path / "run")
    assert finished.code == 2
    assert "say with --data where it is" in finished.err
    assert fptk("train", "--resume", "--out", tmp_path / "run", "--data", moved).code == 0


def _delete(faces: Path) -> None:
    for kind in ("image", "mask"):
        picture(faces, "train", kind, 5).unlink()


def _rename(faces: Path) -> None:
    for kind in ("image", "mask"):
        path = picture(faces, "val", kind, 0)
        path.rename(path.with_stem("another"))


def _repaint(faces: Path) -> None:
    path = picture(faces, "train", "mask", 7)
    with Image.open(path) as opened:
        mask = opened.copy()
    mask.putpixel((0, 0), 0 if mask.getpixel((0, 0)) else 1)
    mask.save(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_delete, "there are 11 training images, and there were 12 at its start"),
        (_rename, "the validation images have other names"),
        (_repaint, "a training image or mask has another content"),
    ],
)
def test_changed_data_is_refused(
    fptk: Fptk, recipe: Recipe, faces: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    train(recipe, [faces], tmp_path / "run", stop_after=1)
    state = (tmp_path / "run" / "resume.safetensors").read_bytes()
    change(faces)
    finished = fptk("train", "--resume", "--out", tmp_path / "run")
    assert finished.code == 2
    assert said in finished.err.strip().splitlines()[-1]
    assert (tmp_path / "run" / "resume.safetensors").read_bytes() == state
    assert said in str(RunFolder(tmp_path / "run").difference(recipe, [faces]))


def test_run_of_an_older_fptk_is_known_by_its_folders(recipe: Recipe, faces: Path, tmp_path: Path) -> None:
    train(recipe, [faces], tmp_path / "run", stop_after=1)
    run = RunFolder(tmp_path / "run")
    card = run.read()
    del card["data_identity"]
    run.card.write_text(json.dumps(card))
    copy = shutil.copytree(faces, tmp_path / "copy")
    with pytest.raises(InputError, match="other --data"):
        train(recipe, [copy], tmp_path / "run", resume=True)
    assert train(recipe, [faces], tmp_path / "run", resume=True, stop_after=1).step == 2


@pytest.mark.parametrize("left", ["run.json", "resume.safetensors", "best.safetensors", ""])
def test_folder_of_leftovers_is_free_and_is_swept(tiny_recipe: Recipe, tmp_path: Path, left: str) -> None:
    """A training was killed while it wrote its run.json."""
    with atomic_file(tmp_path / "elsewhere" / left if left else tmp_path / "elsewhere" / "x") as temporary:
        temporary.write_text("x")
        name = temporary.name if left else NAME
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text('{"schema_')
    short = tiny_recipe.with_overrides(["optim.max_steps=1"])
    assert train(short, [], tmp_path / "run").finished
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert not [name for name in names if name.startswith(".")]


def test_two_trainings_in_one_folder(fptk: Fptk, tiny_recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny_recipe, [], out, stop_after=1)
    lock = RunLock(out)
    lock.acquire()
    finished = fptk("train", "--resume", "--out", out)
    assert finished.code == 2
    last = finished.err.strip().splitlines()[-1]
    assert f"run folder {out} is in use by process" in last
    assert "since 20" in last
    assert RunFolder(out).read()["result"] is None
    lock.release()
    assert not (out / NAME).exists()
    assert fptk("train", "--resume", "--out", out).code == 0


def test_second_training_for_a_new_folder_is_refused(tiny_recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"

    def begin() -> None:
        with pytest.raises(InputError, match="holds a run"):
            train(tiny_recipe, [], out)
        with pytest.raises(InputError, match="is in use by process"):
            train(tiny_recipe, [], out, resume=True)

    assert train(tiny_recipe, [], out, stop_after=1, listener=Recording(1, begin)).step == 1
