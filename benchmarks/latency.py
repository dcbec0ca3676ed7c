"""Ping-pong of single datagrams between two processes.

latency.py echo plain|conn
latency.py ping PLAIN_PORT CONN_PORT SIZE BLOCKS PINGS

The client runs blocks through a plain socket (to the plain echo) and through a ``Conn`` (to the
other) in turn, and prints the median round trip of each block, in nanoseconds.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable

import batching

LOOPBACK = "127.0.0.1"
LIMIT_S = 300


def echo(way: str) -> None:
    if way == "plain":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, 0))
            print(json.dumps({"ports": [sock.getsockname()[1]]}), flush=True)
            while True:
                sock.sendto(*sock.recvfrom(2048))
    with batching.open_conn((LOOPBACK, 0)) as conn:
        print(json.dumps({"ports": [conn.local_addr()[1]]}), flush=True)
        while True:
            conn.send_batch(conn.recv_batch())


def ping(plain_port: int, conn_port: int, size: int, blocks: int, pings: int) -> None:
    data = bytes(size)
    to_plain, to_conn = (LOOPBACK, plain_port), (LOOPBACK, conn_port)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        batching.open_conn((LOOPBACK, 0)) as conn,
    ):

        def plain() -> None:
            sock.sendto(data, to_plain)
            sock.recvfrom(2048)

        def ours() -> None:
            conn.send_batch([(data, to_conn)])
            conn.recv_batch()

        _median(plain, pings), _median(ours, pings)  # warm
        pairs = []
        for number in range(blocks):
            if number % 2:
                mine, theirs = _median(ours, pings), _median(plain, pings)
            else:
                theirs, mine = _median(plain, pings), _median(ours, pings)
            pairs.append({"ours": mine, "plain": theirs})
    print(json.dumps({"pairs": pairs}), flush=True)


def _median(once: Callable[[], None], pings: int) -> int:
    clock = time.perf_counter_ns
    times = []
    for _ in range(pings):
        start = clock()
        once()
        times.append(clock() - start)
    return sorted(times)[pings // 2]


if __name__ == "__main__":
    signal.alarm(LIMIT_S)
    if sys.argv[1] == "echo":
        echo(sys.argv[2])
    else:
        plain_port, conn_port, size, blocks, pings = map(int, sys.argv[2:])
        ping(plain_port, conn_port, size, blocks, pings)
