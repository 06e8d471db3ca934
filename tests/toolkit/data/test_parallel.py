from __future__ import annotations

import operator
import signal
from pathlib import Path

import pytest

from fptk.data.parallel import WORTH_A_PROCESS, default_jobs, parallel_map
from fptk.errors import InputError
from fptk.preprocess import read_image


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
