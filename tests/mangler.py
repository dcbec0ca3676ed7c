"""Mangler: a relay between a probe's client and its server that harms what it is told to.

It has a ``Conn`` for either side, so it sees trains whole, as a device does, and passes them
on as trains.  What it harms it knows by its shape: datagrams that came singly stay whole,
unless they are meant too.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Iterator
from typing import Any

from batching import Conn, Segments, open_conn
from loopback import ANY_PORT

Harm = Callable[[Segments], list[Segments]]
"""Returns what is passed on in place of what came."""


class Mangler:
    """It relays between whoever sends to ``address`` and ``server``, in a thread of its own."""

    def __init__(self, server: tuple[Any, ...], out: Harm, back: Harm) -> None:
        self._front, self._rear = open_conn(ANY_PORT), open_conn(remote_addr=server)
        self._ways = ((self._front, self._rear, out), (self._rear, self._front, back))
        self._client: tuple[Any, ...] | None = None
        self._ended = threading.Event()
        self.address = self._front.local_addr()
        for conn in (self._front, self._rear):
            conn.settimeout(0)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        self._thread.join()
        self._front.close()
        self._rear.close()

    def _run(self) -> None:
        while not self._ended.is_set():
            select.select([self._front, self._rear], [], [], 0.02)
            for source, sink, harm in self._ways:
                with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                    self._pass(source, sink, harm)

    def _pass(self, source: Conn, sink: Conn, harm: Harm) -> None:
        for train in source.recv_segments():
            if source is self._front:
                self._client = train.addr
            to = self._client if sink is self._front else None
            sink.settimeout(1)
            for each in harm(train):
                sink.send_segments([Segments(bytes(each.data), each.segment_size, to)])
            sink.settimeout(0)


@contextlib.contextmanager
def mangler(server: tuple[Any, ...], out: Harm, back: Harm) -> Iterator[tuple[Any, ...]]:
    """Give the address at which a client finds the server behind a mangler."""
    with contextlib.closing(Mangler(server, out, back)) as made:
        yield made.address


def leave(train: Segments) -> list[Segments]:
    """Harm nothing."""
    return [train]


def cut(datagrams: list[bytes]) -> list[bytes]:
    """Cut the second datagram's end off."""
    return [datagrams[0], datagrams[1][:-7], *datagrams[2:]]


def drop(datagrams: list[bytes]) -> list[bytes]:
    """Lose the second."""
    return [datagrams[0], *datagrams[2:]]


def swap(datagrams: list[bytes]) -> list[bytes]:
    """Let the first two change places."""
    return [datagrams[1], datagrams[0], *datagrams[2:]]


def corrupt(datagrams: list[bytes]) -> list[bytes]:
    """Change a byte of the second."""
    second = bytearray(datagrams[1])
    second[20] ^= 1
    return [datagrams[0], bytes(second), *datagrams[2:]]


def double(datagrams: list[bytes]) -> list[bytes]:
    """Pass the second on twice."""
    return [*datagrams[:2], *datagrams[1:]]


def merge(datagrams: list[bytes]) -> list[bytes]:
    """Cut where no datagram ends: 8 bytes further, all but the last."""
    whole, size = b"".join(datagrams), len(datagrams[0]) + 8
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def to_shape(
    size: int, segments: int, tail: int, harm: Callable[[list[bytes]], list[bytes]]
) -> Harm:
    """Return what harms trains of that shape, and nothing else."""

    def apply(train: Segments) -> list[Segments]:
        nbytes = size * (segments - 1) + tail
        if (train.segment_size, len(train), train.nbytes) != (size, segments, nbytes):
            return [train]
        return [Segments(each, max(1, len(each))) for each in harm(train.tolist())]

    return apply


def lose_every(n: int) -> Harm:
    """Return what loses every ``n``-th datagram, whatever it came in."""
    count = 0

    def apply(train: Segments) -> list[Segments]:
        nonlocal count
        passed = []
        for data in train.tolist():
            count += 1
            if count % n:
                passed.append(Segments(data, max(1, len(data))))
        return passed

    return apply
