"""Marks: trains tell with which ECN they came, and set with which they go, over loopback."""

from __future__ import annotations

import socket
import struct
from typing import Any, Final

import pytest

from batching import (
    Conn,
    Segments,
    open_conn,
    try_upgrade_to_conn,
)
from batching._kernel import (
    IP_TOS,
    IPV6_TCLASS,
    SOL_IP,
    SOL_IPV6,
)
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    needs_gso,
    needs_linux,
)
from marks import EVERYTHING, MarkedPeer, Way, each_way, opened, receive, told_of

pytestmark = [pytest.mark.kernel, needs_linux]

DSCP: Final = 0b101110 << 2  # EF
each_ecn = pytest.mark.parametrize("ecn", range(4), ids=["Not-ECT", "ECT(1)", "ECT(0)", "CE"])


@needs_gso
@each_way
def test_each_train_tells_its_mark(way: Way) -> None:
    with opened(way, ecn=True) as conn, MarkedPeer(way.host) as peer:
        to = (way.host, conn.local_addr()[1])
        for ecn in range(4):
            peer.send_marked(to, bytes([ecn]) * 250, 100, DSCP | ecn)
            peer.send_marked(to, bytes([ecn]), 1, ecn)
        told = told_of(receive(conn, 16))
        assert [(data[0], len(data)) for data, _ in told] == [
            (ecn, n) for ecn in range(4) for n in (100, 100, 50, 1)
        ]
        assert all(ecn == data[0] for data, ecn in told)


@each_way
@each_ecn
def test_a_mark_of_a_train_is_on_each_of_its_datagrams(way: Way, ecn: int) -> None:
    with opened(way) as conn, MarkedPeer(way.host) as peer:
        trains = [Segments(bytes(250), 100, peer.address[:2], ecn=ecn)]
        trains.append(Segments(b"", 0, peer.address[:2], ecn=ecn))
        assert conn.send_segments(trains) == 4
        assert [each.tos for each in peer.hear(4)] == [ecn] * 4


@each_way
def test_a_mark_of_the_socket_is_on_all_and_keeps_dscp(way: Way) -> None:
    with opened(way) as conn, MarkedPeer(way.host) as peer:
        to = peer.address[:2]
        if way.local == "::":
            conn.setsockopt(SOL_IPV6, IPV6_TCLASS, DSCP)
        conn.setsockopt(SOL_IP, IP_TOS, DSCP)
        conn.set_ecn(2)
        conn.send_batch([(b"pair", to)] * 2)
        conn.write_batch_to([b"buffer"], to)
        conn.write_to_udp_addr_port(b"single", to)
        conn.send_segments([Segments(b"abc", 1, to)])
        conn.send_segments([Segments(b"abc", 1, to, ecn=1), Segments(b"d", 1, to, ecn=0)])
        conn.set_ecn(0)
        conn.send_batch([(b"last", to)])
        assert [each.tos for each in peer.hear(12)] == [
            *[DSCP | 2] * 7, *[DSCP | 1] * 3, DSCP, DSCP,
        ]  # fmt: skip


