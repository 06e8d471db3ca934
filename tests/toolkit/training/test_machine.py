"""The settings that a training makes in its own process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from fptk.training.machine import keep_freed_memory
torch.set_num_threads(1)
assert sys.argv[1] == "plain" or keep_freed_memory()
def churn():
    for _ in range(20):
        torch.empty(12 << 20).fill_(1.0)
churn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
churn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of 20 allocations of 48 MB (glibc maps what is above 32 MB), after 20 others."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is Linux's")
def test_kept_memory_is_not_faulted_in_again() -> None:
    assert faults("kept") < 100
    assert faults("plain") > 10 * 100


def test_threads_sleep_only_where_it_can_still_be_settled() -> None:
    code = """
import os, sys
from fptk.training.machine import wait_without_spinning
assert wait_without_spinning() and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
os.environ["OMP_WAIT_POLICY"] = "ACTIVE"
assert wait_without_spinning() and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
sys.modules["torch"] = None
assert not wait_without_spinning()
"""
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
