"""Sending through send_segments, over real sockets on loopback."""

from __future__ import annotations

import errno

import pytest

from batching import Conn, Segments, SendError, open_conn
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    gather,
    needs_gso,
    needs_ipv6,
    needs_linux,
    needs_room,
)

pytestmark = pytest.mark.kernel


def patterned(n: int) -> bytes:
    return (bytes(range(251)) * (n // 251 + 1))[:n]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)] or [b""]


@pytest.mark.parametrize(
    ("n_bytes", "segment_size"),
    [
        pytest.param(0, 0, id="an empty datagram"),
        pytest.param(10, 10, id="one datagram"),
        pytest.param(10, 100, id="one, shorter than the segment size"),
        pytest.param(1001, 100, id="a short last one"),
        pytest.param(64 * 1000, 1000, id="64"),
        pytest.param(128 * 500, 500, id="128"),
        pytest.param(129 * 500, 500, id="129"),
        pytest.param(1000, 1, id="1000 of one byte"),
        pytest.param(65508, 1400, id="one byte more than a message of IPv4"),
        pytest.param(65507, 65506, id="two, the second of one byte"),
        pytest.param(300_000, 60_000, id="each message one datagram"),
        pytest.param(1_000_001, 1472, id="a megabyte"),
    ],
)
@pytest.mark.parametrize("max_segments", [None, 64, 2, 1], ids=str)
@needs_room
def test_a_train_of_any_length_arrives(
    peer: PlainPeer, n_bytes: int, segment_size: int, max_segments: int | None
) -> None:
    data = patterned(n_bytes)
    expected = cut(data, segment_size) if n_bytes else [b""]
    with open_conn(ANY_PORT, max_segments=max_segments) as conn:
        n = conn.send_segments([Segments(data, segment_size, peer.address)])
        assert n == len(expected)
        assert peer.collect(n) == expected
        assert conn.stats().send_datagrams == n


@needs_gso
def test_a_train_is_sent_whole(conn: Conn, peer: PlainPeer) -> None:
    conn.send_segments([Segments(patterned(64 * 1000), 1000, peer.address)] * 2)
    stats = conn.stats()
    assert (stats.send_messages, stats.send_trains, stats.send_datagrams) == (2, 2, 128)


@needs_gso
def test_128_segments_are_cut_for_whom_64_are_the_limit(peer: PlainPeer) -> None:
    with open_conn(ANY_PORT, max_segments=64) as conn:
        assert conn.send_segments([Segments(bytes(128 * 10), 10, peer.address)]) == 128
        assert conn.stats().send_messages == 2
        assert peer.collect(128) == [bytes(10)] * 128


def test_trains_of_several_destinations_keep_their_order(conn: Conn, peer: PlainPeer) -> None:
    with PlainPeer() as other:
        trains = [
            Segments(patterned(100 + i), 30, to)
            for i, to in enumerate([peer.address, other.address] * 20)
        ]
        n = sum(len(train) for train in trains)
        assert conn.send_segments(trains) == n
        expected = [[part for train in trains[i::2] for part in train.tolist()] for i in (0, 1)]
        assert peer.collect(len(expected[0])) == expected[0]
        assert other.collect(len(expected[1])) == expected[1]


@needs_room
def test_thousands_of_trains_go_out(conn: Conn, peer: PlainPeer) -> None:
    trains = [Segments(i.to_bytes(3, "big"), 2, peer.address) for i in range(1500)]
    assert conn.send_segments(iter(trains)) == 3000
    assert peer.collect(3000) == [part for train in trains for part in train.tolist()]


def test_to_overrides_every_address(conn: Conn, peer: PlainPeer) -> None:
    addresses = [None, (HOST, 1), ("host.invalid", 2)]
    trains = [Segments(b"ab", 1, address) for address in addresses]
    assert conn.send_segments(trains, to=peer.address) == 6
    assert peer.collect(6) == [b"a", b"b"] * 3


def test_none_is_the_connected_peer(peer: PlainPeer) -> None:
    with open_conn(None, peer.address) as conn:
        assert conn.send_segments([Segments(b"abc", 1)]) == 3
        assert peer.collect(3) == [b"a", b"b", b"c"]


def test_nothing_to_send_is_no_error(conn: Conn) -> None:
    assert conn.send_segments([]) == 0
    assert conn.send_segments([], to=conn.local_addr()) == 0


def test_what_came_can_be_forwarded(conn: Conn, peer: PlainPeer) -> None:
    conn.settimeout(PATIENCE_S)
    with open_conn(ANY_PORT) as source:
        source.send_batch([(b"%03d" % i, conn.local_addr()) for i in range(100)])
        n = 0
        while n < 100:
            n += conn.send_segments(conn.recv_segments(), to=peer.address)
    assert peer.collect(100) == [b"%03d" % i for i in range(100)]


def test_a_conn_receives_what_a_conn_sends(conn: Conn) -> None:
    data = patterned(100_000)
    with open_conn(ANY_PORT) as receiver:
        conn.send_segments([Segments(data, 999, receiver.local_addr())])
        assert gather(receiver, 101) == cut(data, 999)


@needs_linux
def test_a_train_that_fails_is_an_error_of_its_index(conn: Conn, peer: PlainPeer) -> None:
    trains = [
        Segments(b"abc", 1, peer.address),
        Segments(b"abc", 1, (HOST, 0)),
        Segments(b"abc", 1, peer.address),
    ]
    with pytest.raises(SendError) as caught:
        conn.send_segments(trains)
    error = caught.value
    assert {i: each.errno for i, each in error.errors.items()} == {1: errno.EINVAL}
    assert not isinstance(error.errors[1], SendError)
    assert (error.sent, error.unsent, error.errno) == (6, [], errno.EINVAL)
    assert peer.collect(6) == [b"a", b"b", b"c"] * 2


@pytest.mark.parametrize("rest", [b"", b"tail"], ids=["alone", "with a short one after it"])
def test_datagrams_too_long_fail_one_by_one(conn: Conn, peer: PlainPeer, rest: bytes) -> None:
    trains = [Segments(bytes(65508) + rest, 65508, peer.address), Segments(b"b", 1, peer.address)]
    with pytest.raises(SendError) as caught:
        conn.send_segments(trains)
    error = caught.value
    assert (error.errno, error.unsent, list(error.errors)) == (errno.EMSGSIZE, [], [0])
    part = error.errors[0]
    assert part.errno == errno.EMSGSIZE
    if rest:
        assert isinstance(part, SendError)
        assert (part.sent, part.unsent, list(part.errors)) == (1, [], [0])
    assert error.sent == (2 if rest else 1)
    assert peer.collect(error.sent) == ([b"tail", b"b"] if rest else [b"b"])


@needs_ipv6
def test_a_train_as_long_as_ipv6_allows_is_cut_for_ipv4(peer: PlainPeer) -> None:
    data = patterned(65527)
    with open_conn(("::", 0)) as conn, PlainPeer("::1") as other:
        for to in (peer, other):
            address = (HOST, to.address[1]) if to is peer else to.address
            assert conn.send_segments([Segments(data, 1400, address)]) == 47
            assert to.collect(47) == cut(data, 1400)
        if conn.offload.max_segments >= 64:
            assert conn.stats().send_messages == 3
