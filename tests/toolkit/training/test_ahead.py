"""Threads that work ahead."""

from __future__ import annotations

import pytest

from fptk.core.errors import InputError
from fptk.training.ahead import ahead


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_and_only_a_few_ahead(workers: int) -> None:
    begun: list[int] = []

    def work(index: int) -> int:
        begun.append(index)
        return index * index

    results = ahead(work, 100, workers)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(begun) <= 3 + 4 * workers + 1
    assert list(results) == [index * index for index in range(3, 100)]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_when_its_turn_comes(workers: int) -> None:
    def work(index: int) -> int:
        if index == 5:
            raise InputError("file 5 is damaged")
        return index

    results = ahead(work, 100, workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="file 5"):
        next(results)
