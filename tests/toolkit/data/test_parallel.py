from __future__ import annotations

import operator
import os
import signal
from pathlib import Path

import pytest

from fptk.core.errors import InputError
from fptk.core.host import usable_cores
from fptk.core.preprocess import read_image
from fptk.data.parallel import WORTH_A_PROCESS, default_jobs, parallel_map


@pytest.mark.parametrize("jobs", [None, 1, 2])
def test_results_come_in_order(jobs):
    assert list(parallel_map(operator.neg, range(40), jobs)) == [-value for value in range(40)]


def test_nothing_to_do_starts_nothing():
    assert list(parallel_map(operator.neg, [], 2)) == []


def test_error_of_a_worker_keeps_its_type_and_message():
    with pytest.raises(InputError, match=r"image a\.png does not exist"):
        list(parallel_map(read_image, [Path("a.png"), Path("b.png")], 2))


def test_killed_worker_is_explained():
    with pytest.raises(InputError, match="fewer --jobs"):
        list(parallel_map(signal.raise_signal, [signal.SIGKILL] * 2, 2))


def test_little_work_stays_in_this_process():
    assert default_jobs(WORTH_A_PROCESS - 1) == 1
    assert default_jobs(10**6) >= 1


QUOTAS = {
    "version 2, a container's own group": ({"cpu.max": "200000 100000"}, "0::/", 2),
    "version 2, part of a core": ({"cpu.max": "50000 100000"}, "0::/", 1),
    "version 2, rounded up": ({"cpu.max": "250000 100000"}, "0::/", 3),
    "version 2, no limit": ({"cpu.max": "max 100000"}, "0::/", 64),
    "version 2, a group below": ({"a/b/cpu.max": "300000 100000", "a/cpu.max": "max 100000"}, "0::/a/b", 3),
    "version 2, a parent is stricter": ({"a/b/cpu.max": "800000 100000", "a/cpu.max": "100000 50000"}, "0::/a/b", 2),
    "version 2, another group": ({"other/cpu.max": "100000 100000"}, "0::/a/b", 64),
    "version 2, outside the name space": ({"cpu.max": "500000 100000"}, "0::/../../x", 5),
    "version 2 beside 1": ({"unified/a/cpu.max": "200000 100000"}, "1:name=systemd:/a\n0::/a", 2),
    "version 1": (
        {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"},
        "12:memory:/a\n4:cpu,cpuacct:/a\n",
        4,
    ),
    "version 1 under its short name": (
        {"cpu/a/cpu.cfs_quota_us": "150000", "cpu/a/cpu.cfs_period_us": "100000"},
        "4:cpu,cpuacct:/a",
        2,
    ),
    "version 1, a path of the host": (
        {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"},
        "4:cpuacct,cpu:/docker/0123",
        3,
    ),
    "version 1, no limit": ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu:/", 64),
    "version 1, cpuset has no quota": ({"cpuset/cpu.cfs_quota_us": "1", "cpuset/cpu.max": "1 1"}, "3:cpuset:/", 64),
    "damaged": ({"cpu.max": "many 100000"}, "0::/", 64),
    "no period": ({"cpu.max": "100000 0"}, "0::/", 64),
    "no groups": ({}, "", 64),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_cpu_quota_of_a_container_counts(name, tmp_path, monkeypatch):
    files, membership, cores = QUOTAS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert usable_cores(tmp_path, membership) == cores


def test_affinity_below_the_quota_counts(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("800000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert usable_cores(tmp_path, "0::/") == 2
    assert 1 <= usable_cores() <= 2, "this host's own groups"


def test_jobs_follow_the_quota(monkeypatch):
    monkeypatch.setattr("fptk.core.host.usable_cores", lambda: 3)
    assert default_jobs(10**6) == 3
