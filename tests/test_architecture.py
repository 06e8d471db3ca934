"""The house: imports point down, and starting the command imports nothing heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEAVES = {"classes", "dataset", "errors", "files", "metrics", "preprocess", "session"}
"""Modules of toolkit/ that every floor may import; they import each other only."""

FLOORS = ("models", "calibration", "export", "benchmarks")
"""Lowest first; each may import the leaves and the floors before it. toolkit/ stands on top."""


def imported(path: Path) -> set[str]:
    """Second part of every ``fptk.X`` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" if node.module == "fptk" else node.module for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("fptk.")}
    return found - {"__version__"}


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaf_imports_leaves_only(leaf: str) -> None:
    assert imported(ROOT / "toolkit" / f"{leaf}.py") <= LEAVES


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor: str) -> None:
    allowed = LEAVES | set(FLOORS[: FLOORS.index(floor) + 1])
    files = sorted((ROOT / floor).rglob("*.py"))
    assert files
    offenders = {str(path.relative_to(ROOT)): imported(path) - allowed for path in files}
    assert not {path: names for path, names in offenders.items() if names}


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
