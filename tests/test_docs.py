"""The documents are true: every command parses, every link leads somewhere, and what can run here runs at small size.

A document marks what cannot run in a test with a visible reason, ``# needs …`` or ``# takes …``: behind a command, or
on a line of its own for the rest of the block.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image

from fptk.cli import COMMANDS, cli

ROOT = Path(__file__).resolve().parents[1]

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "MODEL_CARD.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
REASON = re.compile(r"#.*\b(needs|takes)\b")
WRAPPER = re.compile(r"[A-Z_]+=\S+|/usr/bin/time|-v")
"""What may stand before ``fptk`` on a command line."""


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A code block: of a language behind its fence, or indented."""

    document: Path
    line: int
    """Of its first line of code, counted from 1."""
    language: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    @property
    def where(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """``fptk`` with its arguments, as it stands in a document."""

    arguments: tuple[str, ...]
    where: str
    reason: str
    """Why it is not run; empty where it is."""


def blocks_of(document: Path) -> Iterator[Block]:
    language: str | None = None
    found: list[str] = []
    start = 0
    for number, line in enumerate([*document.read_text(encoding="utf-8").splitlines(), ""], start=1):
        fence = line.startswith("```")
        indented = line.startswith("    ") and language in (None, "indented")
        if indented and language is None:
            language, found, start = "indented", [], number
        if fence and language in (None, "indented"):
            language, found, start = line.removeprefix("```").strip() or "text", [], number + 1
        elif fence or (language == "indented" and line.strip() and not indented):
            yield Block(document, start, language or "", tuple(found))
            language = None
        elif language is not None:
            found.append(line.removeprefix("    ") if language == "indented" else line)
    if language == "indented":
        yield Block(document, start, language, tuple(found))


def commands_of(block: Block) -> Iterator[Command]:
    """The ``fptk`` commands of a console session, or of an indented block."""
    if block.language not in ("console", "indented"):
        return
    reason = ""
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            reason = stripped if REASON.search(stripped) else reason
            continue
        if block.language == "console" and not stripped.startswith("$ "):
            continue
        stripped = stripped.removeprefix("$ ")
        words = shlex.split(stripped, comments=True)
        while words and WRAPPER.fullmatch(words[0]):
            words.pop(0)
        if words[:1] == ["fptk"]:
            own = REASON.search(stripped)
            yield Command(tuple(words[1:]), block.where, own.group() if own else reason)


ALL = [command for document in DOCUMENTS for block in blocks_of(document) for command in commands_of(block)]


def parse(arguments: tuple[str, ...]) -> click.Context:
    """What click makes of the arguments of ``fptk``, without running anything."""
    command: click.Command = cli
    rest = list(arguments)
    context = click.Context(cli)
    while isinstance(command, click.Group):
        name = rest.pop(0)
        inner = command.get_command(context, name)
        assert inner is not None, f"there is no command {name}"
        command = inner
    return command.make_context(command.name or "", rest)


def test_the_documents_hold_commands() -> None:
    """A reader that finds nothing would pass every other test."""
    named = {command.arguments[0] for command in ALL}
    assert named == {*COMMANDS} - {"run", "demo"}
    assert len(ALL) > 50
    assert any(command.reason for command in ALL)
    assert any(not command.reason for command in ALL)


@pytest.mark.parametrize("command", ALL, ids=lambda command: f"{command.where} {' '.join(command.arguments)}")
def test_every_command_is_one_of_fptk(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fptk.export.targets.options import read_options
    from fptk.export.targets.registry import list_targets
    from fptk.recipes import Recipe

    monkeypatch.chdir(tmp_path)
    given = parse(command.arguments).params
    targets = given.get("targets") or ("onnx", "openvino")
    if command.arguments[0] == "export" and {*targets} <= {*list_targets()}:
        read_options(targets, given["assignments"])
    if command.arguments[0] == "train":
        changes = [each for each in given["assignments"] if not each.startswith("model.options")]
        Recipe.load(given["recipe"] or "microsegformer").with_overrides(changes)


def test_a_wrong_command_would_be_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(("export", "--cpu", "vnni"))
    with pytest.raises(click.UsageError):
        parse(("predict", "face.jpg"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_within_a_sentence_have_known_options(document: Path) -> None:
    text = "\n".join(line for line in document.read_text("utf-8").splitlines() if not line.startswith("Made by"))
    for name, rest in re.findall(r"`fptk ([a-z]+)([^`]*)`", text):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None, f"there is no command fptk {name}"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = re.findall(r"(?<!\S)--?[a-z][a-z0-9-]*", rest)
        assert {*options} <= known | {"--help"}, f"fptk {name}{rest}"


def anchors_of(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CHANGELOG.md"], ids=name_of)
def test_every_link_leads_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        assert target.exists(), f"{name_of(document)} links to {path}"
        assert not anchor or anchor in anchors_of(target), f"{name_of(document)} links to {link}"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    below = index.parent / "measurements"
    found = set()
    for page in (index, below / "README.md", below / "ablations" / "README.md"):
        links = re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8"))
        found |= {(page.parent / link).resolve() for link in links}
    assert {page for page in DOCUMENTS if "docs" in page.parts} - {index} <= found


def test_the_readme_shows_the_house_that_the_architecture_test_holds() -> None:
    namespace: dict[str, Any] = {"__file__": str(ROOT / "tests" / "test_architecture.py"), "__name__": "house"}
    source = (ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    exec(compile(source, "test_architecture.py", "exec"), namespace)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    floors = re.findall(r"^(\d)  ([a-z]+(?: · [a-z]+)*)  ", text, flags=re.MULTILINE)
    shown = tuple(tuple(rooms.split(" · ")) for _, rooms in reversed(floors))
    assert [int(number) for number, _ in reversed(floors)] == list(range(1, len(floors) + 1))
    assert shown == namespace["FLOORS"]


def test_the_face_of_the_readme_is_what_its_command_draws() -> None:
    from fptk.data.synthetic.faces import draw_face

    command = next(each for each in ALL if each.arguments[:2] == ("data", "synth"))
    given = parse(command.arguments).params
    image, mask = draw_face(given["seed"], 0, (given["size"], given["size"]))
    with Image.open(ROOT / "docs" / "face-mask.png") as shown:
        assert np.array_equal(np.array(shown), mask)
    with Image.open(ROOT / "docs" / "face.jpg") as shown:
        assert np.abs(np.array(shown).astype(int) - image).mean() < 3  # JPEG, quality 95


def test_every_command_and_every_name_of_the_api_has_its_place_in_the_reference() -> None:
    import fptk

    commands = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `fptk ([a-z]+)", commands, flags=re.MULTILINE) == list(COMMANDS)
    api = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    assert {*re.findall(r"^## `fptk\.(\w+)`", api, flags=re.MULTILINE)} == {*fptk.__all__} - {"__version__"}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    from fptk.core import errors

    text = (ROOT / "docs" / "reference" / "exit-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", text, flags=re.MULTILINE)
    told = {name: int(code) for code, names in rows for name in re.findall(r"`(\w+)`", names)}
    real = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.FptkError)
    }
    assert {name: told.get(name) for name in real} == real


def test_the_generated_pages_are_what_the_code_says() -> None:
    from fptk.workflows.reference import pages

    folder = ROOT / "docs" / "reference"
    stale = [name for name, text in pages().items() if (folder / name).read_text(encoding="utf-8") != text]
    assert not stale, "run: python -m fptk.workflows.reference docs/reference"
    silent = [line for text in pages().values() for line in text.splitlines() if line.endswith("|  |")]
    assert not silent, "give each of these a docstring"


SMALL_RECIPE = {
    "data.size": 64,
    "data.phases": [],
    "data.eval_size": None,
    "data.batch": 4,
    "data.workers": 1,
    "data.synthetic.train": 8,
    "data.synthetic.val": 4,
    "data.synthetic.size": 64,
    "optim.max_steps": 2,
    "export.calibration_images": 2,
    "bench.rounds": 1,
}
"""What makes every recipe a matter of seconds."""

SMALL_OPTIONS = {
    # A network of two steps keeps or loses accuracy by chance.
    "export": ("--eval-images", "2", "--calib-size", "2", "--max-miou-drop", "100", "--max-class-drop", "100"),
    "eval": ("--eval-images", "2"),
    "bench": ("--rounds", "1"),
    "data synth": ("--count", "2", "--size", "64"),
}
"""Appended to a command of a document; click takes the last of several."""


def small_options(arguments: tuple[str, ...]) -> tuple[str, ...]:
    two = " ".join(arguments[:2])
    return SMALL_OPTIONS.get(two, SMALL_OPTIONS.get(arguments[0], ()))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes and exports of seconds, in this process."""
    from fptk.recipes import Recipe

    real = Recipe.load.__func__  # type: ignore[attr-defined]

    def load(kind: type[Recipe], name: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
        real(kind, name, overrides)  # what the document says must be allowed
        changed: Recipe = real(kind, name, {**(overrides or {}), **SMALL_RECIPE})
        return changed

    monkeypatch.setattr(Recipe, "load", classmethod(load))
    monkeypatch.setattr("fptk.export.attempt.measure_processors", lambda *_, **__: None)


def test_an_empty_folder_is_enough_as_the_readme_says(
    fptk: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fptk.cli.eval import SYNTHETIC_IMAGES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"scores the package's weights on {SYNTHETIC_IMAGES} synthetic faces" in text
    monkeypatch.chdir(tmp_path)
    synth = next(each for each in ALL if each.arguments[:2] == ("data", "synth"))
    assert fptk(*synth.arguments).code == 0
    scored = fptk("eval", "--eval-images", "2")
    assert scored.code == 0
    assert "2 synthetic faces" in scored.err
    assert fptk("predict", "faces/train/images", "--out", "out").code == 0
    assert len([*(tmp_path / "out").glob("*.png")]) == 1
    assert fptk("predict").code == 2


@pytest.fixture(scope="module")
def trained(faces_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps with its bundles."""
    import fptk

    recipe = fptk.Recipe.load("microsegformer", SMALL_RECIPE)
    run = fptk.train(recipe, data=faces_folder, out=tmp_path_factory.mktemp("trained") / "mine")
    fptk.build(run, gate=None, eval_images=2, matrix_images=None)
    return run.out


@pytest.fixture
def reader(
    faces_folder: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[bool], None]:
    """Puts a reader of a document into a folder with what the documents speak of."""

    def prepare(with_run: bool) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        shutil.copytree(faces_folder, "celebamask")
        shutil.copytree(faces_folder / "val" / "images", "photos")
        shutil.copy(next(Path("photos").iterdir()), "face.jpg")
        if with_run:
            shutil.copytree(trained, "runs/mine")

    return prepare


def register(toml: str) -> None:
    """Do what installing a package with these entry points would do."""
    import tomllib

    from fptk.export.targets import registry as targets
    from fptk.models import registry as models

    groups = tomllib.loads(toml)["project"]["entry-points"]
    folder = Path("reader-1.0.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: reader\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    targets._entries.cache_clear()
    models._entries.cache_clear()


@pytest.fixture
def fresh_registries() -> Iterator[None]:
    yield
    from fptk.export.targets import registry as targets
    from fptk.models import registry as models

    targets._entries.cache_clear()
    models._entries.cache_clear()


PLAYED = [
    document
    for document in DOCUMENTS
    if any(
        block.language == "python" or any(not command.reason for command in commands_of(block))
        for block in blocks_of(document)
    )
]


@pytest.mark.slow
@pytest.mark.usefixtures("small", "fresh_registries")
@pytest.mark.parametrize("document", PLAYED, ids=name_of)
def test_a_reader_can_do_what_the_document_does(
    document: Path, reader: Callable[[bool], None], fptk: Callable[..., Any]
) -> None:
    blocks = list(blocks_of(document))
    commands = [command for block in blocks for command in commands_of(block)]
    reader(
        not any(each.arguments[0] == "train" and "runs/mine" in each.arguments and not each.reason for each in commands)
    )
    namespace: dict[str, Any] = {"__name__": "document"}
    for block in blocks:
        if block.language == "toml":
            register(block.text)
        elif block.language == "python":
            file = re.fullmatch(r"# (\w+\.py)", block.lines[0])
            if file:
                Path(file.group(1)).write_text(block.text, encoding="utf-8")
            exec(compile("\n" * (block.line - 1) + block.text, str(document), "exec"), namespace)
        for command in commands_of(block):
            if not command.reason:
                done = fptk(*command.arguments, *small_options(command.arguments))
                assert done.code == 0, f"{command.where}: fptk {' '.join(command.arguments)}: {done.err}"
