"""Bad recipes, keys, tables and run folders through the command line: exit code 2, one line, nothing made."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fptk = Callable[..., Any]

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""Nine levels that expand to a thousand million words."""

FILES: list[tuple[str, str | bytes, list[str]]] = [
    ("tag", "seed: !!int x", ["line 1", "the tag !!int", "without a tag"]),
    ("python tag", "seed: !!python/object/apply:os.system [ls]", ["the tag !!python/object"]),
    ("list as key", "? [1, 2]\n: 3", ["a key is a word"]),
    ("section as key", "{{a: 1}: 2}", ["a key is a word"]),
    ("5,000 digits", f"seed: {'9' * 5000}", ["a number of 5000 digits", "at most 40"]),
    ("seed of 30 digits", f"seed: {'9' * 30}", ["key 'seed'", "less than 9223372036854775808"]),
    ("deep lists", "a: " + "[" * 100_000, ["nested more than 32 deep"]),
    ("deep sections", "a: " + "{b: " * 5000, ["nested more than 32 deep"]),
    ("deep blocks", "".join(f"{' ' * depth}a:\n" for depth in range(300)), ["nested more than 32 deep"]),
    ("alias in its own list", "a: &x [*x]", ["the alias *x stands inside its own anchor"]),
    ("alias in its own section", "optim: &x {lr: {b: *x}}", ["the alias *x stands inside its own anchor"]),
    ("unknown alias", "a: *x", ["undefined alias"]),
    ("billion laughs", LAUGHS, ["more than 20000 values"]),
    ("endless list", "a: [" + "1," * 50_000 + "1]", ["more than 20000 values"]),
    ("too long", "# " + "x" * 300_000, ["longer than 262144 bytes"]),
    ("merge key", "<<: {seed: 1}", ["unknown key '<<'"]),
    ("number as key", "1: 2", ["unknown key '1'"]),
    ("key twice in two forms", "1: a\n'1': b", ["key '1' stands twice"]),
    ("null as key of options", "model: {options: {null: 1}}", ["has no option 'null'"]),
    ("long key", "x" * 900 + ": 1", ["unknown key 'xxx"]),
    ("two documents", "seed: 1\n--- \nseed: 2", ["another document"]),
    ("NUL", b"seed: 1\0", ["special characters are not allowed"]),
    ("UTF-16", "seed: 1".encode("utf-16"), ["not a text file"]),
    ("words of YAML 1.1", "seed: yes", ["key 'seed'", "'yes'"]),
    ("true for a number", "seed: true", ["key 'seed'", "found true"]),
    ("name leads outside", "name: ../../x", ["key 'name'", "plain file name", "'../../x'"]),
    ("name is a path", "name: /tmp/x", ["key 'name'", "plain file name"]),
    ("name of dots", "name: '..'", ["key 'name'", "plain file name"]),
    ("hidden name", "name: .x", ["key 'name'", "no leading dot"]),
    ("empty name", "name: ''", ["key 'name'", "plain file name"]),
    ("name with escape code", 'name: "a\\e[31mb"', ["key 'name'", "plain file name"]),
    ("name with NUL", 'name: "a\\0b"', ["key 'name'"]),
    ("long name", f"name: {'x' * 200}", ["key 'name'", "at most 100 bytes"]),
    ("network named twice", "model: {options: {name: unet}}", ["key 'model.options'", "model.name"]),
    ("option is a list", "model: {options: {lmsa: [1]}}", ["key 'model.options'", "'lmsa'", "found [1]"]),
    ("option is a section", "model: {options: {dropout: {a: 1}}}", ["key 'model.options'", "'dropout'"]),
    ("option is infinite", "model: {options: {dropout: .inf}}", ["key 'model.options'", "finite number"]),
    ("base with NUL", 'base: "a\\0b.yaml"', ["cannot be read"]),
    ("base is itself", "base: mine.yaml", ["mine.yaml has a base itself"]),
]

