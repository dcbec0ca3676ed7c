"""What the contenders in Python share: the protocol that peers/README.md tells.

Rule 1: what is measured is the call alone: the data are made before, and of what comes in
only the last datagram of a call is looked at (is it the mark of the end?).  The numbers are
checked afterwards, against what was sent; contents by the command ``check``.
Rule 2: the loops look at the clock as seldom as those in C.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

from batching.cli.machine import force_receive_buffer

PAYLOAD = 65535 - 20 - 8  # IPv4 total length less IP and UDP headers
RECEIVE_BUFFER = 32 << 20
LIMIT_S = 60  # for one command, beyond its own duration
IDLE_LIMIT_S = 900
CALLS_A_LOOK = 16
LONGEST_MARK = 1  # bytes: a datagram of so many, or of none, is the mark of the end
BEFORE_MARK_S = 0.002
LOOPBACK = "127.0.0.1"
ANY = ("0.0.0.0", 0)

Address = tuple[str, int]


def say(**answer: object) -> None:
    print(json.dumps(answer), flush=True)


def commands() -> Iterator[list[str]]:
    """Yield the words of each command; a child that nobody ends is ended by its own alarm."""
    while True:
        signal.alarm(IDLE_LIMIT_S)
        line = sys.stdin.readline()
        if not line:
            return
        signal.alarm(2 * LIMIT_S)
        yield line.split()


class Clocks:
    """Wall and CPU time, from when it is made."""

    __slots__ = ("cpu", "wall")

    def __init__(self) -> None:
        self.cpu = time.process_time()
        self.wall = time.perf_counter()

    def stop(self) -> None:
        """Turn the times of the start into what has passed since."""
        self.wall = time.perf_counter() - self.wall
        self.cpu = time.process_time() - self.cpu

    def say(self, *, datagrams: int, calls: int, measured: int, wrong: int = 0) -> None:
        say(
            datagrams=datagrams,
            calls=calls,
            measured=measured,
            wrong=wrong,
            seconds=self.wall,
            cpu=self.cpu,
        )


@functools.lru_cache(maxsize=4096)
def _cycle(number: int, size: int) -> bytes:
    return bytes((7 * number + 13 * j + (j >> 8)) & 255 for j in range(size))


def pattern(number: int, size: int) -> bytes:
    return _cycle(number & 255, size)


def skipped(first: int, number: int) -> int:
    """Return how many patterns, fewer than 256, are missing before the one that begins so."""
    return (183 * first - number) & 255  # 7 * 183 is 1 modulo 256: see _cycle


def sizes_of(text: str) -> list[int]:
    """Read SIZE, or a list that is cycled through, separated by commas."""
    return [int(part) for part in text.split(",")]


def destination(text: str) -> Address:
    """Read PORT, of this machine, or HOST:PORT."""
    host, _, port = text.rpartition(":")
    return host or LOOPBACK, int(port)


def host() -> str:
    """Return the address that a receiver binds to."""
    return os.environ.get("BENCH_HOST", LOOPBACK)


def bound() -> socket.socket:
    """Return a plain socket that receives, with a large queue."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    force_receive_buffer(sock, RECEIVE_BUFFER)
    sock.bind((host(), 0))
    return sock


def unbound() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def send_mark(marker: socket.socket, mark: int, to: list[Address]) -> None:
    """Send the mark of the end, behind all that may still be merged on its way."""
    time.sleep(BEFORE_MARK_S)
    for address in to:
        marker.sendto(b"." * mark, address)
