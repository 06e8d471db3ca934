"""Where the time of a step goes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fptk.training.step_times import StepTimes

CPU = torch.device("cpu")


def test_parts_are_summed_over_the_counted_steps() -> None:
    times = StepTimes(CPU, on=True)
    for _ in range(5):
        times.begin()
        for part, seconds in (("data", 0.002), ("forward", 0.01), ("backward", 0.004), ("forward", 0.01)):
            time.sleep(seconds)
            times.mark(part)
        times.end(images=8)
        time.sleep(0.05)  # a validation: no step's
    found = times.seconds()
    assert list(found) == ["data", "forward", "backward"]
    assert found["forward"] == pytest.approx(3 * 0.02, rel=0.5)  # the first two steps are not counted
    assert found["forward"] > found["backward"] > found["data"]
    header, *rows, rate = times.lines()
    assert header.split() == ["part", "of", "a", "step", "ms", "share"]
    assert [row.split()[0] for row in rows] == ["data", "forward", "backward"]
    assert sum(float(row.split()[-1].rstrip("%")) for row in rows) == pytest.approx(100, abs=0.2)
    assert re.fullmatch(r"\d+\.\d images/s over 3 steps", rate)


def test_too_few_steps_are_said_and_nothing_where_nobody_asked() -> None:
    asked, silent = StepTimes(CPU, on=True), StepTimes(CPU, on=False)
    for times in (asked, silent):
        times.begin()
        times.mark("data")
        times.end(images=8)
    assert asked.lines() == ["no profile: 1 steps were too few, the first ones are not counted"]
    assert silent.lines() == []


def test_the_command_prints_them(fptk: Callable[..., Any], tmp_path: Path) -> None:
    sizes = ["--set=data.synthetic={train: 8, val: 1, size: 32}", "--size=32", "--batch=2", "--set=optim.max_steps=4"]
    done = fptk("train", "--recipe=demo", *sizes, "--profile", "--out", tmp_path / "run")
    assert done.code == 0, done.err
    for part in ("data", "color", "forward", "loss", "backward", "optimizer"):
        assert re.search(rf"^{part} +\d+\.\d\d +\d+\.\d%$", done.err, re.MULTILINE), done.err
    assert "images/s over 2 steps" in done.err
