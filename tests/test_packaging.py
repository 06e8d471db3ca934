"""The wheel: what is in it, and that it works alone in an empty environment."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_every_package_folder_is_listed_in_setup_cfg() -> None:
    """A package that setup.cfg forgets is missing from the wheel, though it imports from a checkout."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = set()
    for top in ("toolkit", "models", "export", "calibration", "benchmarks"):
        for init in (ROOT / top).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT).parts
            found.add(".".join(("fptk",) + (parts[1:] if top == "toolkit" else parts)))
    assert listed == found


def test_constraints_hold_every_direct_dependency() -> None:
    """CI and users get the versions that were tested."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    sections = [config["options"]["install_requires"]]
    sections += [text for name, text in config["options.extras_require"].items() if name not in ("trt", "dev", "all")]
    wanted = {re.split(r"[><=\[;]", line.strip())[0].lower() for text in sections for line in text.split("\n") if line}
    pinned = {
        line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    assert wanted <= pinned


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked files as pip builds it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: cannot tell which files belong to the project")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("fptk-*.whl"))


@pytest.mark.slow
def test_wheel_holds_one_top_level_package_with_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fptk"}
    assert "fptk/py.typed" in names
    assert "fptk/recipes/demo.yaml" in names
    assert "fptk/models/microsegformer.py" in names
    assert {"fptk/export/web/session.mjs", "fptk/export/web/page/index.html"} <= {*names}
    assert not any(name.startswith("fptk/tests") for name in names)


@pytest.mark.slow
def test_wheel_runs_with_base_dependencies_only(wheel: Path, tmp_path: Path) -> None:
    """What a device gets: no torch, no onnx. Its own commands work, the others say what to install."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    binaries = tmp_path / "env" / "bin"
    install = [binaries / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True)
    doctor = subprocess.run([binaries / "fptk", "doctor"], capture_output=True, text=True, cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stderr
    assert "onnxruntime" in doctor.stdout
    train = subprocess.run([binaries / "fptk", "train"], capture_output=True, text=True, cwd=tmp_path)
    assert train.returncode == 2
    assert "pip install 'fptk[train]'" in train.stderr
    assert "Traceback" not in train.stderr
