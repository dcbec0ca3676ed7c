"""Packets that come in by a TUN device, and a reader that holds what it receives against them."""

from __future__ import annotations

import functools
import itertools
from collections import deque
from contextlib import ExitStack, closing
from typing import Final, NamedTuple

from batching import Conn, Message, Segments, min_control_message_size
from batching._address import Address
from batching._kernel import MSG_TRUNC
from loopback import assert_nothing_left
from netns import Tun, namespace
from packets import build, build_train, noise

OWN: Final = ("10.8.0.1", "fd08::1")
SOURCES: Final = {
    "IPv4": [("10.8.0.2", 7), ("10.8.0.3", 7)],
    "IPv6": [("fd08::2", 7), ("fd08::2", 8)],
    "both": [("10.8.0.2", 7), ("fd08::2", 7)],
}
LOCAL: Final = {"IPv4": (OWN[0], 0), "IPv6": (OWN[1], 0), "both": ("::", 0)}
MAX_PAYLOAD: Final = 65507  # of either family: what IPv4 can carry
_PATIENCE_S: Final = 5.0  # what is injected has arrived, or is held back for 20 ms
GUARD: Final = b"\xa5" * 8  # behind each buffer that is to be filled

# What read_batch is given: rooms in bytes, again and again for as many messages as there are.
ROOMS: Final = {
    "5 messages": [65527] * 5,
    "140 messages": [65527] * 140,
    "short messages": [10, 65527, 100, 1, 0, 2000, 99],
}


class Arrival(NamedTuple):
    """A packet to come in: a datagram (segment_size 0), or a train."""

    source: int
    size: int
    segment_size: int = 0

    @property
    def sizes(self) -> list[int]:
        """Lengths of its datagrams."""
        step = self.segment_size or self.size or 1
        return [min(step, self.size - at) for at in range(0, self.size, step)] or [0]


def train_of(source: int, n_datagrams: int, segment_size: int, last: int) -> Arrival:
    whole = min(n_datagrams - 1, MAX_PAYLOAD // segment_size) * segment_size
    return Arrival(source, min(whole + min(last, segment_size), MAX_PAYLOAD), segment_size)


class Injector:
    """A network of one TUN device, and what is yet to be received of what came in by it."""

    def __init__(self, stack: ExitStack, *, offload: int = 0, flags: int = 0) -> None:
        self.side = stack.enter_context(namespace())
        tun = Tun(self.side, mtu=65535, vnet_hdr=bool(offload), offload=offload, flags=flags)
        self._tun = stack.enter_context(closing(tun))
        self._has_header = bool(offload)
        self._seeds = itertools.count()
        self.expected: dict[Address, deque[bytes]] = {}

    def inject(self, family: str, port: int, *arrivals: Arrival) -> None:
        """Let packets come in, at once: the kernel merges within a tick of its clock."""
        payloads = [noise(arrival.size, next(self._seeds)) for arrival in arrivals]
        packets = [
            self._packet(family, port, arrival, payload)
            for arrival, payload in zip(arrivals, payloads, strict=True)
        ]
        for packet in packets:
            self._tun.write(packet)
        for arrival, payload in zip(arrivals, payloads, strict=True):
            source = self.spelling(family, SOURCES[family][arrival.source])
            queue = self.expected.setdefault(source, deque())
            ends = itertools.accumulate(arrival.sizes)
            queue.extend(payload[end - n : end] for end, n in zip(ends, arrival.sizes, strict=True))

    def _packet(self, family: str, port: int, arrival: Arrival, payload: bytes) -> bytes:
        source = SOURCES[family][arrival.source]
        to = (OWN[int(":" in source[0])], port)
        if self._has_header:
            return build_train(source, to, payload, arrival.segment_size)
        return build(source, to, payload)

    @staticmethod
    def spelling(family: str, source: tuple[str, int]) -> Address:
        """Return the address as a socket of the family tells it."""
        if family == "IPv4":
            return source
        return (source[0] if ":" in source[0] else f"::ffff:{source[0]}", source[1], 0, 0)

    @property
    def n_expected(self) -> int:
        return sum(map(len, self.expected.values()))

    def expect(self, data: bytes, sender: Address | None, room: int = 65527) -> bool:
        """Fail unless it is the sender's next, cut to ``room``; tell whether that cut it."""
        assert sender is not None
        whole = self.expected[sender].popleft()
        assert data == whole[:room]
        return len(whole) > room


class Reader:
    """Receives from a Conn in every way, and holds what comes against what is expected."""

    def __init__(self, conn: Conn, injector: Injector) -> None:
        self._conn, self._injector = conn, injector
        self._kept: list[tuple[Segments, list[bytes]]] = []
        self.n_cut = 0
        conn.settimeout(_PATIENCE_S)

    def read(self, way: str) -> None:
        """Receive once; there must be something."""
        if way == "segments":
            self._read_segments()
        elif way in ROOMS:
            self._read_messages(way)
        else:
            limit = {"all": None, "one": 1, "few": 7}[way]
            pairs = self._conn.recv_batch(limit)
            assert 0 < len(pairs) <= (limit or len(pairs))
            for data, sender in pairs:
                self._injector.expect(data, sender)

    def _read_segments(self) -> None:
        for segments in self._conn.recv_segments():
            datagrams = segments.tolist()
            assert len(datagrams) == len(segments)
            assert not segments.truncated
            for data in datagrams:
                self._injector.expect(data, segments.addr)
            self._kept.append((segments, datagrams))

    def _read_messages(self, way: str) -> None:
        msgs = messages(way)
        n = self._conn.read_batch(msgs)
        assert 0 < n <= len(msgs)
        for msg, room in zip(msgs[:n], ROOMS[way], strict=False):
            is_cut = self._injector.expect(bytes(msg.data), msg.addr, room)
            assert msg.flags == (MSG_TRUNC if is_cut else 0)
            self.n_cut += is_cut
        for msg, room in zip(msgs, ROOMS[way], strict=True):
            assert memoryview(memoryview(msg.buffers[0]).obj)[room:] == GUARD

    def finish(self, ways: list[str]) -> None:
        """Receive all that is expected, and nothing more."""
        turns = itertools.cycle(ways or ["all"])
        while self._injector.n_expected:
            self.read(next(turns))
        assert_nothing_left(self._conn)
        for segments, datagrams in self._kept:  # not written again while it is kept
            assert segments.tolist() == datagrams


@functools.cache
def messages(way: str) -> list[Message]:
    """Return messages that are used again and again, as a program would."""
    return [
        Message([memoryview(bytearray(room) + GUARD)[:room]], bytearray(min_control_message_size()))
        for room in ROOMS[way]
    ]
