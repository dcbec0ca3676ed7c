"""The child process: runs one contender once, and says on stdout what it measured.

Started as ``python -c "from batching.cli.worker import main; main()" JOB`` by
measure.py.  Each line on stdout is a JSON object: first ``{"ready": port}``, at last a
result or ``{"error": reason}``.  A sender waits for a line on stdin that says where to.
Rule 1: the clocks start behind the imports, the opening of the socket and the first
steps; they are the wall's and those of this process (user and system, all threads).
Rule 2: it ends by itself, whatever becomes of its parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any, cast

from .contenders import Direction, find

__all__ = ["Job", "main"]

_WARM_UP_S = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """What the child is to do."""

    name: str
    direction: Direction
    size: int
    batch: int
    duration_s: float
    limit_s: int
    """After this many seconds the child is ended by its own alarm."""
    cpu: int | None

    def encode(self) -> str:
        """Return it as the argument of the child."""
        return json.dumps(asdict(self))


def main() -> None:
    """Run the job that the first argument describes."""
    job = Job(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    if hasattr(signal, "alarm"):
        signal.alarm(job.limit_s)
    try:
        if job.cpu is not None and sys.platform == "linux":
            os.sched_setaffinity(0, {job.cpu})
        contender = find(job.name, job.direction)
        if contender.sender is not None:
            _say({"ready": 0})
            to = cast("tuple[str, int]", tuple(json.loads(sys.stdin.readline())))
            with closing(cast(Any, contender.sender(to, job.size, job.batch))) as steps:
                result = _send(steps, job.duration_s)
        else:
            assert contender.receiver is not None
            ready = contender.receiver(lambda port: _say({"ready": port}), job.size, job.batch)
            with closing(cast(Any, ready)) as steps:
                result = _receive(steps)
    except Exception as error:  # noqa: BLE001 - the parent shows it in the row
        _say({"error": f"{type(error).__name__}: {error}"})
    else:
        _say(result)


def _send(steps: Iterator[int], duration_s: float) -> dict[str, object]:
    """Send for a while; ``total`` includes what went out before the clocks started."""
    clock = time.perf_counter
    total = next(steps)
    warm = clock() + min(_WARM_UP_S, duration_s / 4)
    while clock() < warm:
        total += next(steps)
    count = 0
    cpu, start = time.process_time(), clock()
    end = start + duration_s
    now = start
    while now < end:
        count += next(steps)
        now = clock()
    cpu = time.process_time() - cpu
    return {"total": total + count, "count": count, "seconds": now - start, "cpu": cpu}


def _receive(steps: Iterator[int]) -> dict[str, object]:
    """Receive to the end; the clocks start when the first datagram has come."""
    total = next(steps, 0)
    count = 0
    cpu, start = time.process_time(), time.perf_counter()
    for moved in steps:
        count += moved
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"total": total + count, "count": count, "seconds": seconds, "cpu": cpu}


def _say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)
