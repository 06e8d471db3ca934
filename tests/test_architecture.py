"""The house: every package has its floor, imports point down, and starting the command imports nothing heavy."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("data", "recipes"),
    ("models", "calibration"),
    ("benchmarks",),
    ("runs",),
    ("training", "export"),
    ("workflows",),
    ("report",),
    ("cli",),
)
"""Rooms by floor, lowest first. A room imports from the floors below its own; rooms of one floor know nothing of each
other. Above them all stands ``fptk`` itself, the public API. Imports inside functions count like all others."""

FOLDERS = {"models", "export", "calibration", "benchmarks"}
"""Rooms that have a folder of their own beside ``toolkit/``, which holds the others."""

FLOOR = {room: number for number, rooms in enumerate(FLOORS, start=1) for room in rooms}
ROOF = "the public API"
LONGEST_FUNCTION, LONGEST_CLASS = 60, 250
"""Lines of code in a body: what a person can hold in the head at once."""


def modules() -> dict[str, Path]:
    """Every module of the package: dotted name below ``fptk`` (empty for the package itself), and its file."""
    found = {}
    for folder in sorted({*FOLDERS, "toolkit"}):
        base = [] if folder == "toolkit" else [folder]
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [*base, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts).removesuffix("__init__").removesuffix(".")] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The room of a module: ``export`` for ``export.targets.base``."""
    return module.partition(".")[0] if module not in ("", "__main__") else ROOF


def imports_of(path: Path) -> Iterator[str]:
    """Modules of fptk that a file imports, anywhere in it, by their dotted names below ``fptk``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name == "fptk" or name.startswith("fptk."):
                inner = name.removeprefix("fptk").removeprefix(".")
                while inner and inner not in MODULES:
                    inner = inner.rpartition(".")[0]
                yield inner


def edges() -> dict[tuple[str, str], set[str]]:
    """Import arrows between rooms, each with the modules that it starts from."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for module, path in MODULES.items():
        for imported in imports_of(path):
            if room_of(imported) != room_of(module):
                found[room_of(module), room_of(imported)].add(module)
    return dict(found)


def test_every_module_stands_in_a_room() -> None:
    assert {room_of(module) for module in MODULES} == {*FLOOR, ROOF}


def test_imports_point_down(capsys: pytest.CaptureFixture[str]) -> None:
    arrows = edges()
    with capsys.disabled():
        print(f"\n{len(MODULES)} modules in {len(FLOOR)} rooms on {len(FLOORS)} floors, {len(arrows)} import arrows")
        for number, rooms in enumerate(FLOORS, start=1):
            for room in rooms:
                targets = sorted(target for source, target in arrows if source == room)
                print(f"  {number} {room:12} imports {', '.join(targets) or 'nothing'}")
    upwards = {
        f"{source} -> {target}": sorted(starts)
        for (source, target), starts in arrows.items()
        if source != ROOF and (target == ROOF or FLOOR[target] >= FLOOR[source])
    }
    assert not upwards


def test_no_circles_between_modules() -> None:
    """What an ``__init__`` re-exports is left out: importing a module of a package runs it in any case."""
    files = {module: path for module, path in MODULES.items() if path.stem != "__init__"}
    graph = {module: {each for each in imports_of(path) if each in files} for module, path in files.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def code_lines(node: ast.AST) -> int:
    """Lines of a function or class without its docstring."""
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize(
    ("kinds", "limit"),
    [((ast.FunctionDef, ast.AsyncFunctionDef), LONGEST_FUNCTION), ((ast.ClassDef,), LONGEST_CLASS)],
    ids=["function", "class"],
)
def test_nothing_is_too_long(kinds: tuple[type[ast.AST], ...], limit: int) -> None:
    long = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds) and code_lines(node) > limit:
                long[f"{module}:{getattr(node, 'name', '')}"] = code_lines(node)
    assert not long


def test_setup_lists_every_package() -> None:
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    listed = set(text.partition("packages =\n")[2].partition("\npackage_dir")[0].split())
    packages = {f"fptk.{module}" if module else "fptk" for module, path in MODULES.items() if path.stem == "__init__"}
    assert listed == packages


def test_every_module_says_what_it_is_for() -> None:
    silent = [module for module, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("arguments", [["--help"], ["export", "--help"], ["bench", "--help"], ["train", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = run_python(
        f"import sys; sys.argv = ['fptk', *{arguments!r}]\n"
        "from fptk.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'openvino', 'nncf', 'pydantic', 'PIL', 'rich'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    ).splitlines()[-1]
    assert heavy == "heavy: []"


def test_models_package_imports_no_torch() -> None:
    code = "import sys, fptk.models, fptk.export.targets.registry as r; r.list_targets(); print('torch' in sys.modules)"
    assert run_python(code).strip() == "False"
