"""How cost grows with cores and with connections: figures for docs/scaling.md.

    python benchmarks/scaling.py [--quick] [--only drain|steer|memory]

drain   Full queues are emptied by one thread or process a core: each with a Conn of its own, of
        one port (SO_REUSEPORT), or all with one.  No sender runs meanwhile, so the cores are
        the receivers' alone, and nothing depends on how busy a sender keeps them.
steer   On each core a worker that echoes and a client that sends to one worker: to that of its
        own core, to that of the next core, or as the kernel hashes.
memory  Connections that did nothing, and that had a batch; the kernel's part as root, where
        cgroup v1 tells it.

In a round the ways run one right after the other, in every other round backwards; ratios are
made within a round.  The first round warms up.  Shown are median, lowest and highest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import astuple, replace
from functools import partial
from statistics import median

from child import LOOPBACK
from process import Process, Result, python
from shard import BATCH, KERNEL, longest_train

import batching

CORES = sorted(os.sched_getaffinity(0))
SIZES = (64, 1400)
CONNS = ((1, BATCH), (10, BATCH), (100, BATCH), (1000, BATCH), (1000, 1))
SOURCES = 16  # connections of a client
FILL = 4 << 20  # bytes a core: well inside the last level of the cache
CYCLES = 24  # a round: few milliseconds each, so that one of them has the cores for itself
ECHO_S = 0.3  # a round
HEAD_START_S = 0.003  # from telling the children to their start


class Rounds:
    """Results by way of doing it, one a round."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.results: dict[str, list[Result]] = defaultdict(list)

    def run(self, ways: dict[str, Callable[[], Result]]) -> None:
        for number in range(self._rounds + 1):
            for name in list(ways) if number % 2 else list(ways)[::-1]:
                result = ways[name]()
                if number:
                    self.results[name].append(result)

    def show(self, base: str) -> None:
        """Print a line for each way; ratios are to ``base``."""
        for name, results in self.results.items():
            pairs = list(zip(results, self.results[base], strict=True))
            rate = [mine.measured / mine.seconds / 1e6 for mine in results]
            faster = [other.wall_ns / mine.wall_ns for mine, other in pairs]
            dearer = [mine.cpu_ns / other.cpu_ns for mine, other in pairs]
            print(
                f"  {name:<38} {spread(rate, 2):>21} M/s, x {spread(faster, 2):<19}"
                f" {spread([each.cpu_ns for each in results], 0):>15} ns, x {spread(dearer, 2)}"
            )


def spread(values: list[float], digits: int) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def together(results: list[Result]) -> Result:
    """Return what processes did at one time: seconds are the slowest one's."""
    summed = Result(*map(sum, zip(*map(astuple, results), strict=True)))
    return replace(summed, seconds=max(each.seconds for each in results))


class Crew:
    """Processes that empty the queues of one port."""

    def __init__(
        self, stack: ExitStack, way: str, size: int, groups: list[list[int]], sharing: str
    ) -> None:
        self._size = size
        self._sockets = len(groups) if sharing == "one" else sum(map(len, groups))
        self._cores = sum(map(len, groups))
        port = 0
        self._processes = []
        for cores in groups:
            numbers = ",".join(map(str, cores))
            command = python("shard.py", "drain", way, numbers, sharing, port)
            self._processes.append(stack.enter_context(Process(command, None)))
            (port,) = self._processes[-1].ports()
        self._processes[0].tell(f"steer 0 {self._sockets}")
        self._processes[0].answer()
        self._source = stack.enter_context(batching.open_conn((LOOPBACK, 0)))
        self._to = (LOOPBACK, port)

    def drain(self) -> Result:
        """Fill the queues, each alike, and let them be emptied; the quickest time counts."""
        return min((self._drain() for _ in range(CYCLES)), key=lambda result: result.seconds)

    def _drain(self) -> Result:
        count = longest_train(self._size, self._source)
        trains = FILL // (self._size * count)
        for number in range(self._cores):
            data = bytes([number % self._sockets]) + bytes(self._size * count - 1)
            train = [batching.Segments(data, self._size, self._to)]
            for _ in range(trains):
                self._source.send_segments(train)
        at = time.monotonic() + HEAD_START_S
        for process in self._processes:
            process.tell(f"drain {at}")
        result = together([Result(**process.answer()) for process in self._processes])
        if result.datagrams != self._cores * trains * count:
            raise RuntimeError(f"{self._cores * trains * count} were sent: {result}")
        return result


