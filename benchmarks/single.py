"""One datagram a call: ``Conn`` beside a plain socket in one process, block by block.

single.py PORT SIZE BLOCKS CALLS

The port is a drain's.  Prints a JSON object: for each comparison the wall and CPU nanoseconds
a call of each block, ours and the plain socket's.  For receiving, one datagram waits at each
call and the clock runs around the call alone; its own cost, the same on both sides, is taken off.
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


def main() -> None:
    port, size, blocks, calls = map(int, sys.argv[1:])
    signal.alarm(LIMIT_S)
    data = bytes(size)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        batching.open_conn((LOOPBACK, 0)) as conn,
    ):
        sock.bind((LOOPBACK, 0))
        to = (LOOPBACK, port)
        send = _alternate(
            lambda: _time_block(lambda: conn.send_batch([(data, to)]), calls),
            lambda: _time_block(lambda: sock.sendto(data, to), calls),
            blocks,
        )
        space = max(2048, size)
        own = conn.local_addr()
        receive = _alternate(
            lambda: _time_calls(lambda: sock.sendto(data, own), conn.recv_batch, calls),
            lambda: _time_calls(
                lambda: sock.sendto(data, sock.getsockname()), lambda: sock.recvfrom(space), calls
            ),
            blocks,
        )
    print(json.dumps({"send": send, "receive": receive}), flush=True)


def _alternate(
    ours: Callable[[], tuple[float, float]], plain: Callable[[], tuple[float, float]], blocks: int
) -> list[dict[str, float]]:
    """Return the blocks in pairs; every other pair is run the other way round."""
    ours(), plain()  # warm
    pairs = []
    for number in range(blocks):
        if number % 2:
            mine, theirs = ours(), plain()
        else:
            theirs, mine = plain(), ours()
        pairs.append(
            {"wall": mine[0], "cpu": mine[1], "plain_wall": theirs[0], "plain_cpu": theirs[1]}
        )
    return pairs


def _time_block(call: Callable[[], object], calls: int) -> tuple[float, float]:
    """Return wall and CPU nanoseconds a call."""
    cpu, start = time.process_time_ns(), time.perf_counter_ns()
    for _ in range(calls):
        call()
    wall, cpu = time.perf_counter_ns() - start, time.process_time_ns() - cpu
    return wall / calls, cpu / calls


def _time_calls(
    before: Callable[[], object], call: Callable[[], object], calls: int
) -> tuple[float, float]:
    """Return the median wall nanoseconds of ``call`` after ``before``; CPU is the same here."""
    clock = time.perf_counter_ns
    times, empty = [], []
    for _ in range(calls):
        before()
        start = clock()
        call()
        times.append(clock() - start)
        start = clock()
        empty.append(clock() - start)
    wall = sorted(times)[calls // 2] - sorted(empty)[calls // 2]
    return wall, wall


if __name__ == "__main__":
    main()
