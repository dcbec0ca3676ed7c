"""What comes beside the payload: its time, and that all of it together disturbs nothing."""

from __future__ import annotations

import contextlib
import copy
import socket
import struct
import time
from collections.abc import Iterator
from typing import Final

import pytest

from batching import (
    Conn,
    Message,
    Segments,
    SendError,
    min_control_message_size,
    open_conn,
)
from batching._kernel import (
    IP_PKTINFO,
    IP_TOS,
    IPV6_PKTINFO,
    IPV6_TCLASS,
    SO_TIMESTAMPNS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_GRO,
)
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    assert_nothing_left,
    needs_gso,
    needs_linux,
    needs_whole_trains,
    start_reader,
    until,
)
from marks import EVERYTHING, MarkedPeer, Way, each_way, opened, receive

pytestmark = [pytest.mark.kernel, needs_linux]

DSCP: Final = 0b101110 << 2  # EF


@pytest.fixture
def everything() -> Iterator[Conn]:
    """Give a connection on loopback that tells everything."""
    with open_conn(ANY_PORT, **EVERYTHING) as conn:
        conn.settimeout(PATIENCE_S)
        yield conn


@needs_gso
@each_way
def test_a_timestamp_lies_between_two_looks_at_the_clock(way: Way) -> None:
    with opened(way, timestamps=True) as conn, PlainPeer(way.host) as peer:
        before = time.time_ns()
        peer.send_train((way.host, conn.local_addr()[1]), bytes(300), 100)
        trains = receive(conn, 3)
        after = time.time_ns()
        # The kernel's clock, and not ours, may be stepped on the way: by a second at most.
        for train in trains:
            assert train.timestamp_ns is not None
            assert before - 10**9 <= train.timestamp_ns <= after + 10**9


def test_a_timestamp_is_of_arrival_and_not_of_the_call(everything: Conn, peer: PlainPeer) -> None:
    peer.send(everything.local_addr(), b"first")
    between = time.time_ns()
    until_later = between + 2_000_000
    while time.time_ns() < until_later:
        pass
    peer.send(everything.local_addr(), b"second")
    first, second = (train.timestamp_ns for train in receive(everything, 2))
    assert first is not None
    assert second is not None
    assert second - first >= 2_000_000 - 1_000_000


def test_what_is_not_switched_on_is_not_told(conn: Conn, peer: PlainPeer) -> None:
    conn.settimeout(PATIENCE_S)
    peer.send(conn.local_addr(), b"a")
    [train] = conn.recv_segments()
    told = (train.ecn, train.local_addr, train.interface, train.timestamp_ns)
    assert told == (None, None, None, None)


@needs_whole_trains
@each_way
def test_with_everything_on_nothing_is_cut_off(way: Way) -> None:
    with opened(way, rxq_overflows_metric_name="cut", receive_buffer=20_000, **EVERYTHING) as conn:
        to = (way.host, conn.local_addr()[1])
        with MarkedPeer(way.host) as peer:
            for _ in range(300):
                peer.send(to, bytes(200))  # more than there is room for: SO_RXQ_OVFL is told too
            messages = [Message([bytearray(2000)], bytearray(min_control_message_size()))] * 1
            while conn.read_batch(messages) and (conn.pending or _is_readable(conn)):
                pass
            peer.send_marked(to, bytes(1000), 300, DSCP | 1)
            assert conn.read_batch(messages) == 1
        told = parsed(bytes(messages[0].oob)[: messages[0].nn])
        assert told[SOL_UDP, UDP_GRO] == struct.pack("=i", 300)
        assert struct.unpack("=I", told[socket.SOL_SOCKET, 40])[0] > 0
        seconds, _ = struct.unpack("@ll", told[socket.SOL_SOCKET, SO_TIMESTAMPNS])
        assert abs(seconds - time.time()) < 60
        is_ipv4 = way.host == HOST
        if is_ipv4:
            assert told[SOL_IP, IP_TOS] == bytes([DSCP | 1])
            assert told[SOL_IP, IP_PKTINFO][-4:] == socket.inet_aton(HOST)
        else:
            assert told[SOL_IPV6, IPV6_TCLASS] == struct.pack("=i", DSCP | 1)
        if way.local == "::":
            host = socket.inet_pton(socket.AF_INET6, way.told)
            assert told[SOL_IPV6, IPV6_PKTINFO][:16] == host
        assert not messages[0].flags
        assert conn.stats().recv_control_truncated == 0


def _is_readable(conn: Conn) -> bool:
    conn.settimeout(0)
    try:
        return bool(conn.recv_batch(1))
    except BlockingIOError:
        return False
    finally:
        conn.settimeout(PATIENCE_S)


