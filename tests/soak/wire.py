"""Flows, and datagrams that say which one they are and whether they are whole.

A flow is what one thread of one endpoint sends to one socket of the other.  Every
transmission of a flow has a number of its own (tx), a datagram that is sent again keeps
its seq.  So a copy that the sender did not make is told from one that it made.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable
from typing import Final, NamedTuple

DATA: Final = 0
ACK: Final = 1
MAX_CONNS: Final = 3
MAX_THREADS: Final = 2  # that send, and that receive, on one Conn
N_FLOWS: Final = 256

_FIELDS: Final = struct.Struct("!IHBIIH")  # round, flow, -, tx, seq, length
_CHECK: Final = struct.Struct("!I")
_RECEIPT: Final = struct.Struct("!HI")
HEADER: Final = _FIELDS.size + _CHECK.size
MAX_RECEIPTS: Final = 200  # an acknowledgement, so that it fits every MTU
_POOL: Final = random.Random(0).randbytes(1 << 17)


class Flow(NamedTuple):
    """Who sends to whom; ``life`` is 1 for a process that took a dead one's place."""

    side: int
    life: int
    kind: int
    conn: int
    thread: int
    to: int

    @property
    def id(self) -> int:
        side, life, kind, conn, thread, to = self
        return side << 7 | life << 6 | kind << 5 | conn << 3 | thread << 2 | to

    @classmethod
    def of(cls, number: int) -> Flow:
        return cls(
            number >> 7 & 1,
            number >> 6 & 1,
            number >> 5 & 1,
            number >> 3 & 3,
            number >> 2 & 1,
            number & 3,
        )


class CorruptError(Exception):
    """A datagram is not what was sent."""


class Parsed(NamedTuple):
    """What a datagram says of itself."""

    flow: int
    tx: int
    seq: int
    body: bytes


def body(number: int, size: int) -> bytes:
    """Return bytes for a datagram of ``size`` bytes in all."""
    start = number * 7919 & 0xFFFF
    return _POOL[start : start + size - HEADER]


def build(round_number: int, flow: int, tx: int, seq: int, content: bytes) -> bytes:
    fields = _FIELDS.pack(round_number, flow, 0, tx, seq, len(content) + HEADER)
    return fields + _CHECK.pack(zlib.crc32(content, zlib.crc32(fields))) + content


def parse(data: bytes, round_number: int) -> Parsed:
    """Take a datagram apart.

    Raises:
        CorruptError: It is not whole, or of another round.
    """
    if len(data) < HEADER:
        raise CorruptError(f"{len(data)} bytes, which nobody sent")
    number, flow, _, tx, seq, length = _FIELDS.unpack_from(data)
    if length != len(data):
        raise CorruptError(f"{len(data)} bytes that say they are {length}: flow {flow} tx {tx}")
    content = data[HEADER:]
    (check,) = _CHECK.unpack_from(data, _FIELDS.size)
    if zlib.crc32(content, zlib.crc32(data[: _FIELDS.size])) != check:
        raise CorruptError(f"a wrong checksum: {length} bytes, says flow {flow} tx {tx}")
    if number != round_number:
        raise CorruptError(f"it is of round {number}, not {round_number}")
    return Parsed(flow, tx, seq, content)


def receipts(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Return the body of an acknowledgement of (flow, seq)."""
    return b"".join(_RECEIPT.pack(*pair) for pair in pairs)


def parse_receipts(content: bytes) -> list[tuple[int, int]]:
    return list(_RECEIPT.iter_unpack(content))
