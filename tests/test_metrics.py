"""Named counters, and numbers of the kernel's that wrap."""

from __future__ import annotations

import sys
import threading
import uuid
from collections.abc import Callable

import pytest

from batching.metrics import KernelCounter, counter, counters

pytestmark = pytest.mark.kernel


@pytest.fixture
def name() -> str:
    """Give a name that no other test has counted under: counters live as long as the process."""
    return f"test-{uuid.uuid4()}"


def test_one_counter_exists_for_a_name(name: str) -> None:
    assert name not in counters()
    counter(name).add(2)
    counter(name).add(0)
    counter(name).add(3)
    assert counter(name) is counter(name)
    assert counters()[name] == 5


def test_counters_returns_a_snapshot(name: str) -> None:
    counter(name)
    snapshot = counters()
    counter(name).add(1)
    snapshot[name] += 10
    assert counters()[name] == 1


def test_counter_never_goes_back(name: str) -> None:
    with pytest.raises(ValueError, match="-1 added"):
        counter(name).add(-1)


def run_in_threads(work: Callable[[], None]) -> None:
    """Run it in four threads that take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_counter_loses_nothing_between_threads(name: str) -> None:
    def work() -> None:
        for _ in range(5_000):
            counter(name).add(1)

    run_in_threads(work)
    assert counters()[name] == 20_000


def test_number_of_the_kernels_that_comes_late_or_not_at_all_changes_nothing() -> None:
    drops = KernelCounter(2**32 - 5)
    assert [drops.note(seen) for seen in (2**32 - 1, 3, 2**32 - 2, None, 3, 4)] == [
        4,
        4,
        0,
        0,
        0,
        1,
    ]
    assert drops.total == 9


def test_threads_that_read_a_number_of_the_kernels_count_it_once() -> None:
    drops = KernelCounter()
    kernel = iter(range(1, 20_001))
    noted: list[int] = []

    def work() -> None:
        noted.extend(drops.note(seen) for seen in kernel)

    run_in_threads(work)
    assert drops.total == sum(noted) == 20_000
