"""What there is to pay before the first datagram: resident memory, and the time of an import."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from statistics import median

from outcomes import Outcome
from process import Process, environment, python
from throughput import Setup

EXTRAS = ("anyio", "click", "matplotlib", "prometheus_client", "rich", "trio", "typer", "uvloop")
KIB = 1024


def memory(setup: Setup) -> list[Outcome]:
    datagrams = 1_000_000 if setup.is_quick else 10_000_000

    def ask(*question: object) -> float:
        with Process(python("memory.py", *question), setup.cores[0]) as process:
            size: float = process.answer(600)["bytes"]
            return size / KIB

    return [
        Outcome("an idle Conn, of 200", [ask("idle", 200)], at_most=100, unit="KiB"),
        Outcome("a busy Conn", [ask("busy")], at_most=2048, unit="KiB"),
        # A page or two of the allocator's is no growth; a leak of a byte a datagram is 10 MB.
        Outcome(
            f"growth over {datagrams:,} datagrams",
            [ask("growth", datagrams)],
            at_most=256,
            unit="KiB",
        ),
    ]


def startup(setup: Setup) -> list[Outcome]:
    """Time ``import batching`` beyond Python's own start, and see what it brings along."""
    found = "import sys, batching; print(*(m for m in sys.argv[1:] if m in sys.modules))"
    brought = subprocess.run(
        [sys.executable, "-c", found, *EXTRAS],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    if brought:
        print(f"  import batching imports of the extras: {', '.join(brought)}")
    bare, ours = [], []
    for _ in range(4 * setup.rounds + 2):
        bare.append(_start("pass", setup.cores[0]))
        ours.append(_start("import batching", setup.cores[0]))
    extra = [1000 * (b - a) for a, b in zip(bare[1:], ours[1:], strict=True)]
    return [
        Outcome(
            "import batching, beyond Python's start",
            extra,
            at_most=30,
            unit="ms",
            detail={"ms": 1000 * median(ours), "Python alone": 1000 * median(bare)},
        ),
        Outcome("modules of the extras imported with it", [len(brought)], at_most=0),
    ]


def _start(code: str, cpu: int) -> float:
    """Return the seconds that a Python which runs ``code`` takes from start to end."""
    before = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-c", code], env=environment())
    os.sched_setaffinity(process.pid, {cpu})
    guard = threading.Timer(60, process.kill)
    guard.start()
    status = process.wait()  # not with a timeout: that looks in steps of up to 16 ms
    guard.cancel()
    if status:
        raise RuntimeError(f"python -c {code!r} ended with status {process.returncode}")
    return time.perf_counter() - before
