from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.encoding import Gather


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_a_batch_is_worked_on_while_the_next_is_gathered(executor: ThreadPoolExecutor) -> None:
    go_on = threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        assert go_on.wait(10)
        return list(items)

    gather = Gather(executor, work, lambda: 4)
    assert gather.add([1, 2, 3]) == []
    assert gather.add([4, 5]) == []
    assert gather.add([6, 7]) == [], "the first four are at work"
    go_on.set()
    assert gather.add([8, 9]) == [[1, 2, 3, 4]]
    assert gather.finish() == [[5, 6, 7, 8], [9]]
    assert gather.finish() == []


def test_more_than_a_batch_goes_at_once_in_whole_batches(executor: ThreadPoolExecutor) -> None:
    gather = Gather(executor, list, lambda: 2)
    assert gather.add([1, 2, 3, 4, 5]) == []
    assert gather.finish() == [[1, 2, 3, 4], [5]]


def test_without_a_size_the_caller_works_on_what_it_adds(executor: ThreadPoolExecutor) -> None:
    gather = Gather(executor, lambda items: (threading.get_ident(), list(items)), lambda: None)
    assert gather.add([]) == []
    assert gather.add([1, 2, 3]) == [(threading.get_ident(), [1, 2, 3])]
    assert gather.finish() == []


def test_a_failure_is_raised_where_the_result_is_asked_for(executor: ThreadPoolExecutor) -> None:
    def work(items: Sequence[int]) -> float:
        return 1 / min(items)

    gather = Gather(executor, work, lambda: 1)
    assert gather.add([0]) == []
    with pytest.raises(ZeroDivisionError):
        gather.add([1])
