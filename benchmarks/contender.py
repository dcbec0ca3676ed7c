"""The Python side of the comparison: the same commands and answers as ceiling.c.

contender.py send WAY SIZE COUNT PORT [PORT]
contender.py recv WAY SIZE COUNT

Rule 1: what is measured is the call alone: the data are made before, and of what comes in
only the last datagram of a call is looked at (is it the mark of the end?).  The numbers are
checked afterwards, against what was sent.
Rule 2: the loops look at the clock as seldom as those in C.
"""

from __future__ import annotations

import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import batching

PAYLOAD = 65535 - 20 - 8  # IPv4 total length less IP and UDP headers
RECEIVE_BUFFER = 32 << 20
LIMIT_S = 60  # for one command, beyond its own duration
IDLE_LIMIT_S = 900
CALLS_A_LOOK = 16
LOOPBACK = "127.0.0.1"


def say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


def commands() -> Any:
    """Yield the commands; a child that nobody ends is ended by its own alarm."""
    while True:
        signal.alarm(IDLE_LIMIT_S)
        line = sys.stdin.readline()
        if not line:
            return
        signal.alarm(2 * LIMIT_S)
        yield line.split()


def sender(way: str, size: int, count: int, ports: list[int]) -> tuple[Callable[[], object], int]:
    """Return a call that sends, and how many datagrams it does."""
    to = [(LOOPBACK, port) for port in ports]
    if way == "sendto":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        data = bytes(size)
        return lambda: sock.sendto(data, to[0]), 1
    conn = batching.open_conn((LOOPBACK, 0), batch_size=count)
    if way == "write_batch_to":
        buffers = [bytearray(size) for _ in range(count)]
        return lambda: conn.write_batch_to(buffers, to[0]), count
    if way == "send_batch":
        pairs = [(bytes(size), to[index % len(to)]) for index in range(count)]
        return lambda: conn.send_batch(pairs), count
    if way == "send_segments":
        longest = max(1, min(conn.offload.max_segments, PAYLOAD // size))
        block = bytes(size * count)
        step = size * longest
        trains = [
            batching.Segments(block[at : at + step], size, to[0])
            for at in range(0, len(block), step)
        ]
        return lambda: conn.send_segments(trains), count
    raise SystemExit(f"contender.py: no way of sending {way!r}")


def send(way: str, size: int, count: int, ports: list[int]) -> None:
    call, datagrams = sender(way, size, count, ports)
    say(ports=[])
    clock = time.perf_counter
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
        for seconds, limit in commands():
            calls, wanted = 0, int(limit)
            cpu, start = time.process_time(), clock()
            end = start + float(seconds)
            if float(seconds) > 0:
                while clock() < end:
                    for _ in range(CALLS_A_LOOK):
                        call()
                    calls += CALLS_A_LOOK
            else:
                for _ in range(wanted):
                    call()
                calls = wanted
            elapsed, cpu = clock() - start, time.process_time() - cpu
            for port in ports:
                marker.sendto(b"", (LOOPBACK, port))
            total = calls * datagrams
            say(datagrams=total, calls=calls, measured=total, wrong=0, seconds=elapsed, cpu=cpu)


class Plain:
    """``socket.recvfrom``."""

    def __init__(self, size: int, count: int) -> None:
        self.size = max(2048, size)
        self.socket = sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # include/uapi/asm-generic/socket.h: SO_RCVBUFFORCE, where the process may
        try:
            sock.setsockopt(socket.SOL_SOCKET, 33, RECEIVE_BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        sock.bind((LOOPBACK, 0))

    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def flush(self) -> None:
        self.socket.setblocking(False)
        try:
            while True:
                self.socket.recv(1)
        except BlockingIOError:
            self.socket.setblocking(True)

    def step(self) -> tuple[int, bool]:
        """Return the datagrams of one call, and whether the mark was among them."""
        data, _ = self.socket.recvfrom(self.size)
        return (1, False) if data else (0, True)


class Ours:
    """What the ways of receiving through a ``Conn`` share."""

    def __init__(self, size: int, count: int) -> None:
        self.conn = batching.open_conn(
            (LOOPBACK, 0), batch_size=count, receive_buffer=RECEIVE_BUFFER
        )

    def port(self) -> int:
        port: int = self.conn.local_addr()[1]
        return port

    def flush(self) -> None:
        self.conn.settimeout(0)
        try:
            while True:
                self.conn.recv_batch()
        except BlockingIOError:
            self.conn.settimeout(None)


class RecvBatch(Ours):
    def step(self) -> tuple[int, bool]:
        datagrams = self.conn.recv_batch()
        if datagrams[-1][0]:
            return len(datagrams), False
        return sum(1 for data, _ in datagrams if data), True


class RecvSegments(Ours):
    def step(self) -> tuple[int, bool]:
        trains = self.conn.recv_segments()
        count = 0
        for train in trains:
            count += len(train)
        if trains[-1].data.nbytes:
            return count, False
        return sum(len(train) for train in trains if train.data.nbytes), True


class ReadBatch(Ours):
    def __init__(self, size: int, count: int) -> None:
        super().__init__(size, count)
        control = batching.min_control_message_size()
        self.messages = [
            batching.Message(buffers=[bytearray(max(2048, size))], oob=bytearray(control))
            for _ in range(count)
        ]

    def step(self) -> tuple[int, bool]:
        count = self.conn.read_batch(self.messages)
        if self.messages[count - 1].n:
            return count, False
        return sum(1 for message in self.messages[:count] if message.n), True


WAYS: dict[str, type[Plain | RecvBatch | RecvSegments | ReadBatch]] = {
    "recvfrom": Plain,
    "recv_batch": RecvBatch,
    "recv_segments": RecvSegments,
    "read_batch": ReadBatch,
}


def receive(way: str, size: int, count: int) -> None:
    receiver = WAYS[way](size, count)
    say(ports=[receiver.port()])
    for command in commands():
        if command == ["flush"]:
            receiver.flush()
            say()
            continue
        step = receiver.step
        total = calls = measured = 0
        ended = False
        if command == ["live"]:  # the clocks start behind what came first
            total, ended = step()
        cpu, start = time.process_time(), time.perf_counter()
        while not ended:
            count, ended = step()
            measured += count
            calls += 1
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        total += measured
        say(datagrams=total, calls=calls, measured=measured, wrong=0, seconds=elapsed, cpu=cpu)


if __name__ == "__main__":
    direction, way, size, count, *rest = sys.argv[1:]
    if direction == "send":
        send(way, int(size), int(count), [int(port) for port in rest])
    else:
        receive(way, int(size), int(count))
