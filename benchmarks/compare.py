"""Compare batching with the ceiling and with plain sockets, goal by goal.

python benchmarks/compare.py [--quick] [--only NAME]... [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import event_loops
import throughput
from outcome import Outcome
from process import Process, build, cores, environment, python
from throughput import Setup

from batching.cli.machine import Machine

EXTRAS = ("anyio", "click", "matplotlib", "prometheus_client", "rich", "trio", "typer", "uvloop")
KIB = 1024


def single(setup: Setup) -> list[Outcome]:
    outcomes = []
    blocks, calls = 4 * setup.rounds + 1, 2000
    for size in throughput.SIZES:
        with ExitStack() as stack:
            command = [*setup.ceiling, "recv", str(size), "8", setup.drain]
            drain = stack.enter_context(Process(command, setup.cores[1]))
            ports = drain.ports()
            drain.tell("live")
            script = python("single.py", ports[0], size, blocks, calls)
            answer = stack.enter_context(Process(script, setup.cores[0])).answer()
        for key, name in (("send", "send_batch / sendto"), ("receive", "recv_batch / recvfrom")):
            pairs = answer[key]
            both = ("wall", "cpu") if key == "send" else ("wall",)
            outcomes += [
                Outcome(
                    f"{size} B {name}, one, {clock}",
                    [pair[clock] / pair[f"plain_{clock}"] for pair in pairs],
                    at_most=1.15,
                    detail={
                        "ns a call": median(pair[clock] for pair in pairs),
                        "plain": median(pair[f"plain_{clock}"] for pair in pairs),
                    },
                )
                for clock in both
            ]
        outcomes += throughput.receive_singles(setup, size)
    return outcomes


def latency(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in throughput.SIZES:
        with ExitStack() as stack:
            ports = [
                stack.enter_context(
                    Process(python("latency.py", "echo", way), setup.cores[1])
                ).ports()[0]
                for way in ("plain", "conn")
            ]
            script = python("latency.py", "ping", *ports, size, 2 * setup.rounds + 1, 1000)
            pairs = stack.enter_context(Process(script, setup.cores[0])).answer()["pairs"]
        outcomes.append(
            Outcome(
                f"{size} B ping-pong / plain, p50",
                [pair["ours"] / pair["plain"] for pair in pairs],
                at_most=1.05,
                detail={
                    "us": median(pair["ours"] for pair in pairs) / 1000,
                    "plain": median(pair["plain"] for pair in pairs) / 1000,
                },
            )
        )
    return outcomes


def memory(setup: Setup) -> list[Outcome]:
    datagrams = 10_000_000 if setup.rounds > 3 else 1_000_000

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


def each_size(compare: Callable[[Setup, int], list[Outcome]]) -> Callable[[Setup], list[Outcome]]:
    return lambda setup: [found for size in throughput.SIZES for found in compare(setup, size)]


GROUPS: dict[str, Callable[[Setup], list[Outcome]]] = {
    "send": each_size(throughput.send),
    "receive": each_size(throughput.receive),
    "single": single,
    "latency": latency,
    "memory": memory,
    "import": startup,
    "asyncio-receive": each_size(event_loops.receive),
    "asyncio-send": each_size(event_loops.send),
    "asyncio-echo": each_size(event_loops.echo),
    "asyncio-latency": each_size(event_loops.latency),
    "asyncio-quic": event_loops.quic,
}
FAMILIES = {"asyncio": [name for name in GROUPS if name.startswith("asyncio-")]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*GROUPS, *FAMILIES],
        metavar="NAME",
        help=", ".join([*GROUPS, *FAMILIES]),
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    arguments = parser.parse_args()
    wanted = arguments.only or list(GROUPS)
    names = [name for each in wanted for name in FAMILIES.get(each, [each])]
    machine = Machine.look()
    rounds, seconds = (3, 0.1) if arguments.quick else (9, 0.25)
    outcomes: dict[str, list[Outcome]] = {}
    status = 0
    with tempfile.TemporaryDirectory() as directory:
        setup = Setup(build(Path(directory)), cores(), rounds, seconds)
        print(*machine.header(), sep="\n")
        where = f"sender on core {setup.cores[0]}, receiver on core {setup.cores[1]}"
        print(f"{rounds} rounds of {seconds} s, {where}; median (lowest to highest) of the rounds")
        for name in names:
            print(f"{name}:", flush=True)
            try:
                outcomes[name] = GROUPS[name](setup)
            except (RuntimeError, TimeoutError) as error:
                print(f"  failed: {error}", flush=True)
                status = 1
            else:
                print(*outcomes[name], sep="\n", flush=True)
    judged = [found for group in outcomes.values() for found in group if found.met is not None]
    missed = [found for found in judged if not found.met]
    print(f"{len(judged) - len(missed)} of {len(judged)} goals met")
    if arguments.json:
        content = {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine.as_dict(),
            "settings": {"rounds": rounds, "seconds": seconds, "cores": setup.cores},
            "outcomes": {
                name: [found.as_dict() for found in group] for name, group in outcomes.items()
            },
        }
        arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
