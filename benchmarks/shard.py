"""The children of scaling.py: who receives, echoes or sends while others do the same.

shard.py drain WAY CORES own|one PORT   a thread a core (0,1,…), each with a Conn or all with one
shard.py echo PORT
shard.py send SIZE SOURCES PORT
shard.py memory CONNS BATCH_SIZE

A PORT of 0 is a free one; who is told another one joins its group (SO_REUSEPORT).
Each says {"ports": [...]}, then answers the lines of its stdin:

steer BY MEMBERS   batching.steer for the whole group
drain AT           at that time (time.monotonic()) empty the queues, which were filled before
cpu                the CPU seconds used so far
SECONDS NUMBER     keep a train on the way for each source, its first byte NUMBER, and count
                   what comes back
memory answers without being asked, in bytes.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from child import LOOPBACK, PAYLOAD, commands, say
from memory import resident

import batching

BATCH = 128
BUFFER = 32 << 20
LOST_S = 10.0  # a datagram that has not come by then never will
EMPTY_S = 0.005  # a queue that was filled before is empty when nothing comes for so long
KERNEL = Path("/sys/fs/cgroup/memory")  # cgroup v1 tells the kernel's memory by itself


def longest_train(size: int, conn: batching.Conn) -> int:
    """Return how many datagrams a train may have."""
    return min(BATCH, conn.offload.max_segments, PAYLOAD // size)


def steer(conn: batching.Conn, by: str, members: str) -> None:
    """Obey the line of that name."""
    if by == "hash":
        batching.steer(conn, by)
    else:
        batching.steer(conn, int(by) if by.isdigit() else by, members=int(members))


class Drain:
    """A thread that empties a queue on a core of its own."""

    def __init__(self, conn: batching.Conn, way: str, core: int) -> None:
        self.core = core
        self.step: Callable[[], int] = {
            "recv_batch": lambda: len(conn.recv_batch()),
            "recv_segments": lambda: sum(map(len, conn.recv_segments())),
        }[way]

    def run(self, at: float) -> None:
        os.sched_setaffinity(0, {self.core})  # of this thread
        clock, cpu_clock, step = time.monotonic, time.thread_time, self.step
        time.sleep(max(0.0, at - clock()))
        self.datagrams = self.calls = 0
        self.end, start = at, cpu_clock()
        self.cpu = 0.0
        with contextlib.suppress(TimeoutError):
            while True:
                self.datagrams += step()
                self.calls += 1
                self.end, self.cpu = clock(), cpu_clock() - start


def drain(way: str, cores: str, sharing: str, port: str) -> None:
    numbers = [int(core) for core in cores.split(",")]
    conns: list[batching.Conn] = []
    bound = int(port)
    for _ in numbers if sharing == "own" else numbers[:1]:
        conn = batching.open_conn((LOOPBACK, bound), reuse_port=True, receive_buffer=BUFFER)
        conn.settimeout(EMPTY_S)
        bound = conn.local_addr()[1]
        conns.append(conn)
    drains = [Drain(conns[n % len(conns)], way, core) for n, core in enumerate(numbers)]
    say(ports=[bound])
    for verb, *rest in commands():
        if verb == "steer":
            steer(conns[0], *rest)
            say()
            continue
        at = float(rest[0])
        threads = [threading.Thread(target=each.run, args=(at,)) for each in drains]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        total = sum(each.datagrams for each in drains)
        say(
            datagrams=total,
            calls=sum(each.calls for each in drains),
            measured=total,
            wrong=0,
            seconds=max(each.end for each in drains) - at,
            cpu=sum(each.cpu for each in drains),
        )


def echo(port: str) -> None:
    conn = batching.open_conn((LOOPBACK, int(port)), reuse_port=True, receive_buffer=BUFFER)

    def serve() -> None:
        while True:
            conn.send_segments(conn.recv_segments())

    threading.Thread(target=serve, daemon=True).start()
    say(ports=[conn.local_addr()[1]])
    for verb, *rest in commands():
        if verb == "steer":
            steer(conn, *rest)
        say(cpu=time.process_time())


def send(size: str, sources: str, port: str) -> None:
    conns = [batching.open_conn((LOOPBACK, 0)) for _ in range(int(sources))]
    for conn in conns:
        conn.settimeout(LOST_S)
    to = (LOOPBACK, int(port))
    count = longest_train(int(size), conns[0])
    say(ports=[])
    for seconds, number in commands():
        data = bytes([int(number)]) + bytes(int(size) * count - 1)
        train = [batching.Segments(data, int(size), to)]
        calls = total = 0
        cpu, start = time.process_time(), time.perf_counter()
        for conn in conns:
            conn.send_segments(train)
        while time.perf_counter() - start < float(seconds):
            for conn in conns:
                total += back(conn, count)
                conn.send_segments(train)
            calls += len(conns)
        total += sum(back(conn, count) for conn in conns)
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        wrong = (calls + len(conns)) * count - total
        say(datagrams=total, calls=calls, measured=total, wrong=wrong, seconds=elapsed, cpu=cpu)


def back(conn: batching.Conn, count: int) -> int:
    """Wait for a train that comes back; return its datagrams."""
    received = 0
    while received < count:
        received += sum(map(len, conn.recv_segments()))
    return received


def memory(conns: str, batch_size: str) -> None:
    """Tell what idle connections cost, and what they cost once each has had a batch."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with batching.open_conn((LOOPBACK, 0)) as first:  # what only the first one needs
        use(first)
    gc.collect()
    kernel_before, before = kernel_memory(), resident()
    opened = [
        batching.open_conn((LOOPBACK, 0), batch_size=int(batch_size)) for _ in range(int(conns))
    ]
    idle, kernel = resident() - before, kernel_memory() - kernel_before
    for conn in opened:
        use(conn)
    used = resident() - before
    say(idle=idle, kernel=kernel, used=used)
    for conn in opened:
        conn.close()


def use(conn: batching.Conn) -> None:
    """Send a batch of 1400 bytes to itself, and take it."""
    batch = [(bytes(1400), conn.local_addr())] * BATCH
    conn.settimeout(LOST_S)
    conn.send_batch(batch)
    received = 0
    while received < BATCH:
        received += len(conn.recv_batch())


def kernel_memory() -> int:
    """Return the kernel's memory of this process's group, which should be its own; 0: unknown."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        groups = dict(line.strip().split(":", 2)[1:] for line in file)
    usage = KERNEL / groups.get("memory", "").lstrip("/") / "memory.kmem.usage_in_bytes"
    return int(usage.read_text(encoding="ascii")) if usage.exists() else 0


ROLES: dict[str, Callable[..., None]] = {
    "drain": drain,
    "echo": echo,
    "send": send,
    "memory": memory,
}

if __name__ == "__main__":
    ROLES[sys.argv[1]](*sys.argv[2:])