def drain(rounds: int) -> None:
    for size in SIZES:
        for way in ("recv_segments", "recv_batch"):
            kept = Rounds(rounds)
            with ExitStack() as stack:
                crews = {"1 process": Crew(stack, way, size, [CORES[:1]], "own")}
                for n in range(2, len(CORES) + 1):
                    alone = [[core] for core in CORES[:n]]
                    crews |= {
                        f"{n} processes, a socket each": Crew(stack, way, size, alone, "own"),
                        f"{n} threads, a Conn each": Crew(stack, way, size, [CORES[:n]], "own"),
                        f"{n} threads, one Conn": Crew(stack, way, size, [CORES[:n]], "one"),
                    }
                kept.run({name: crew.drain for name, crew in crews.items()})
            print(f"drain, {way}, {size} B")
            kept.show("1 process")


class Echoes:
    """On each core a worker of one port, which echoes, and a client."""

    def __init__(self, stack: ExitStack, size: int, seconds: float) -> None:
        self._seconds = seconds
        self._workers: list[Process] = []
        port = 0
        for core in CORES:
            worker = stack.enter_context(Process(python("shard.py", "echo", port), core))
            (port,) = worker.ports()
            self._workers.append(worker)
        command = python("shard.py", "send", size, SOURCES, port)
        self._clients = [stack.enter_context(Process(command, core)) for core in CORES]
        for client in self._clients:
            client.ports()

    def run(self, by: str, ahead: int = 0) -> Result:
        """Steer, and send to the worker ``ahead`` of one's own where a byte tells."""
        self._workers[0].tell(f"steer {by} {len(CORES)}")
        self._workers[0].answer()
        before = self._cpu()
        for number, client in enumerate(self._clients):
            client.tell(f"{self._seconds} {(number + ahead) % len(CORES)}")
        result = together([Result(**client.answer()) for client in self._clients])
        if result.wrong:
            raise RuntimeError(f"steer {by}: {result}")
        return replace(result, cpu=result.cpu + self._cpu() - before)

    def _cpu(self) -> float:
        return sum(worker.cpu() for worker in self._workers)


def steer(rounds: int) -> None:
    for size in SIZES:
        kept = Rounds(rounds)
        with ExitStack() as stack:
            run = Echoes(stack, size, ECHO_S).run
            kept.run(
                {
                    "hash": partial(run, "hash"),
                    "worker of the client's core, by cpu": partial(run, "cpu"),
                    "the same, by a byte": partial(run, "0"),
                    "worker of the next core, by a byte": partial(run, "0", 1),
                }
            )
        print(f"steer, {len(CORES)} clients of {SOURCES} sources, {size} B, CPU of both ends")
        kept.show("hash")


@contextlib.contextmanager
def group_of_its_own() -> Iterator[tuple[str, ...]]:
    """Give what stands before a command that runs in a memory cgroup of its own, if possible."""
    folder = KERNEL / f"scaling-{os.getpid()}"
    if os.geteuid() or not (KERNEL / "memory.kmem.usage_in_bytes").exists():
        yield ()
        return
    folder.mkdir()
    try:
        yield ("sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh")
    finally:
        end = time.monotonic() + 5
        while folder.exists():
            with contextlib.suppress(OSError):  # EBUSY: the process is not yet gone
                folder.rmdir()
            if time.monotonic() > end:
                raise TimeoutError(f"{folder} cannot be removed")


def memory(rounds: int) -> None:
    print("memory of a connection, KiB: opened, kernel's (0: not told), after a batch")
    for conns, batch_size in CONNS:
        kept: dict[str, list[float]] = defaultdict(list)
        for _ in range(rounds):
            command = python("shard.py", "memory", conns, batch_size)
            with group_of_its_own() as within, Process(command, CORES[0], within) as process:
                for name, value in process.answer().items():
                    kept[name].append(value / 1024 / conns)
        print(
            f"  {conns:>5}, batch_size={batch_size:<4}"
            + "  ".join(f"{spread(v, 1):>22}" for v in kept.values())
        )


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("drain", "steer", "memory"))
    chosen = parser.parse_args()
    rounds = 3 if chosen.quick else 7
    with batching.open_conn((LOOPBACK, 0)) as conn:
        print(
            f"{time.strftime('%Y-%m-%d')}, {len(CORES)} cores, Linux {platform.release()},"
            f" CPython {platform.python_version()}, {conn.offload.backend} back end"
        )
    for part in (drain, steer, memory):
        if chosen.only in (None, part.__name__):
            part(rounds)


if __name__ == "__main__":
    main()
