"""What the tests of marks and addresses share: a plain socket that tells and sets them, by hand."""

from __future__ import annotations

import select
import socket
import struct
from typing import Any, Final, NamedTuple

import pytest

from batching import Conn, Segments, open_conn
from batching._kernel import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_TOS,
    IPV6_PKTINFO,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_TCLASS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_SEGMENT,
)
from loopback import HOST, PATIENCE_S, Address, PlainPeer, assert_nothing_left, needs_ipv6


class Way(NamedTuple):
    """How a Conn and a plain socket on loopback speak: where the one is bound, and the other."""

    local: str
    host: str
    told: str
    """How the Conn spells ``host``."""


WAYS: Final = {
    "IPv4": Way("0.0.0.0", HOST, HOST),
    "IPv6": Way("::", "::1", "::1"),
    "v4-mapped": Way("::", HOST, f"::ffff:{HOST}"),
}
EVERYTHING: Final[dict[str, Any]] = {"ecn": True, "pktinfo": True, "timestamps": True}
each_way = pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, id=name, marks=() if name == "IPv4" else needs_ipv6)
        for name, way in WAYS.items()
    ],
)


class Heard(NamedTuple):
    """A datagram as a plain socket got it."""

    data: bytes
    tos: int
    sender: str
    interface: int


class MarkedPeer(PlainPeer):
    """A plain socket that tells the traffic class of what it gets, and sets that of a train."""

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        super().__init__(host, port)
        if self.sock.family == socket.AF_INET6:
            self.sock.setsockopt(SOL_IPV6, IPV6_RECVTCLASS, 1)
            self.sock.setsockopt(SOL_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            self.sock.setsockopt(SOL_IP, IP_RECVTOS, 1)
            self.sock.setsockopt(SOL_IP, IP_PKTINFO, 1)

    def send_marked(self, to: Address, data: bytes, segment_size: int, tos: int) -> None:
        """Send a train, or, if that is its size, one datagram, with a traffic class."""
        level = SOL_IPV6 if self.sock.family == socket.AF_INET6 else SOL_IP
        kind = IPV6_TCLASS if level == SOL_IPV6 else IP_TOS
        control = [(level, kind, struct.pack("=i", tos))]
        if len(data) > segment_size:
            control.append((SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment_size)))
        self.sock.sendmsg([data], control, 0, to)

    def hear(self, n: int) -> list[Heard]:
        """Return the ``n`` datagrams that came, which must be all."""
        self.sock.settimeout(PATIENCE_S)
        heard = [self._hear() for _ in range(n)]
        assert not select.select([self.sock], [], [], 0)[0], f"more than {n} datagrams"
        return heard

    def _hear(self) -> Heard:
        data, control, _, sender = self.sock.recvmsg(65536, 512)
        tos, interface = -1, 0
        for level, kind, value in control:
            if (level, kind) == (SOL_IP, IP_TOS):
                tos = value[0]
            elif (level, kind) == (SOL_IPV6, IPV6_TCLASS):
                (tos,) = struct.unpack("=i", value)
            elif (level, kind) == (SOL_IP, IP_PKTINFO):
                (interface,) = struct.unpack_from("=i", value)
            elif (level, kind) == (SOL_IPV6, IPV6_PKTINFO):
                (interface,) = struct.unpack_from("=i", value, 16)
        return Heard(data, tos, sender[0], interface)


def opened(way: Way, **options: Any) -> Conn:
    """Return a Conn that is bound as ``way`` says, and has patience."""
    conn = open_conn((way.local, 0), **options)
    conn.settimeout(PATIENCE_S)
    return conn


def receive(conn: Conn, n: int) -> list[Segments]:
    """Return trains of ``n`` datagrams, which must be all."""
    trains: list[Segments] = []
    while sum(len(train) for train in trains) < n:
        trains += conn.recv_segments()
    assert_nothing_left(conn)
    assert sum(len(train) for train in trains) == n
    return trains


def told_of(trains: list[Segments]) -> list[tuple[bytes, int | None]]:
    """Return each datagram of trains with its train's mark."""
    return [(data, train.ecn) for train in trains for data in train.tolist()]
