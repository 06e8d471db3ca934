"""Recipes: the shipped ones load, and what is wrong with another is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fptk.core.errors import InputError
from fptk.recipes import Recipe, differing_keys, list_recipes


def test_every_shipped_recipe_loads_and_describes_itself() -> None:
    recipes = list_recipes()
    assert {"microsegformer", "demo", "shipped"} <= set(recipes)
    for name, description in recipes.items():
        assert Recipe.load(name).name == name
        assert len(description) > 20


def test_paper_recipe_states_the_papers_numbers() -> None:
    recipe = Recipe.load("microsegformer")
    assert (recipe.data.size, recipe.data.batch, recipe.optim.epochs) == ((512, 512), 32, 80)
    assert (recipe.optim.lr, recipe.optim.weight_decay, recipe.optim.clip) == (8e-4, 1e-4, 1.0)
    assert (recipe.optim.warmup_epochs, recipe.optim.schedule) == (5, "cosine")
    assert (recipe.augment.flip, recipe.augment.rotate_deg, recipe.augment.scale) == ("swapped", 15, (0.9, 1.1))
    assert (recipe.augment.brightness, recipe.augment.contrast, recipe.augment.saturation) == (0.2, 0.2, 0.1)
    assert (recipe.loss.ce, recipe.loss.dice) == (1.0, 1.0)
    assert recipe.model.options == {"lmsa": "compact", "dropout": 0.15}


def test_recipe_survives_json() -> None:
    recipe = Recipe.load("shipped")
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_overrides_are_applied_in_order() -> None:
    recipe = Recipe.load("shipped").with_overrides(
        ["optim.lr=5e-4", "optim.lr=1e-3", "data.phases.0.size=128", "model.options.lmsa=null", "precision.amp=off"]
    )
    assert recipe.optim.lr == 1e-3
    assert recipe.data.phases[0].size == (128, 128)
    assert recipe.model.options["lmsa"] is None
    assert recipe.precision.amp == "off"
    assert differing_keys(recipe, Recipe.load("shipped"))[0] == "data.phases"


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("optim.learning_rat=1", ["'optim.learning_rat'", "lr, weight_decay"]),
        ("optim.lrr=1", ["did you mean 'optim.lr'?"]),
        ("lr=1", ["did you mean 'optim.lr'?", "sections: name, description, seed, model"]),
        ("optim=3", ["key 'optim'", "section", "found 3"]),
        ("data=null", ["key 'data'", "section", "found nothing"]),
        ("optim.lr=-1", ["key 'optim.lr'", "greater than 0", "found -1"]),
        ("optim.lr=fast", ["key 'optim.lr'", "valid number", "'fast'"]),
        ("data.size=100", ["key 'data.size'", "100x100", "multiple of 32"]),
        ("data.phases=[{until: 0.5, size: 256}]", ["key 'data.phases'", "end at 1.0"]),
        ("data.phases=[{until: 1.0, sise: 256}]", ["'data.phases.0.sise'", "did you mean 'data.phases.0.size'?"]),
        ("augment.flip=left", ["key 'augment.flip'", "'none', 'swapped' or 'unswapped'"]),
        ("augment.scale=[2, 1]", ["key 'augment.scale'", "low <= high"]),
        ("optim.name.deeper=1", ["'optim.name.deeper'", "has no keys"]),
        ("optim.lr", ["expected key.path=value"]),
        ("optim.lr=[1", ["not valid YAML"]),
        ("seed=-1", ["key 'seed'", "found -1"]),
        ("optim.lr=.inf", ["key 'optim.lr'", "finite number", "found inf"]),
        ("optim.lr=true", ["key 'optim.lr'", "expected a number, found true"]),
        ("optim.ema=false", ["key 'optim.ema'", "expected a number, found false"]),
        ("data.batch=2.5", ["key 'data.batch'", "valid integer", "found 2.5"]),
        ("data.size=[64, 64, 64]", ["key 'data.size'", "expected a list of 2"]),
        ("augment.scale=[1]", ["key 'augment.scale'", "list ends before item 2"]),
        ("augment.scale=3", ["key 'augment.scale'", "expected a list, found 3"]),
        ("model.options=[1]", ["key 'model.options'", "expected keys and values"]),
        ("loss.focall=1", ["unknown key 'loss.focall'", "did you mean 'loss.focal'?", "focal_gamma, focal_alpha"]),
        ("loss.focal_gamma=-1", ["key 'loss.focal_gamma'", "greater than or equal to 0"]),
        ("loss.class_weights=log", ["key 'loss.class_weights'", "'sqrt_median_frequency' or 'inverse_log_frequency'"]),
        ("loss.boundary_width=0", ["key 'loss.boundary_width'", "greater than or equal to 1"]),
        ("loss={ce: 0, boundary: 1}", ["key 'loss'", "boundary weighs the cross-entropy", "set ce above 0"]),
        ("loss={ce: 0, class_weights: sqrt_median_frequency}", ["class_weights weighs the cross-entropy"]),
        ("optim.name=lion", ["key 'optim.name'", "'adamw', 'adam' or 'sgd'"]),
        ("optim={name: sgd, schedule: dynamic}", ["key 'optim'", "set name to adam or adamw"]),
        ("dynamic.patience=0", ["key 'dynamic.patience'", "greater than or equal to 1"]),
        ("dynamic.patince=3", ["unknown key 'dynamic.patince'", "did you mean 'dynamic.patience'?"]),
        ("dynamic.threshold=1", ["key 'dynamic'", "threshold 1 is above sgd_lr 0.01"]),
        ("mix.cutmix=2", ["key 'mix.cutmix'", "less than or equal to 1"]),
        ("mix.mix=1", ["unknown key 'mix.mix'", "keys of mix: cutmix, cutmix_alpha, mixup, mixup_alpha"]),
        ("data.multiscale=[1, 0.5]", ["key 'data.multiscale'", "low <= high"]),
        ("augment.crop=0", ["key 'augment.crop'", "greater than or equal to 0.01"]),
        ("augment.crop_on_class=1", ["key 'augment'", "set crop below 1"]),
        ("preprocess.statistics=mine", ["key 'preprocess.statistics'", "'given' or 'measured'"]),
        ("preprocess={statistics: measured, std: [1, 1, 1]}", ["key 'preprocess'", "leave one of them out"]),
    ],
)
def test_bad_override_is_told_in_one_line(assignment: str, said: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load("shipped").with_overrides([assignment])
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_keys_that_only_go_together_may_be_set_one_after_the_other() -> None:
    recipe = Recipe.load("shipped").with_overrides(["augment.crop_on_class=0.5", "optim.lr=1e-3", "augment.crop=0.5"])
    assert (recipe.augment.crop_on_class, recipe.augment.crop, recipe.optim.lr) == (0.5, 0.5, 1e-3)


def test_loading_takes_overrides_as_plain_values(tmp_path: Path) -> None:
    recipe = Recipe.load("microsegformer", {"optim.epochs": 10, "data.size": (64, 96), "model.options.lmsa": None})
    assert (recipe.optim.epochs, recipe.data.size, recipe.model.options["lmsa"]) == (10, (64, 96), None)
    changed = set(differing_keys(recipe, Recipe.load("microsegformer")))
    assert changed == {"optim.epochs", "data.size", "model.options.lmsa"}
    path = tmp_path / "mine.yaml"
    path.write_text("base: shipped\noptim: {lr: 5e-4}")
    mine = Recipe.load(path, {"augment.crop_on_class": 0.5, "augment.crop": 0.5, "data.phases.0.size": 128})
    assert (mine.name, mine.optim.lr, mine.augment.crop_on_class) == ("mine", 5e-4, 0.5)
    assert mine.data.phases[0].size == (128, 128)
    assert Recipe.load(str(path), {}) == Recipe.load(path)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.lrr", 1, "override optim.lrr: unknown key 'optim.lrr' (did you mean 'optim.lr'?)"),
        ("optim.lr", "fast", "override optim.lr=fast: key 'optim.lr': "),
        ("data.batch", 2.5, "found 2.5"),
        ("augment.crop_on_class", 0.5, "override augment.crop_on_class=0.5: key 'augment': "),
    ],
)
def test_wrong_override_is_told_in_one_line(key: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load("microsegformer", {key: value})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--set" not in str(caught.value)


def test_first_wrong_assignment_is_named_when_nothing_mends_it() -> None:
    with pytest.raises(InputError, match=r"--set augment.crop_on_class=0.5: key 'augment'"):
        Recipe.load("shipped").with_overrides(["augment.crop_on_class=0.5", "optim.lr=1e-3"])
    with pytest.raises(InputError, match=r"--set optim.lr=fast: key 'optim.lr'"):
        Recipe.load("shipped").with_overrides(["optim.lr=fast", "optim.name=lion"])


def test_everything_of_the_papers_methods_is_off_unless_asked_for() -> None:
    recipe = Recipe()
    assert (recipe.loss.focal, recipe.loss.lovasz, recipe.loss.boundary, recipe.loss.class_weights) == (0, 0, 0, "none")
    assert (recipe.mix.cutmix, recipe.mix.mixup, recipe.data.multiscale) == (0, 0, (1, 1))
    assert (recipe.augment.crop, recipe.augment.exposure, recipe.augment.blur, recipe.augment.noise) == (1, 0, 0, 0)
    assert (recipe.optim.name, recipe.optim.schedule, recipe.preprocess.statistics) == ("adamw", "cosine", "given")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optm: {}", "did you mean 'optim'?"),
        ("optim: {lr: x}", "key 'optim.lr'"),
        ("optim:\n  lr: 1\n  lr: 2\n", "line 3: key 'lr' stands twice"),
        ("a: [", "not valid YAML"),
        ("- 1", "expected sections"),
        ("", "found nothing"),
        ("loss: {ce: 0, dice: 0}", "nothing would be learnt"),
        ("optim: null", "expected a section"),
    ],
)
def test_bad_file_is_told_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        Recipe.load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert said in message
    assert "mine.yaml" in message


def test_words_of_yaml_1_1_are_no_booleans(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("precision: {amp: off}\noptim: {lr: 1e-3, ema: ~}\n")
    recipe = Recipe.load(path)
    assert (recipe.name, recipe.precision.amp, recipe.optim.lr, recipe.optim.ema) == ("mine", "off", 1e-3, None)


def test_unknown_name_lists_the_shipped_recipes() -> None:
    with pytest.raises(InputError, match=r"did you mean 'shipped'.*demo, .*microsegformer, .*shipped, "):
        Recipe.load("shiped")


def test_binary_and_missing_files_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "photo.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="not a text file"):
        Recipe.load(tmp_path / "photo.yaml")
    with pytest.raises(InputError, match="does not exist"):
        Recipe.load("no/such.yaml")


def test_base_is_replaced_key_by_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("base: microsegformer\noptim: {lr: 5e-4}\nmodel: {options: {lmsa: null}}")
    recipe, base = Recipe.load(path), Recipe.load("microsegformer")
    assert set(differing_keys(recipe, base)) == {"name", "optim.lr", "model.options.dropout", "model.options.lmsa"}
    assert recipe.name == "mine"


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("microsegformr", "did you mean 'microsegformer'?"),
        ("unet", "unet has a base itself; build on segformer"),
        ("3", "key 'base': expected the name or path of a recipe, found 3"),
        ("none.yaml", "recipe none.yaml does not exist"),
    ],
)
def test_wrong_base_is_refused_in_one_line(base: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"base: {base}")
    with pytest.raises(InputError) as error:
        Recipe.load(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
