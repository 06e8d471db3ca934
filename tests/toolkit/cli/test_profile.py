"""``fptk profile``: groups, operators and nodes of real engines, alone and beside each other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


def test_an_engine_has_a_table_of_groups_and_one_of_operators(fptk: Command, cpu_bundles: Path) -> None:
    finished = fptk("profile", cpu_bundles / "onnx-fp32", "--threads", "1")
    assert finished.code == 0, finished.err
    said = " ".join(finished.out.split())
    assert "group ms share nodes MB ms at the memory rate of the time" in said
    assert "operator ms share nodes" in said
    assert "ms by group" not in said
    for row in ("products", "attention", "normalization", "label map", "FusedMatMul", "LayerNormalization"):
        assert f" {row} " in said


def test_engines_are_compared_and_the_json_has_all_of_it(fptk: Command, cpu_bundles: Path, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    finished = fptk("profile", cpu_bundles, "--threads", "1", "--json", path)
    assert finished.code == 0, finished.err
    assert "group onnx fp32 openvino fp32" in " ".join(finished.out.split())
    report = json.loads(path.read_text())
    conditions = report["conditions"]
    assert conditions["threads"] == 1
    assert conditions["memory_gb_per_s"] > 0.1
    assert [engine["label"] for engine in report["engines"]] == ["onnx fp32", "openvino fp32"]
    for engine in report["engines"]:
        groups, nodes = engine["groups"], engine["nodes"]
        whole = pytest.approx(engine["milliseconds"])
        for rows in (groups, engine["operators"], nodes):
            assert sum(row["milliseconds"] for row in rows) == whole
        assert sum(row["share"] for row in groups) == pytest.approx(1)
        for row in groups:
            members = [node for node in nodes if node["group"] == row["group"]]
            assert len(members) == row["nodes"]
            assert sum(node["bytes"] for node in members) == row["bytes"]
            assert row["memory_ms"] == pytest.approx(row["bytes"] / conditions["memory_gb_per_s"] / 1e6)


def test_json_on_standard_output_stands_alone(fptk: Command, cpu_bundles: Path) -> None:
    finished = fptk("profile", cpu_bundles / "openvino-fp32", "--threads", "1", "--json", "-")
    assert finished.code == 0, finished.err
    assert [engine["target"] for engine in json.loads(finished.out)["engines"]] == ["openvino"]


def test_a_folder_without_a_bundle_ends_in_one_line(fptk: Command, tmp_path: Path) -> None:
    finished = fptk("profile", tmp_path)
    assert finished.code == 2
    assert len(finished.err.strip().splitlines()) == 1
    assert fptk("profile").code == 2


def test_a_device_without_the_package_onnx_sees_the_same_groups(
    fptk: Command, cpu_bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counted() -> list[tuple[str, int, int]]:
        finished = fptk("profile", cpu_bundles / "onnx-fp32", "--threads", "1", "--json", "-")
        assert finished.code == 0, finished.err
        (engine,) = json.loads(finished.out)["engines"]
        return [(row["group"], row["nodes"], row["bytes"]) for row in engine["groups"]]

    before = counted()
    for package in ("onnx", "torch"):
        monkeypatch.setitem(sys.modules, package, None)
    assert counted() == before
