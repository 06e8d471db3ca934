"""``fptk eval``: which faces it scores, and how far the scores reach."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "val" / "images").iterdir())


def score(fptk: Command, checkpoint: Path, folder: Path, path: Path, *options: object) -> dict[str, Any]:
    done = fptk("eval", checkpoint, "--data", folder, "--json", path, *options)
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_a_list_divides_the_faces(fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    chosen = tmp_path / "chosen.txt"
    chosen.write_text("# they choose the recipe\n" + names(faces_folder)[1] + "\n\n" + names(faces_folder)[3] + "\n")
    whole = score(fptk, checkpoint, faces_folder, tmp_path / "all.json")
    parts = [
        score(fptk, checkpoint, faces_folder, tmp_path / f"{option}.json", f"--{option}", chosen)
        for option in ("only", "except")
    ]
    assert [part["images"] for part in parts] == [2, 2]
    for name, entry in whole["per_class"].items():
        assert entry["pixels"] == sum(part["per_class"][name]["pixels"] for part in parts)
    assert parts[0]["f1_challenge"] + parts[1]["f1_challenge"] == pytest.approx(2 * whole["f1_challenge"])
    assert "bootstrap" not in whole


@pytest.mark.parametrize(
    ("content", "option", "reason"),
    [
        ("nobody\n", "--only", "names 1 faces that"),
        ("", "--only", "leaves no face"),
        (None, "--except", "cannot be read"),
        (b"\xff\xfe\x00", "--only", "cannot be read"),
        ("ALL", "--except", "leaves no face"),
    ],
)
def test_a_list_that_does_not_belong_to_the_data_is_refused(
    fptk: Command,
    checkpoint: Path,
    faces_folder: Path,
    tmp_path: Path,
    content: str | bytes | None,
    option: str,
    reason: str,
) -> None:
    path = tmp_path / "list.txt"
    if content == "ALL":
        content = "\n".join(names(faces_folder))
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    done = fptk("eval", checkpoint, "--data", faces_folder, option, path)
    assert done.code == 2
    assert reason in done.err
    assert done.err.strip().count("\n") <= 2


def test_intervals_stand_beside_the_scores(fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    found = score(fptk, checkpoint, faces_folder, tmp_path / "e.json", "--bootstrap", 200)
    assert found["bootstrap"]["rounds"] == 200
    assert 0 <= found["bootstrap"]["f1"]["low"] < found["bootstrap"]["f1"]["high"] <= 1
    assert found["bootstrap"]["per_class"]["skin"]["images"] == 4
    printed = fptk("eval", checkpoint, "--data", faces_folder, "--bootstrap", 200).out
    assert "95 % of 200 bootstrap draws" in printed
    assert "faces" in printed
    assert "taken for" not in printed
    refused = fptk("eval", checkpoint, "--data", faces_folder, "--bootstrap", 200, "--tta", "flip")
    assert refused.code == 2
    assert "leave out --tta" in refused.err


def test_errors_are_named(fptk: Command, checkpoint: Path, faces_folder: Path, tmp_path: Path) -> None:
    found = score(fptk, checkpoint, faces_folder, tmp_path / "e.json", "--errors")["errors"]
    assert found["wrong"] == pytest.approx(
        1 - json.loads((tmp_path / "e.json").read_text())["pixel_accuracy"], abs=1e-9
    )
    printed = fptk("eval", checkpoint, "--data", faces_folder, "--errors").out
    first = found["confusions"][0]
    assert f"{first['truth']} taken for {first['prediction']}" in printed
    assert "within 1 px" in printed
