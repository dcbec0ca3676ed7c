"""When requests start, and what is said of how long they took."""

from __future__ import annotations

import time
from collections.abc import Iterator

from child import say


def starts(count: int, rate: float) -> Iterator[int]:
    """Yield when each of ``count`` requests starts, in ns of ``perf_counter_ns``.

    One starts when that before is over, or, where a rate a second is given, when it is due.
    One that is late, because that before took too long, is timed from when it was due.
    """
    clock = time.perf_counter_ns
    began = clock()
    for index in range(count):
        start = clock()
        if rate:
            due = began + int(index / rate * 1e9)
            if due > start:
                time.sleep((due - start) / 1e9)
                start = clock()
            else:
                start = due
        yield start


def say_times(times: list[int], cpu_s: float) -> None:
    """Tell the quantiles, in ns, and the CPU time of a request."""
    times.sort()
    p50, p99, p999 = (times[len(times) * share // 1000] for share in (500, 990, 999))
    say(p50=p50, p99=p99, p999=p999, cpu=cpu_s * 1e9 / len(times))
