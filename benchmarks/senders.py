"""The ways of sending a batch in Python: plain sockets, by hand, and a ``Conn``.

Rule: a batch is laid out once, in the form that a way takes; a call sends that.  A way that
takes one destination a call has the batch grouped by destination, which costs it nothing here.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator

from child import ANY, PAYLOAD, Address, pattern, unbound

import batching
from batching._kernel import SOL_UDP, UDP_SEGMENT, max_segments

MAX_BATCH = 1024  # of batch_size; a call may carry more
Pair = tuple[bytes, Address]
Call = Callable[[], object]
Lay = Callable[[list[Pair]], Call]


def deal(sizes: list[int], count: int, to: list[Address], sent: Counter[Address]) -> list[Pair]:
    """Return patterns for the destinations in turn, each of which numbers its own."""
    pairs = []
    for index in range(count):
        address = to[index % len(to)]
        number = sent[address]
        sent[address] += 1
        pairs.append((pattern(number, sizes[number % len(sizes)]), address))
    return pairs


def grouped(pairs: list[Pair]) -> dict[Address, list[bytes]]:
    groups: dict[Address, list[bytes]] = {}
    for data, to in pairs:
        groups.setdefault(to, []).append(data)
    return groups


def trains(pairs: list[Pair], longest: int) -> Iterator[tuple[list[bytes], Address]]:
    """Yield trains: datagrams of one size to one destination, the last of which may be shorter."""
    for to, datagrams in grouped(pairs).items():
        train: list[bytes] = []
        for data in datagrams:
            if train and not (
                len(train[0]) == len(train[-1]) >= len(data)
                and len(train) < longest
                and sum(map(len, train)) + len(data) <= PAYLOAD
            ):
                yield train, to
                train = []
            train.append(data)
        yield train, to


def _plain(count: int) -> Lay:
    sendto = unbound().sendto

    def lay(pairs: list[Pair]) -> Call:
        def call() -> None:
            for data, to in pairs:
                sendto(data, to)

        if len(pairs) > 1:
            return call
        ((data, to),) = pairs
        return lambda: sendto(data, to)

    return lay


def _by_hand(count: int) -> Lay:
    """``sendmsg`` with UDP_SEGMENT over the separate buffers."""
    sendmsg = unbound().sendmsg

    def lay(pairs: list[Pair]) -> Call:
        messages = []
        for train, to in trains(pairs, max_segments()):
            segment = len(train[0]).to_bytes(2, sys.byteorder)
            # Never UDP_SEGMENT on a single datagram: some kernels refuse it.
            control = [(SOL_UDP, UDP_SEGMENT, segment)] if len(train) > 1 else []
            messages.append((train, control, 0, to))

        def call() -> None:
            for message in messages:
                sendmsg(*message)

        return call

    return lay


def _send_batch(count: int) -> Lay:
    conn = batching.open_conn(ANY, batch_size=min(count, MAX_BATCH))
    return lambda pairs: lambda: conn.send_batch(pairs)


def _write_batch_to(count: int) -> Lay:
    conn = batching.open_conn(ANY, batch_size=min(count, MAX_BATCH))
    write = conn.write_batch_to

    def lay(pairs: list[Pair]) -> Call:
        groups = [(list(map(bytearray, group)), to) for to, group in grouped(pairs).items()]

        def call() -> None:
            for buffers, to in groups:
                write(buffers, to)

        if len(groups) > 1:
            return call
        ((buffers, to),) = groups
        return lambda: write(buffers, to)

    return lay


def _send_segments(count: int) -> Lay:
    conn = batching.open_conn(ANY, batch_size=min(count, MAX_BATCH))

    def lay(pairs: list[Pair]) -> Call:
        segments = [
            batching.Segments(b"".join(train), len(train[0]), to)
            for train, to in trains(pairs, conn.offload.max_segments)
        ]
        return lambda: conn.send_segments(segments)

    return lay


SENDERS: dict[str, Callable[[int], Lay]] = {
    "sendto": _plain,
    "by hand": _by_hand,
    "send_batch": _send_batch,
    "write_batch_to": _write_batch_to,
    "send_segments": _send_segments,
}
