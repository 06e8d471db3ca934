from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fptk.cli import main
from fptk.data import open_training
from fptk.data.synthetic.faces import SyntheticFaces


def run(monkeypatch, capsys, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of ``fptk data ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["fptk", "data", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_inspect_prints_tables_and_ends_with_0_when_all_is_well(tmp_path, make_split, monkeypatch, capsys):
    make_split(tmp_path / "train", 2)
    code, out, _ = run(monkeypatch, capsys, "inspect", tmp_path, "--jobs", "1")
    assert code == 0
    for word in ("train", "32x32 (2)", "18 cloth", "train pixels"):
        assert word in out


def test_inspect_lists_faults_and_ends_with_2_and_one_line(tmp_path, make_split, monkeypatch, capsys):
    make_split(tmp_path / "train", 30)
    for path in (tmp_path / "train" / "masks").iterdir():
        path.write_text("text")
    code, out, err = run(monkeypatch, capsys, "inspect", tmp_path, "--jobs", "1", "--json", tmp_path / "found.json")
    assert code == 2
    assert out.count("not an image file") == 20
    assert "and 10 more of kind 'damaged mask'" in out
    assert err.count("\n") == 1
    assert "30 × damaged mask" in err
    assert len(json.loads((tmp_path / "found.json").read_text())["findings"]) == 30


def test_inspect_writes_nothing_but_json_to_stdout_when_asked(tmp_path, make_split, monkeypatch, capsys):
    make_split(tmp_path / "train", 2)
    code, out, _ = run(monkeypatch, capsys, "inspect", tmp_path, "--json", "-", "--jobs", "1")
    assert code == 0
    assert json.loads(out)["splits"]["train"]["readable"] == 2


@pytest.mark.parametrize("name", ["none", "empty"])
def test_inspect_of_no_data_set_is_one_line(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "empty").mkdir()
    code, out, err = run(monkeypatch, capsys, "inspect", tmp_path / name)
    assert (code, out) == (2, "")
    assert err.startswith("fptk: data folder")
    assert err.count("\n") == 1


def test_convert_of_no_release_is_one_line(tmp_path, make_split, monkeypatch, capsys):
    make_split(tmp_path / "train", 1)
    code, _, err = run(monkeypatch, capsys, "convert", tmp_path, "--out", tmp_path / "out")
    assert code == 2
    assert "is no CelebAMask-HQ release" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("splits", ["train,dev", ",", ""])
def test_convert_refuses_splits_that_do_not_exist(tmp_path, monkeypatch, capsys, splits):
    code, _, err = run(monkeypatch, capsys, "convert", tmp_path, "--out", tmp_path / "out", "--splits", splits)
    assert code == 2
    assert "is not a list of train, val, test" in err


def test_synth_draws_a_data_set_that_trains_and_inspects_clean(tmp_path, monkeypatch, capsys):
    out = tmp_path / "faces"
    arguments = ("synth", "--out", out, "--count", "6", "--val", "2", "--size", "64", "--seed", "5")
    code, text, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    assert "6 faces of 64x64" in text
    train, val = open_training([out])
    assert (len(train), len(val)) == (6, 2)
    expected = SyntheticFaces(8, (64, 64), seed=5)
    for index in range(6):
        assert np.array_equal(train[index].mask, expected[index].mask)
    assert np.array_equal(val[0].mask, expected[6].mask)
    code, text, _ = run(monkeypatch, capsys, "inspect", out, "--jobs", "1")
    assert code == 0
    code, _, err = run(monkeypatch, capsys, *arguments)
    assert code == 2
    assert "not empty" in err


def test_command_loads_nothing_heavy_before_it_runs():
    code = "import sys, fptk.cli.data; sys.exit(bool({'numpy', 'PIL', 'rich', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
