"""What a ``Conn`` costs in resident memory; each question in a process of its own.

memory.py idle CONNS        bytes a Conn that was opened and did nothing
memory.py busy              bytes of one Conn at work, at its highest, beyond a warm process
memory.py growth DATAGRAMS  bytes gained between the first tenth and the end

The kernel's own memory of a socket is not in it: a process's resident set has none of that.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable

import batching

LOOPBACK = "127.0.0.1"
LIMIT_S = 600
COUNT = 128
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Return the resident set, in bytes."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE


def idle(conns: int) -> int:
    batching.open_conn((LOOPBACK, 0)).close()  # what only the first one needs
    gc.collect()
    before = resident()
    opened = [batching.open_conn((LOOPBACK, 0)) for _ in range(conns)]
    after = resident()
    for conn in opened:
        conn.close()
    return (after - before) // conns


class Traffic:
    """A ``Conn`` that sends to itself and receives, in every way there is."""

    def __init__(self, size: int) -> None:
        self.messages = [
            batching.Message(
                buffers=[bytearray(2048)], oob=bytearray(batching.min_control_message_size())
            )
            for _ in range(COUNT)
        ]
        data = bytes(size)
        gc.collect()
        self.before = resident()  # with the caller's own buffers, without the Conn
        self.conn = conn = batching.open_conn((LOOPBACK, 0))
        conn.settimeout(10)  # a loss ends it, instead of a wait for what will not come
        to = conn.local_addr()
        pairs = [(data, to)] * COUNT
        buffers = [data] * COUNT
        longest = min(conn.offload.max_segments, 65507 // size, COUNT)
        train = [batching.Segments(bytes(size * longest), size, to)] * (COUNT // longest)
        self.ways: list[tuple[Callable[[], object], int, Callable[[], int]]] = [
            (lambda: conn.send_batch(pairs), COUNT, lambda: len(conn.recv_batch())),
            (lambda: conn.write_batch_to(buffers, to), COUNT, self.read),
            (
                lambda: conn.send_segments(train),
                longest * len(train),
                lambda: sum(len(segments) for segments in conn.recv_segments()),
            ),
        ]

    def read(self) -> int:
        return self.conn.read_batch(self.messages)

    def run(self, datagrams: int, watch: Callable[[], None]) -> None:
        done = 0
        while done < datagrams:
            for send, count, receive in self.ways:
                send()
                left = count
                while left > 0:
                    left -= receive()
                watch()
                done += count


def busy() -> int:
    with batching.open_conn((LOOPBACK, 0)) as conn:  # what only the first one needs
        conn.send_batch([(b"x", conn.local_addr())])
        conn.recv_batch()
    highest = 0

    def watch() -> None:
        nonlocal highest
        highest = max(highest, resident())

    traffic = Traffic(1400)
    traffic.run(500_000, watch)
    traffic.conn.close()
    return highest - traffic.before


def growth(datagrams: int) -> int:
    traffic = Traffic(64)
    traffic.run(datagrams // 10, lambda: None)
    gc.collect()
    before = resident()
    traffic.run(datagrams - datagrams // 10, lambda: None)
    gc.collect()
    after = resident()
    traffic.conn.close()
    return after - before


if __name__ == "__main__":
    signal.alarm(LIMIT_S)
    question, *rest = sys.argv[1:]
    numbers = [int(text) for text in rest]
    questions: dict[str, Callable[..., int]] = {"idle": idle, "busy": busy, "growth": growth}
    answer = questions[question](*numbers)
    print(json.dumps({"bytes": answer}), flush=True)
