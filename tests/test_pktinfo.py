"""Addresses: where trains came to, and from where and through what they go, over loopback."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from typing import Any, Final

import pytest

from batching import (
    Conn,
    Segments,
    SendError,
    open_conn,
)
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    needs_ipv6,
    needs_linux,
)
from marks import EVERYTHING, WAYS, MarkedPeer, Way, each_way, opened, receive

pytestmark = [pytest.mark.kernel, needs_linux]


@pytest.fixture
def everything() -> Iterator[Conn]:
    """Give a connection on loopback that tells everything."""
    with open_conn(ANY_PORT, **EVERYTHING) as conn:
        conn.settimeout(PATIENCE_S)
        yield conn


@each_way
def test_a_train_tells_where_it_was_sent_to(way: Way) -> None:
    with opened(way, pktinfo=True) as conn, PlainPeer(way.host) as peer:
        port = conn.local_addr()[1]
        peer.send((way.host, port), b"a", b"", bytes(9000))
        trains = receive(conn, 3)
        expected = (way.told, port) if way.local != "::" else (way.told, port, 0, 0)
        assert [train.local_addr for train in trains] == [expected] * 3
        assert {train.interface for train in trains} == {socket.if_nametoindex("lo")}
        assert len({id(train.local_addr) for train in trains}) == 1


def test_an_answer_leaves_from_the_address_that_was_asked() -> None:
    with open_conn(("0.0.0.0", 0), pktinfo=True) as conn, PlainPeer() as peer:
        conn.settimeout(PATIENCE_S)
        for host in ("127.0.0.1", "127.0.7.7", "127.9.9.9"):
            peer.send((host, conn.local_addr()[1]), b"question", b"another")
            trains = receive(conn, 2)
            assert {train.local_addr for train in trains} == {(host, conn.local_addr()[1])}
            assert conn.send_segments(trains) == 2
            assert {sender[0] for _, sender in peer.collect_pairs(2)} == {host}


@each_way
def test_a_source_of_the_wildcard_is_the_kernels_choice(way: Way) -> None:
    with opened(way) as conn, PlainPeer(way.host) as peer:
        conn.send_segments([Segments(b"ab", 1, peer.address[:2], local_addr=conn.local_addr())])
        assert {sender[0] for _, sender in peer.collect_pairs(2)} == {way.host}


def test_a_source_that_is_not_ours_is_that_trains_own_error(conn: Conn, peer: PlainPeer) -> None:
    to = peer.address
    foreign = ("192.0.2.77", 5)  # RFC 5737
    trains = [
        Segments(b"a", 1, to),
        Segments(b"bcd", 1, to, local_addr=foreign),
        Segments(b"e", 1, to),
    ]
    with open_conn(("0.0.0.0", 0)) as conn, pytest.raises(SendError) as failed:
        conn.send_segments(trains)
    assert list(failed.value.errors) == [1]
    assert failed.value.errors[1].errno in (errno.EINVAL, errno.ENETUNREACH)
    assert "from ('192.0.2.77', 5)" in str(failed.value.errors[1])
    assert failed.value.sent == 2
    assert peer.collect(2) == [b"a", b"e"]


@needs_ipv6
def test_a_source_of_the_other_family_is_that_trains_own_error() -> None:
    with open_conn(("::", 0)) as conn, PlainPeer() as peer:
        with pytest.raises(SendError) as failed:
            conn.send_segments(
                [
                    Segments(b"a", 1, peer.address, local_addr=("::1", 0)),
                    Segments(b"b", 1, peer.address),
                    Segments(b"c", 1, ("::1", peer.address[1]), local_addr=("127.0.0.1", 0)),
                ]
            )
        errors = {index: each.errno for index, each in failed.value.errors.items()}
        assert errors == {0: errno.EINVAL, 2: errno.EINVAL}
        assert peer.collect(1) == [b"b"]


def test_an_interface_that_is_not_there_is_that_trains_own_error(peer: PlainPeer) -> None:
    with open_conn() as conn, pytest.raises(SendError, match="through interface 4711") as failed:
        conn.send_segments(
            [Segments(b"a", 1, peer.address, interface=4711), Segments(b"b", 1, peer.address)]
        )
    assert failed.value.errors[0].errno == errno.ENODEV
    assert peer.collect(1) == [b"b"]


def test_another_destination_overrides_metadata_too(everything: Conn) -> None:
    with MarkedPeer("127.0.0.2") as first, MarkedPeer("127.0.0.3") as second:
        first.send_marked(everything.local_addr(), b"abc", 3, 3)
        trains = receive(everything, 1)
        trains[0].local_addr = ("192.0.2.77", 5)
        trains[0].interface = 4711
        assert everything.send_segments(trains, to=second.address) == 1
        assert [(each.data, each.tos) for each in second.hear(1)] == [(b"abc", 0)]


BAD: Final = [
    pytest.param("local_addr", "127.0.0.1", TypeError, "tuple.*str", id="str"),
    pytest.param("local_addr", ("a.test", 0), ValueError, "'a.test' is not numeric", id="name"),
    pytest.param("local_addr", ("::1", 0), ValueError, "IPv6 address '::1'", id="IPv6"),
    pytest.param("local_addr", (HOST, 65536), ValueError, "port 65536", id="port"),
]


@pytest.mark.parametrize(("name", "value", "kind", "text"), BAD)
def test_a_bad_address_is_told_by_its_index_before_anything_is_sent(
    conn: Conn, peer: PlainPeer, name: str, value: Any, kind: type[Exception], text: str
) -> None:
    good, bad = Segments(b"a", 1, peer.address), Segments(b"b", 1, peer.address)
    setattr(bad, name, value)
    with pytest.raises(kind, match=f"^segments 2: .*{text}"):
        conn.send_segments([good, good, bad, good])
    assert conn.stats().send_calls == 0


@pytest.mark.parametrize(
    ("name", "value", "kind", "text"),
    [
        ("ecn", 4, ValueError, "ecn 4, must be 0 to 3 or None"),
        ("ecn", -1, ValueError, "ecn -1, must be 0 to 3 or None"),
        ("ecn", 1.0, TypeError, "ecn must be int or None, not float"),
        ("ecn", True, TypeError, "ecn must be int or None, not bool"),
        ("ecn", 1 << 40, ValueError, f"ecn {1 << 40}, must be 0 to 3 or None"),
        ("interface", 0, ValueError, "interface 0, must be 1 to 2147483647 or None"),
        ("interface", 1 << 31, ValueError, "interface 2147483648, must be 1 to 2147483647 or None"),
        ("interface", "lo", TypeError, "interface must be int or None, not str"),
    ],
)
def test_a_bad_number_is_refused_at_once(
    backend: Any, name: str, value: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        backend.Segments(b"a", 1, None, **{name: value})
    train = backend.Segments(b"a", 1)
    with pytest.raises(kind, match=f"^{re.escape(text)}$"):
        setattr(train, name, value)


@pytest.mark.parametrize("name", ["IPv4", pytest.param("v4-mapped", marks=needs_ipv6)])
def test_a_broadcast_is_answered_though_many_have_written_meanwhile(name: str) -> None:
    with opened(WAYS[name], pktinfo=True) as conn, PlainPeer() as peer:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        peer.send(("127.255.255.255", conn.local_addr()[1]), b"who is there")
        asked = receive(conn, 1)
        prefix = "" if name == "IPv4" else "::ffff:"
        for number in range(5000):
            conn._peers.get((f"{prefix}10.1.{number >> 8}.{number & 255}", 9))
        here = (asked[0].local_addr or ())[0]
        answer = Segments(b"me", 2, asked[0].addr, local_addr=(here, 0))  # whatever port
        assert conn.send_segments([*asked, answer]) == 2
        assert peer.collect(2) == [b"who is there", b"me"]