KEYS: list[tuple[str, list[str]]] = [
    ("data.cache_gb=1e300", ["key 'data.cache_gb'", "less than or equal to 100000"]),
    ("data.multiscale=[1, 1e9]", ["key 'data.multiscale'", "0.01 to 100"]),
    ("data.multiscale=[1, 90]", ["key 'data'", "at most 4096"]),
    ("data.multiscale=[1, .nan]", ["key 'data.multiscale", "finite number"]),
    ("data.batch=10000000", ["key 'data.batch'", "less than or equal to 4096"]),
    ("data.size=1000000", ["key 'data.size'", "1000000x1000000", "at most"]),
    ("data.size=3200000", ["key 'data.size'", "at most 4096 pixels"]),
    ("data.synthetic.size=320000", ["key 'data.synthetic.size'", "at most 4096 pixels"]),
    ("data.synthetic.train=1000000000000", ["key 'data.synthetic.train'", "equal to 10000000,"]),
    ("data.workers=100000", ["key 'data.workers'", "1024"]),
    ("data.eval_every=1e-300", ["key 'data.eval_every'", "greater than or equal to"]),
    ("data.phases=[{until: 1.0, size: 64, batch: 5000}]", ["key 'data.phases.0.batch'", "4096"]),
    ("bench.threads=1000000000000", ["key 'bench.threads'", "1024"]),
    ("bench.rounds=1000000000", ["key 'bench.rounds'", "1000000"]),
    ("export.max_miou_drop=.nan", ["key 'export.max_miou_drop'", "finite number"]),
    ("export.max_miou_drop=1e9", ["key 'export.max_miou_drop'", "100"]),
    ("export.calibration_images=1000000000", ["key 'export.calibration_images'", "1000000"]),
    ("optim.epochs=1e300", ["key 'optim.epochs'", "1000000"]),
    ("optim.epochs=1e999", ["key 'optim.epochs'", "finite number"]),
    ("optim.max_steps=99999999999", ["key 'optim.max_steps'", "1000000000"]),
    ("optim.accumulate=100000", ["key 'optim.accumulate'", "4096"]),
    ("loss.focal_gamma=1e9", ["key 'loss.focal_gamma'", "100"]),
    ("loss.boundary_width=1000000000", ["key 'loss.boundary_width'", "4096"]),
    ("mix.mixup_alpha=1e-300", ["key 'mix.mixup_alpha'", "0.001"]),
    ("preprocess.std=[1, 1, 1e-300]", ["key 'preprocess.std'", "1e-6"]),
    ("preprocess.mean=[1e300, 0, 0]", ["key 'preprocess.mean.0'", "1000000"]),
    ("augment.scale=[0.5, true]", ["key 'augment.scale'", "no true or false"]),
    ("augment.crop=1e-320", ["key 'augment.crop'", "0.01"]),
    ("optim.epochs=1e-320", ["key 'optim.epochs'", "0.000001"]),
    ("augment.scale=[1e-9, 1]", ["key 'augment.scale'", "0.01 to 100"]),
    ("model.param_budget=99999999999", ["key 'model.param_budget'", "1000000000"]),
    ("model.options.name=x", ["key 'model.options'", "model.name"]),
    ("model.options.lmsa=[1]", ["key 'model.options'", "'lmsa'"]),
    ("model.options.lmsa=7", ["lmsa '7' is unknown"]),
    ("data.phases.².size=64", ["unknown key 'data.phases.²'"]),
    (f"data.phases.{'9' * 5000}.size=64", ["unknown key 'data.phases.999"]),
    ("seed=!!int x", ["--set seed", "without a tag"]),
    ("seed=" + "9" * 5000, ["--set seed", "a number of 5000 digits"]),
    ("name=../x", ["key 'name'", "plain file name"]),
    ("description=" + "x" * 2000, ["key 'description'", "1000"]),
]


def check(finished: Any, words: list[str]) -> None:
    """Exit code 2, and one line on stderr that holds the words."""
    assert finished.code == 2, finished
    lines = [line for line in finished.err.splitlines() if not line.startswith("no --data given")]
    assert len(lines) == 1, finished.err
    assert lines[0].startswith("fptk: ")
    assert len(lines[0]) < 700
    for word in words:
        assert word in lines[0]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("text", "words"), [each[1:] for each in FILES], ids=[each[0] for each in FILES])