def test_the_dscp_of_a_socket_that_was_taken_over_is_kept(peer: PlainPeer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, MarkedPeer() as marked:
        sock.setsockopt(SOL_IP, IP_TOS, DSCP | 1)
        sock.bind(ANY_PORT)
        conn = try_upgrade_to_conn(sock, "udp4")
        assert isinstance(conn, Conn)
        with conn:
            conn.send_segments([Segments(b"a", 1, marked.address, ecn=2)])
            conn.send_segments([Segments(b"b", 1, marked.address)])
            assert [each.tos for each in marked.hear(2)] == [DSCP | 2, DSCP | 1]
            marked.send(conn.local_addr(), b"c")
            conn.settimeout(PATIENCE_S)
            [train] = conn.recv_segments()
            assert (train.ecn, train.local_addr, train.timestamp_ns) == (None, None, None)


@needs_gso
def test_single_datagrams_of_one_mark_share_a_train_and_others_do_not(conn: Conn) -> None:
    with MarkedPeer() as first, MarkedPeer() as second:
        marks = [2, 2, 2, None, None, 2, 1, 1, 1, 0]
        trains = [
            Segments(b"%d%d" % (to, i), 2, (first, second)[to].address, ecn=ecn)
            for i, ecn in enumerate(marks)
            for to in range(2)
        ]
        assert conn.send_segments(trains) == 20
        for to, peer in enumerate((first, second)):
            heard = peer.hear(10)
            assert [each.data for each in heard] == [b"%d%d" % (to, i) for i in range(10)]
            assert [each.tos for each in heard] == [ecn or 0 for ecn in marks]
        # Of each: 222, --, 2, 111, 0.
        assert (conn.stats().send_messages, conn.stats().send_trains) == (10, 6)


@needs_gso
def test_equal_marks_of_many_destinations_are_one_each(conn: Conn) -> None:
    """More marks than are looked back for: what differs in number only shares a train."""
    with MarkedPeer() as peer:
        others = [("127.0.0.2", port) for port in range(1, 13)]
        trains = [
            Segments(b"x", 1, to, ecn=2, local_addr=(f"127.0.1.{i + 1}", 0))
            for _ in range(2)
            for i, to in enumerate([peer.address, *others])
        ]
        conn.send_segments(trains)
        assert [each.sender for each in peer.hear(2)] == ["127.0.1.1"] * 2
        assert conn.stats().send_messages == 13


@pytest.mark.parametrize("gso", ["auto", "off"])
def test_marks_do_without_gso(gso: str) -> None:
    with open_conn(ANY_PORT, gso=gso, max_segments=2) as conn, MarkedPeer() as peer:
        conn.send_segments([Segments(b"abcde", 1, peer.address, ecn=ecn) for ecn in (1, 2)])
        assert [(each.data, each.tos) for each in peer.hear(10)] == [
            (data, ecn) for ecn in (1, 2) for data in (b"a", b"b", b"c", b"d", b"e")
        ]


def test_a_connected_conn_marks_and_tells(peer: PlainPeer) -> None:
    with MarkedPeer() as marked, open_conn(None, marked.address, **EVERYTHING) as conn:
        conn.settimeout(PATIENCE_S)
        conn.send_segments([Segments(b"abc", 2, ecn=1), Segments(b"d", 1, local_addr=ANY_PORT)])
        assert [each.tos for each in marked.hear(3)] == [1, 1, 0]
        marked.send_marked(conn.local_addr(), b"e", 1, 3)
        [train] = conn.recv_segments()
        assert (train.ecn, train.local_addr, train.addr) == (3, conn.local_addr(), marked.address)


def test_an_ecn_exchange_as_quic_validates_it() -> None:
    """Sent as ECT(0), counted by the receiver, one of them marked CE on the way (RFC 9000 13.4)."""
    options: dict[str, Any] = {"ecn": True, "pktinfo": True}
    with open_conn(ANY_PORT, **options) as client, open_conn(ANY_PORT, **options) as server:
        client.settimeout(PATIENCE_S)
        server.settimeout(PATIENCE_S)
        client.set_ecn(2)
        to = server.local_addr()
        client.send_batch([(b"%d" % i, to) for i in range(6)])
        client.send_segments([Segments(b"6", 1, to, ecn=3)])  # as a router would have done
        counts = [0] * 4
        for train in receive(server, 7):
            assert train.ecn is not None
            counts[train.ecn] += len(train)
        assert counts == [0, 0, 6, 1]
        told = struct.pack("!3H", *counts[1:])
        server.send_segments([Segments(told, len(told), client.local_addr(), ecn=2)])
        [answer] = receive(client, 1)
        assert answer.ecn == 2
        ect1, ect0, ce = struct.unpack("!3H", answer.data)
        assert (ect1, ect0 + ce) == (0, 7)
