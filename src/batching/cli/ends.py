"""What every receiver shares: its socket's buffer, how it knows the end, what is wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Final

from .machine import force_receive_buffer

__all__ = ["LOOPBACK", "RECEIVE_BUFFER", "SLOT", "before_end", "bind", "steps"]

LOOPBACK: Final = "127.0.0.1"
RECEIVE_BUFFER: Final = 4 << 20  # of every contender; the kernel doubles what it is asked
SLOT: Final = 65536  # no UDP message, merged or not, is longer than 65535


def bind() -> socket.socket:
    """Return a UDP socket bound to a free port of loopback."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    force_receive_buffer(sock, RECEIVE_BUFFER)
    sock.bind((LOOPBACK, 0))
    return sock


def before_end(lengths: Iterable[int], size: int) -> int:
    """Return how many datagrams come before the empty one that marks the end.

    Raises:
        ValueError: One of them has another length than ``size``.
    """
    count = 0
    for length in lengths:
        if not length:
            break
        if length != size:
            raise ValueError(f"a datagram of {length} bytes was received, {size} were sent")
        count += 1
    return count


def steps(burst: int) -> Iterable[int]:
    """Yield how many datagrams the steps of a receiver should have: 1, then ``burst``."""
    yield 1
    while True:
        yield burst