def test_bad_recipe(fptk: Fptk, tmp_path: Path, text: str | bytes, words: list[str]) -> None:
    (tmp_path / "mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    check(fptk("train", "--recipe", "mine.yaml", "--out", "run"), words)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(("key", "words"), KEYS, ids=[key[:40] for key, _ in KEYS])
def test_bad_key(fptk: Fptk, tmp_path: Path, key: str, words: list[str]) -> None:
    check(fptk("train", "--recipe", "shipped", "--set", key, "--out", "run"), words)
    assert not list(tmp_path.iterdir())


def test_numbers_with_leading_zeros_are_decimal() -> None:
    """YAML 1.2; YAML 1.1 read 010 as eight and refused 08."""
    from fptk.recipes import Recipe

    Path("mine.yaml").write_text("seed: 08\ndata: {seed: 010}\noptim: {epochs: 00.5}")
    recipe = Recipe.load("mine.yaml")
    assert (recipe.seed, recipe.data.seed, recipe.optim.epochs) == (8, 10, 0.5)


def test_alias_stands_for_its_anchor() -> None:
    from fptk.recipes import Recipe

    Path("mine.yaml").write_text("data: {size: &side 64, eval_size: *side}")
    assert Recipe.load("mine.yaml").data.eval_size == (64, 64)


def test_recipe_that_is_no_regular_file(fptk: Fptk) -> None:
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    Path("loop.yaml").symlink_to("loop.yaml")
    for name, words in (
        ("folder.yaml", ["recipe folder.yaml cannot be read"]),
        ("pipe.yaml", ["FIFO"]),
        ("/dev/zero", ["FIFO, device"]),
        ("loop.yaml", ["circle"]),
        ("x" * 300 + ".yaml", ["too long"]),
        ("x" * 300, ["there is no recipe 'xxx"]),
        ("pipe.yaml/x.yaml", ["cannot be read"]),
    ):
        check(fptk("train", "--recipe", name), words)
        if name.endswith(".yaml"):
            check(fptk("ablate", name, "--out", "o"), [word.replace("recipe", "table") for word in words])


HEAD = "title: x\nheading: y\npaper: z\nmetrics: [f1]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, ["more than 20000 values"]),
        ("a: &x [*x]", ["inside its own anchor"]),
        ("title: !!int x", ["the tag !!int"]),
        (HEAD + "name: ../x\nrows: [{label: a, recipe: demo}]", ["key 'name'", "plain file name"]),
        (HEAD + "rows: [{label: a, recipe: demo, paper: {f1: .nan}}]", ["rows.0.paper.f1"]),
        (HEAD + "rows: [{label: [a], recipe: demo}]", ["rows.0.label"]),
    ],
)
def test_bad_table(fptk: Fptk, text: str, words: list[str]) -> None:
    Path("mine.yaml").write_text(text)
    check(fptk("ablate", "mine.yaml", "--out", "o"), ["table mine.yaml", *words])
    assert not Path("o").exists()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of two steps that has ended, and stands as if it had been stopped after the first validation."""
    from fptk.recipes import recipe_from
    from fptk.training import train

    data = {"size": 32, "batch": 4, "synthetic": {"train": 8, "val": 2, "size": 32}, "eval_every": 0.5}
    values = {"name": "tiny", "data": data, "optim": {"epochs": 2}}
    out = tmp_path_factory.mktemp("begun") / "run"
    train(recipe_from(values, "tiny"), [], out, stop_after=1)
    return out


def card(**changes: Any) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = run / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda run: (run / name).write_text(content) and None


def metrics(**changes: Any) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        path = run / "metrics.jsonl"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}) + "\n")

    return damage


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        path = run / "resume.safetensors"
        with safe_open(path, framework="pt") as handle:
            counters = json.loads(handle.metadata()["fptk_resume"])
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 - no mapping
        changed = change(counters)
        save_file(tensors, path, metadata={"fptk_resume": changed if isinstance(changed, str) else json.dumps(changed)})

    return damage


RUNS: list[tuple[str, Callable[[Path], Any], list[str]]] = [
    ("card is a list", text("run.json", "[]"), ["run card", "no schema version"]),
    ("card is cut", text("run.json", '{"schema_version": 1,'), ["run card", "not a readable JSON"]),
    ("card is deep", text("run.json", "[" * 100_000), ["run card", "nests deeper"]),
    ("card of a later fptk", card(schema_version=9), ["schema version 9, this fptk", "reads 1"]),
    ("card of version true", card(schema_version=True), ["no schema version"]),
    ("card of version '1'", card(schema_version="1"), ["no schema version"]),
    ("recipe is a list", card(recipe=[]), ["key 'recipe'", "found []"]),
    ("recipe has a bad key", card(recipe={"optm": {}}), ["did you mean 'optim'?"]),
    ("data is a word", card(data="faces"), ["key 'data'", "'faces'"]),
    ("data are numbers", card(data=[1]), ["key 'data.0'"]),
    ("data with NUL", card(data=["a\0b"]), ["key 'data.0'"]),
    ("data are gone", card(data=["/no/such/folder"]), ["say with --data where it is"]),
    ("data are a loop", lambda run: ((run / "x").symlink_to("x"), card(data=["run/x"])(run)), ["circle"]),
    ("created is a number", card(created=3), ["key 'created'"]),
    ("result is a word", card(result="done"), ["key 'result'"]),
    ("result lacks its step", card(result={"finished": True}), ["key 'result.step'"]),
    ("result has words", card(result={"step": "6"}), ["key 'result."]),
    ("identity is a list", card(data_identity=[1]), ["key 'data_identity'"]),
    ("card is a folder", lambda run: ((run / "run.json").unlink(), (run / "run.json").mkdir()), ["run card"]),
    ("card is a FIFO", lambda run: ((run / "run.json").unlink(), os.mkfifo(run / "run.json")), ["FIFO"]),
    ("metrics are words", metrics(step="one"), ["line 1", "key 'step'", "'one'"]),
    ("metrics lack a score", text("metrics.jsonl", '{"step": 1}\n'), ["line 1", "key '"]),
    ("metrics are NaN", metrics(loss=float("nan")), ["line 1", "NaN"]),
    ("metrics are a list", text("metrics.jsonl", "[1]\n"), ["line 1"]),
    ("metrics are deep", text("metrics.jsonl", "[" * 50_000 + "\n"), ["line 1", "nests deeper"]),
    ("metrics are bytes", lambda run: (run / "metrics.jsonl").write_bytes(b"\xff\xfe\n"), ["line 1"]),
    ("state is empty", text("resume.safetensors", ""), ["resume state", "damaged"]),
    ("state is a folder", lambda run: ((run / "resume.safetensors").unlink(), (run / "resume.safetensors").mkdir()),
     ["no regular file"]),
    ("state is gone", lambda run: (run / "resume.safetensors").unlink(), ["has lost its resume.safetensors"]),
    ("header is a list", header(lambda counters: [1]), ["holds no counters"]),
    ("header is deep", header(lambda counters: "[" * 50_000), ["damaged", "nests deeper"]),
    ("header of a later fptk", header(lambda counters: counters | {"schema_version": 7}), ["version 7", "reads 1"]),
    ("step is a word", header(lambda counters: counters | {"step": "one"}), ["damaged", "step"]),
    ("step is negative", header(lambda counters: counters | {"step": -1}), ["step -1"]),
    ("step is beyond the end", header(lambda counters: counters | {"step": 10**9}), ["step 1000000000"]),
    ("unknown counter", header(lambda counters: counters | {"steps": 1}), ["damaged", "steps"]),
    ("pipeline is a list", header(lambda counters: counters | {"pipeline": [1]}), ["damaged", "pipeline"]),
    ("scores are words", header(lambda counters: counters | {"best_scores": {"f1": "x"}}), ["damaged", "best_scores"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [each[1:] for each in RUNS], ids=[each[0] for each in RUNS])
def test_damaged_run(fptk: Fptk, begun: Path, damage: Callable[[Path], Any], words: list[str]) -> None:
    shutil.copytree(begun, "run")
    damage(Path("run"))
    before = {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()}
    finished = fptk("train", "--resume", "--out", "run")
    assert finished.code == 2, finished
    last = finished.err.strip().splitlines()[-1]  # the lines before it tell of the training's start
    assert last.startswith("fptk: ")
    assert "Traceback" not in finished.err
    for word in words:
        assert word in last
    assert {path.name: path.read_bytes() for path in Path("run").iterdir() if path.is_file()} == before


def test_last_line_of_metrics_may_be_cut_short(fptk: Fptk, begun: Path) -> None:
    shutil.copytree(begun, "run")
    with Path("run/metrics.jsonl").open("a") as handle:
        handle.write('{"step": 2, "epo')
    assert fptk("train", "--resume", "--out", "run").code == 0
    assert [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]


def test_batch_that_the_machine_cannot_hold_is_refused_with_its_bound(
    fptk: Fptk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fptk.training.preparation.machine_memory", lambda: 10 * 4096 * 28)
    keys = ["--set=data.synthetic={train: 4, val: 1, size: 32}", "--set=data.size=64", "--set=data.batch=12"]
    finished = fptk("train", *keys, "--out", "run")
    assert finished.code == 2
    assert "a data.batch of at most 10" in finished.err
    assert not list(tmp_path.iterdir())
