"""disable_gso: no train goes to who was named, whatever is learnt, forgotten or pushed out."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from batching import Conn, Segments, open_conn
from fake_core import scene
from loopback import ANY_PORT, PATIENCE_S, needs_gso, needs_ipv6, needs_whole_trains
from seam_rig import A, B

pytestmark = [pytest.mark.kernel, needs_gso]

DATA = [bytes([i]) * 100 for i in range(20)]


@pytest.fixture
def others() -> Iterator[list[Conn]]:
    """Give two connections that take trains whole, as a destination that shows them."""
    with open_conn(ANY_PORT) as one, open_conn(ANY_PORT) as two:
        for conn in (one, two):
            conn.settimeout(PATIENCE_S)
        yield [one, two]


def lengths(conn: Conn) -> list[int]:
    """Return how many datagrams each message had that came; those of DATA must have."""
    trains: list[Segments] = []
    while sum(map(len, trains)) < len(DATA):
        trains += conn.recv_segments()
    assert [data for train in trains for data in train.tolist()] == DATA
    return [len(train) for train in trains]


def send(conn: Conn, *to: Any) -> None:
    assert conn.send_batch([(data, addr) for data in DATA for addr in to]) == 20 * len(to)


@needs_whole_trains
def test_datagrams_arrive_singly_at_who_was_named_and_in_trains_elsewhere(
    conn: Conn, others: list[Conn]
) -> None:
    one, two = (other.local_addr() for other in others)
    send(conn, one, two)
    assert [lengths(other) for other in others] == [[20], [20]]
    conn.disable_gso(one)
    for _ in range(2):
        send(conn, one, two)
        assert [lengths(other) for other in others] == [[1] * 20, [20]]
    assert conn.send_segments([Segments(b"".join(DATA), 100, one)]) == 20
    assert lengths(others[0]) == [1] * 20
    conn.write_batch_to(DATA, one)
    assert lengths(others[0]) == [1] * 20
    assert conn.stats().gso_fallbacks == {}


@needs_whole_trains
def test_none_means_all_that_are_there_and_all_that_come(conn: Conn, others: list[Conn]) -> None:
    send(conn, others[0].local_addr())
    lengths(others[0])
    conn.disable_gso()
    send(conn, *[other.local_addr() for other in others])
    assert [lengths(other) for other in others] == [[1] * 20] * 2
    told = conn.offload
    assert (told.gso, told.max_segments, told.gso_disabled) == (False, 1, ())
    assert told.reasons[-1] == "gso: switched off by disable_gso, for all"
    assert "max_segments=1 " in repr(conn)


@needs_whole_trains
def test_none_means_the_connected_one(others: list[Conn]) -> None:
    one, two = others
    with open_conn(remote_addr=one.local_addr()) as conn:
        conn.disable_gso()
        send(conn, None)
        assert lengths(one) == [1] * 20
        send(conn, two.local_addr())
        assert lengths(two) == [20]
        assert conn.offload.gso_disabled == (one.local_addr(),)
        assert conn.offload.gso


def test_offload_tells_for_whom(conn: Conn) -> None:
    before = conn.offload
    assert before.gso_disabled == ()
    for addr in (A, B, A):
        conn.disable_gso(addr)
    told = conn.offload
    assert told.gso_disabled == (A, B)
    assert told.reasons == (*before.reasons, "gso: switched off by disable_gso, destinations: 2")
    assert (told.gso, told.max_segments) == (True, before.max_segments)


@needs_ipv6
def test_two_spellings_of_an_address_are_one() -> None:
    with open_conn(("::", 0)) as conn:
        conn.disable_gso(("127.0.0.1", 9))
        conn.disable_gso(("::ffff:127.0.0.1", 9, 0, 0))
        assert conn.offload.gso_disabled == (("::ffff:127.0.0.1", 9, 0, 0),)


@pytest.mark.parametrize("addr", [A, None], ids=["one", "all"])
def test_others_push_nobody_out_who_was_named(backend: Any, addr: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64)
    before = peers.get(A)
    peers.disable_gso(addr)
    for i in range(5000):
        other = peers.get((f"10.0.{i // 250}.{i % 250}", 9))
        peers.get(other.address)  # again: used, so that even who is used is pushed out
        assert other.max_segments == (64 if addr else 1)
    assert len(peers) <= 2048
    for _ in range(2):
        assert peers.get(("127.0.0.1", A[1])).max_segments == 1
    assert before.max_segments == 1
    assert peers.gso_disabled == ([A] if addr else [])


def test_who_was_pushed_out_before_it_was_named_is_spared_where_it_is_found(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64, 2)
    peers.get(A)
    for port in range(1, 50):
        peers.get(("10.0.0.1", port))
    peers.disable_gso(A)
    assert peers.get(A).max_segments == 1


def test_nothing_that_is_written_lifts_it(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64)
    peers.disable_gso(A)
    peers.get(A).max_segments = 64
    assert peers.get(A).max_segments == 1


def test_what_is_learnt_and_forgotten_does_not_bring_trains_back(backend: Any) -> None:
    def too_large(_address: Any, segment_size: int) -> int:
        return errno.EMSGSIZE if segment_size > 500 else 0

    with scene(backend, rule=too_large) as on:
        on.send([(bytes(1000), on.a)] * 3)
        assert on.learnt(on.a) == (64, 999)
        on.conn.disable_gso(on.a)
        on.clock.now += 31
        on.send([(b"", on.b)])
        assert not on.conn._sender.lessons.learnt
        assert on.learnt(on.a) == (1, 65535)
        assert on.send([(bytes(1000), on.a)] * 3) is None
        assert len(on.kernel.refused) == 1


@pytest.mark.parametrize(
    ("addr", "error"),
    [
        (("localhost", 9), ValueError),
        (("127.0.0.1", 70000), ValueError),
        (("::1", 9), ValueError),
        (("127.0.0.1",), TypeError),
        ("127.0.0.1", TypeError),
        (9, TypeError),
    ],
)
def test_an_address_that_is_none_is_refused(conn: Conn, addr: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        conn.send_batch([(b"", addr)])
    with pytest.raises(error):
        conn.disable_gso(addr)
    assert conn.offload.gso_disabled == ()


def test_a_closed_conn_refuses_and_tells_still() -> None:
    with open_conn(ANY_PORT) as conn:
        conn.disable_gso(A)
    with pytest.raises(OSError, match="descriptor") as caught:
        conn.disable_gso(B)
    assert caught.value.errno == errno.EBADF
    assert conn.offload.gso_disabled == (A,)


@pytest.mark.slow
def test_the_65537th_destination_is_refused(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64)
    for port in range(1, 65536):
        peers.disable_gso(("127.0.0.1", port))
    peers.disable_gso(("127.0.0.2", 1))
    with pytest.raises(ValueError, match="65536 destinations, at most 65536"):
        peers.disable_gso(("127.0.0.2", 2))
    peers.disable_gso(("127.0.0.2", 1))  # is among them
    peers.disable_gso(None)  # needs no room
    assert len(peers.gso_disabled) == 65536
    assert len(peers) <= 2048
    assert peers.get(("127.0.0.2", 2)).max_segments == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads, of pytest's
@needs_whole_trains
def test_a_forked_child_heeds_it_too(conn: Conn, others: list[Conn]) -> None:
    one, two = (other.local_addr() for other in others)
    conn.disable_gso(one)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            conn.disable_gso(two)
            send(conn, one, two)
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [lengths(other) for other in others] == [[1] * 20] * 2
    assert conn.offload.gso_disabled == (one,)


def test_newcomers_while_it_is_disabled_for_all_are_spared(backend: Any) -> None:
    for _ in range(20):
        peers = backend.Peers(socket.AF_INET, False, 64)
        begun = threading.Event()

        def come(peers: Any = peers, begun: threading.Event = begun) -> None:
            for port in range(1, 1500):
                peers.get(("127.0.0.1", port))
                if port == 100:
                    begun.set()

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        thread = threading.Thread(target=come)
        try:
            thread.start()
            begun.wait(PATIENCE_S)
            peers.disable_gso(None)
        finally:
            thread.join()
            sys.setswitchinterval(interval)
        assert {peers.get(("127.0.0.1", port)).max_segments for port in range(1, 1500)} == {1}