def parsed(control: bytes) -> dict[tuple[int, int], bytes]:
    """Take control bytes apart, as the C macros do."""
    found, at = {}, 0
    while at + 16 <= len(control):
        length, level, kind = struct.unpack_from("@Nii", control, at)
        found[level, kind] = control[at + 16 : at + length]
        at += socket.CMSG_SPACE(length - 16)
    return found


@needs_gso
def test_the_other_ways_of_receiving_are_as_they_were(everything: Conn, peer: PlainPeer) -> None:
    messages = [Message([bytearray(200)], bytearray(min_control_message_size())) for _ in range(3)]
    peer.send_train(everything.local_addr(), b"abcde", 2)
    assert everything.recv_batch() == [(data, peer.address) for data in (b"ab", b"cd", b"e")]
    peer.send_train(everything.local_addr(), b"abcde", 2)
    n = 0
    while n < 3:
        n += everything.read_batch(messages[n:])
    assert [bytes(message.data) for message in messages] == [b"ab", b"cd", b"e"]
    assert not any(message.flags for message in messages)
    assert_nothing_left(everything)


@needs_whole_trains
def test_the_rest_of_a_train_keeps_what_it_came_with(everything: Conn) -> None:
    with MarkedPeer() as peer:
        for ecn in (1, 2):
            peer.send_marked(everything.local_addr(), bytes([ecn]) * 500, 100, ecn)
        assert len(everything.recv_batch(2)) == 2
        trains: list[Segments] = []
        while sum(len(train) for train in trains) < 8:
            trains += everything.recv_segments()
        assert [(len(train), train.ecn, train.data[0]) for train in trains] == [
            (3, 1, 1),
            (5, 2, 2),
        ]
        assert {train.local_addr for train in trains} == {everything.local_addr()}
        assert trains[0].timestamp_ns <= trains[1].timestamp_ns  # type: ignore[operator]


def test_a_copy_of_a_train_has_all_that_it_has(everything: Conn) -> None:
    with MarkedPeer() as peer:
        peer.send_marked(everything.local_addr(), b"abc", 3, 2)
        [train] = everything.recv_segments()
        twin = copy.copy(train)
        names = ("addr", "local_addr", "interface", "ecn", "timestamp_ns", "truncated", "data")
        assert [getattr(twin, name) for name in names] == [getattr(train, name) for name in names]
        assert twin.timestamp_ns
        assert twin.interface
        # Where it came in is not where it has to leave, which a copy knows too.
        twin.interface = 4711
        with pytest.raises(SendError):
            everything.send_segments([copy.copy(twin)])
        assert everything.send_segments([copy.copy(train)]) == 1
        assert [(each.data, each.tos) for each in peer.hear(1)] == [(b"abc", 2)]


def test_kept_trains_keep_what_they_came_with(everything: Conn) -> None:
    with MarkedPeer() as peer:
        kept = []
        for i in range(100):
            size = 10 if i % 2 else 8000  # copied out, or a view
            peer.send_marked(everything.local_addr(), bytes([i]) * size, size, i % 4)
            kept += everything.recv_segments()
        assert [(train.data[0], train.ecn) for train in kept] == [(i, i % 4) for i in range(100)]
        times = [train.timestamp_ns or 0 for train in kept]
        assert times == sorted(times)


def test_several_threads_tell_each_what_it_got() -> None:
    with open_conn(("0.0.0.0", 0), **EVERYTHING) as conn, MarkedPeer() as peer:
        conn.settimeout(PATIENCE_S)
        port = conn.local_addr()[1]

        def read() -> None:
            with contextlib.suppress(OSError):  # EBADF: closed
                while True:
                    trains = conn.recv_segments()
                    found.extend((train.data[0], train.ecn, train.local_addr) for train in trains)

        found: list[tuple[int, int | None, object]] = []
        readers = [start_reader(conn, read) for _ in range(3)]
        for i in range(200):
            peer.send_marked((f"127.0.0.{i % 7 + 1}", port), bytes([i]) * 50, 50, i % 4)
        until(lambda: len(found) == 200)
        conn.close()
        for reader in readers:
            reader.result(PATIENCE_S)
        expected = [(i, i % 4, (f"127.0.0.{i % 7 + 1}", port)) for i in range(200)]
        assert sorted(found, key=lambda each: each[0]) == expected


def test_trains_that_are_sent_on_cost_no_wish(everything: Conn, peer: PlainPeer) -> None:
    """Where a train came in is told, and is none of its wishes: no PKTINFO of an interface."""
    train = Segments(b"a", 1, peer.address)
    assert not train._is_way_out
    train.interface = 1
    assert train._is_way_out
    train.interface = None
    assert not train._is_way_out
    peer.send(everything.local_addr(), b"b")
    [received] = everything.recv_segments()
    assert received.interface
    assert not received._is_way_out
