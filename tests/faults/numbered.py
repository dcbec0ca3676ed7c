"""Numbered datagrams: each says which one it is, so what arrived is held to what was told.

A batch is made by ``numbered``, sent by ``send``, which checks that a SendError accounts
for each datagram once, and ``assert_arrived`` shows that exactly what it says went out did
arrive: each once, whole, in the order of its destination.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterable
from typing import Final

from batching import Conn, Segments, SendError, UDPGSODisabledError
from loopback import Address, PlainPeer

Batch = list[tuple[bytes, Address]]


def numbered(sizes: Iterable[int], *to: Address, first: int = 0) -> Batch:
    """Return datagrams of these sizes, 4 bytes at least, for the addresses in turn."""
    return [
        ((struct.pack("!I", number) * (size // 4 + 1))[:size], address)
        for number, size, address in zip(itertools.count(first), sizes, itertools.cycle(to))
    ]


def number(datagram: bytes) -> int:
    return int.from_bytes(datagram[:4], "big")


def send(conn: Conn, batch: Batch) -> SendError | None:
    """Return what ``send_batch`` raises, which must tell of each datagram once."""
    try:
        n = conn.send_batch(batch)
    except SendError as error:
        _check(error, len(batch))
        return error
    assert n == len(batch)
    return None


def _check(error: SendError, n: int) -> None:
    told = [*error.errors, *error.unsent]
    assert len(set(told)) == len(told)
    assert error.sent + len(told) == n
    assert list(error.unsent) == sorted(error.unsent)


def taken(batch: Batch, error: SendError | None) -> Batch:
    """Return what went out, going by what the call told."""
    lost = {*error.errors, *error.unsent} if error else set()
    return [pair for i, pair in enumerate(batch) if i not in lost]


def unsent(batch: Batch, error: SendError) -> Batch:
    return [batch[i] for i in error.unsent]


def failed(batch: Batch, error: SendError) -> Batch:
    return [batch[i] for i in sorted(error.errors)]


def assert_arrived(batch: Batch, *peers: PlainPeer) -> None:
    """Fail unless the peers got exactly the batch, each its own part, in order and whole."""
    for peer in peers:
        expected = [data for data, to in batch if to == peer.address]
        got = peer.collect(len(expected))
        assert [number(data) for data in got] == [number(data) for data in expected]
        assert got == expected
    assert {to for _, to in batch} <= {peer.address for peer in peers}


# The three ways of sending that make trains, for datagrams to one address.


def _send_batch(conn: Conn, datagrams: list[bytes], to: Address) -> None:
    assert conn.send_batch([(data, to) for data in datagrams]) == len(datagrams)


def _write_batch_to(conn: Conn, datagrams: list[bytes], to: Address) -> None:
    try:
        conn.write_batch_to(datagrams, to)
    except UDPGSODisabledError as error:
        assert error.retry_err is None  # noqa: PT017 - all was sent


def _send_segments(conn: Conn, datagrams: list[bytes], to: Address) -> None:
    trains = [
        Segments(b"".join(train), size) for size, train in itertools.groupby(datagrams, key=len)
    ]
    assert conn.send_segments(trains, to=to) == len(datagrams)


WAYS: Final[dict[str, Callable[[Conn, list[bytes], Address], None]]] = {
    "send_batch": _send_batch,
    "write_batch_to": _write_batch_to,
    "send_segments": _send_segments,
}
