"""What the processes of one training agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from fptk.core.errors import FptkError

T = TypeVar("T")


def by_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Run ``work`` in the first process; every process gets its result.

    Raises:
        FptkError: what ``work`` raised, in every process, so that none waits for one that has left.
    """
    outcome: list[T | FptkError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [work()]
        except FptkError as error:
            outcome = [error]
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if isinstance(outcome[0], FptkError):
        raise outcome[0]
    return cast(T, outcome[0])
