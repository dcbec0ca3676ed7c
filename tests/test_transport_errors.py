"""Transport errors: what the network says reaches who asks for it, and costs nobody else.

The errors are ICMP's of closed ports on loopback; those of routers are in
tests/faults/test_routers.py, what the kernel here does not do in
tests/test_transport_errors_scripted.py.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import pytest

from batching import Conn, Segments, TransportError, open_conn
from batching._errqueue import MAX_WAITING, parse_error
from loopback import (
    HOST,
    PATIENCE_S,
    Address,
    PlainPeer,
    assert_nothing_left,
    dead_address,
    gather,
    messages,
    needs_ipv6,
    needs_linux,
    needs_room,
    start,
    start_reader,
    until,
)

pytestmark = [needs_linux, pytest.mark.kernel]

MAPPED: Final = f"::ffff:{HOST}"
PORT_UNREACHABLE: Final = {HOST: ("icmp", 3, 3), "::1": ("icmp6", 1, 4), MAPPED: ("icmp", 3, 3)}
HOSTS: Final = [
    pytest.param(HOST, id="ipv4"),
    pytest.param("::1", id="ipv6", marks=needs_ipv6),
    pytest.param(MAPPED, id="mapped", marks=needs_ipv6),
]


class Stand(NamedTuple):
    """A Conn that collects errors, a peer that is alive, and the address of one that is not."""

    conn: Conn
    peer: PlainPeer
    dead: Address

    def send_to_the_dead(self, n: int = 1) -> None:
        for _ in range(n):
            assert self.conn.send_batch([(b"nobody is there", self.dead)]) == 1

    def error(self) -> TransportError:
        host, _, *rest = self.dead
        origin = PORT_UNREACHABLE[host]
        return TransportError(errno.ECONNREFUSED, *origin, None, self.dead, (host, 0, *rest))


@contextlib.contextmanager
def stand(host: str = HOST, **options: Any) -> Iterator[Stand]:
    local = ("::" if host == MAPPED else host, 0)
    with open_conn(local, transport_errors=True, **options) as conn, PlainPeer(host) as peer:
        yield Stand(conn, peer, dead_address(host))


@pytest.fixture(params=HOSTS)
def at(request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Give a stand in each version of IP, and in IPv4 on a socket of IPv6."""
    with stand(request.param) as at:
        yield at


def events_of(conn: Conn) -> int:
    """Return what poll tells: all that may be asked while another thread reads."""
    poller = select.poll()
    poller.register(conn, 0)
    return sum(found for _, found in poller.poll(0))


def polled(conn: Conn) -> int:
    """Return the events of errors that poll tells; select and epoll must tell alike."""
    epoll = select.epoll()
    with contextlib.closing(epoll):
        epoll.register(conn, 0)
        events = events_of(conn)
        assert sum(found for _, found in epoll.poll(0)) == events
        assert bool(select.select([conn], [], [], 0)[0]) == bool(events)
    return events


# What is told


def test_a_closed_port_is_told_with_both_addresses(at: Stand) -> None:
    assert at.conn.recv_transport_errors() == []
    at.send_to_the_dead()
    assert at.conn.recv_transport_errors() == [at.error()]
    assert at.conn.recv_transport_errors() == []


def test_errors_are_told_in_order(at: Stand) -> None:
    other = dead_address(at.dead[0])
    for to in (at.dead, other, at.dead):
        at.conn.send_batch([(b"x", to)])
    assert [error.addr for error in at.conn.recv_transport_errors()] == [at.dead, other, at.dead]


def test_a_connected_one_is_told_and_its_calls_raise_nothing() -> None:
    dead = dead_address()
    with open_conn(remote_addr=dead, transport_errors=True) as conn:
        for _ in range(3):
            assert conn.write_to_udp_addr_port(b"x", None) == 1
        conn.settimeout(0)
        with pytest.raises(BlockingIOError):
            conn.recv_batch()
        assert [error.addr for error in conn.recv_transport_errors()] == [dead] * 3


def test_a_datagram_too_large_is_told_once_as_of_this_machine(at: Stand) -> None:
    with pytest.raises(OSError, match="Message too long"):
        at.conn.write_to_udp_addr_port(bytes(65528), at.peer.address)
    (error,) = at.conn.recv_transport_errors()
    assert (error.errno, error.origin, error.type, error.code) == (errno.EMSGSIZE, "local", 0, 0)
    assert error.offender is None
    assert error.mtu == at.conn.path_mtu(at.peer.address)
    assert polled(at.conn) == 0


def test_what_nobody_asks_for_makes_room_and_is_counted() -> None:
    with stand() as at:
        at.send_to_the_dead(300)
        errors = at.conn.recv_transport_errors()
        assert errors == [at.error()] * MAX_WAITING
        assert at.conn.stats().transport_errors_lost == 300 - MAX_WAITING


def test_without_it_asking_is_an_error_and_nothing_is_collected(conn: Conn) -> None:
    conn.send_batch([(b"x", dead_address())])
    with pytest.raises(ValueError, match="transport_errors=True"):
        conn.recv_transport_errors()
    assert conn.stats().transport_errors_lost == 0
    assert polled(conn) == 0


def test_closed_it_tells_no_more() -> None:
    with stand() as at:
        at.send_to_the_dead(2)
        at.conn.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            at.conn.recv_transport_errors()
        assert at.conn.stats().transport_errors_lost == 0


# Nobody spins, whichever call is made


CALLS: Final[dict[str, Callable[[Stand], object]]] = {
    "recv_batch": lambda at: at.conn.recv_batch(),
    "recv_segments": lambda at: at.conn.recv_segments(),
    "read_batch": lambda at: at.conn.read_batch(messages(2)),
    "send_batch": lambda at: at.conn.send_batch([(b"a", at.peer.address)]),
    "send_segments": lambda at: at.conn.send_segments([Segments(b"ab", 1, at.peer.address)]),
    "write_batch_to": lambda at: at.conn.write_batch_to([b"a", b"b"], at.peer.address),
    "write_to": lambda at: at.conn.write_to_udp_addr_port(b"a", at.peer.address),
    "recv_transport_errors": lambda at: at.conn._waiter.drain_errors(),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("call", CALLS)
def test_any_call_empties_the_queue_and_keeps_what_was_in_it(at: Stand, call: str) -> None:
    at.conn.settimeout(0)
    at.send_to_the_dead()
    assert polled(at.conn) & select.POLLERR
    with contextlib.suppress(BlockingIOError):
        CALLS[call](at)
    assert polled(at.conn) == 0
    assert at.conn.recv_transport_errors() == [at.error()]


def test_an_error_that_sendmmsg_met_and_did_not_tell_is_not_left_in_the_queue(at: Stand) -> None:
    with PlainPeer(at.dead[0]) as other:
        batch = [(b"x", to) for to in (at.dead, at.peer.address, other.address)]
        assert at.conn.send_batch(batch) == 3
        assert at.peer.collect(1) == other.collect(1) == [b"x"]
    assert polled(at.conn) == 0
    assert at.conn.recv_transport_errors() == [at.error()]


@pytest.mark.parametrize("flags", [0, socket.MSG_DONTWAIT])
def test_a_queue_whose_pending_error_somebody_took_is_emptied_too(flags: int) -> None:
    with stand() as at:
        at.send_to_the_dead()
        assert at.conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        at.conn.settimeout(None if flags else 0)
        with pytest.raises(BlockingIOError):
            at.conn.read_batch(messages(1), flags)
        assert polled(at.conn) == 0
        assert at.conn.recv_transport_errors() == [at.error()]


def test_a_call_whose_time_is_up_has_not_been_busy_and_empties_the_queue() -> None:
    with stand() as at:
        at.send_to_the_dead()
        at.conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        at.conn.settimeout(0.05)
        with pytest.raises(TimeoutError):
            at.conn.recv_batch()
        assert at.conn.stats().recv_calls < 10
        assert polled(at.conn) == 0
        assert at.conn.recv_transport_errors() == [at.error()]


def test_a_blocked_receiver_hears_nothing_and_goes_on(at: Stand) -> None:
    at.conn.settimeout(PATIENCE_S)
    reader = start_reader(at.conn, at.conn.recv_batch)
    at.send_to_the_dead(5)
    until(lambda: events_of(at.conn) == 0)
    port = at.conn.local_addr()[1]
    at.peer.send((at.dead[0], port), b"alive")
    assert reader.result(PATIENCE_S) == [(b"alive", at.peer.address)]
    assert at.conn.recv_transport_errors() == [at.error()] * 5
    assert at.conn.stats().recv_calls < 50


def test_a_pending_error_does_not_hide_what_was_received(at: Stand) -> None:
    port = at.conn.local_addr()[1]
    at.peer.send((at.dead[0], port), b"alive")
    at.send_to_the_dead()
    assert gather(at.conn, 1) == [b"alive"]
    assert_nothing_left(at.conn)
    assert at.conn.recv_transport_errors() == [at.error()]


def test_closing_wakes_a_receiver_while_errors_wait() -> None:
    with stand() as at:
        reader = start_reader(at.conn, at.conn.recv_segments)
        at.send_to_the_dead(3)
        at.conn.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            reader.result(PATIENCE_S)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_goes_on_with_what_was_there() -> None:
    with stand() as at:
        at.send_to_the_dead(2)
        at.conn._waiter.drain_errors()  # type: ignore[union-attr]
        errors: Any = at.conn._waiter.errors  # type: ignore[union-attr]

        def fork_and_ask() -> int:
            child = os.fork()
            if child == 0:
                answer = 1
                try:
                    signal.alarm(int(PATIENCE_S))
                    answer = int(at.conn.recv_transport_errors() != [at.error()] * 2)
                finally:
                    os._exit(answer)
            return child

        with warnings.catch_warnings(), errors._lock:  # of which the child has no thread
            warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside a thread
            child = start(fork_and_ask).result(PATIENCE_S)
        assert os.waitpid(child, 0)[1] == 0
        assert at.conn.recv_transport_errors() == [at.error()] * 2


# The dead cost the living nothing


def _mixed(at: Stand, healthy: list[bytes]) -> None:
    pairs = [(data, to) for data in healthy for to in (at.dead, at.peer.address)]
    assert at.conn.send_batch(pairs) == 2 * len(healthy)


def _in_turn(at: Stand, healthy: list[bytes]) -> None:
    for data in healthy:
        at.conn.write_to_udp_addr_port(b"x", at.dead)
        assert at.conn.write_to_udp_addr_port(data, at.peer.address) == len(data)


def _trains(at: Stand, healthy: list[bytes]) -> None:
    for i in range(0, len(healthy), 10):
        train = Segments(b"".join(healthy[i : i + 10]), 8, at.peer.address)
        at.conn.send_segments([Segments(b"x" * 30, 3, at.dead), train])


def _batches_to_one(at: Stand, healthy: list[bytes]) -> None:
    for i in range(0, len(healthy), 10):
        at.conn.write_batch_to([b"x"] * 10, at.dead)
        at.conn.write_batch_to(healthy[i : i + 10], at.peer.address)


WAYS: Final = {
    "mixed": _mixed,
    "in turn": _in_turn,
    "trains": _trains,
    "batches to one": _batches_to_one,
}


def marked(thread: int, n: int) -> list[bytes]:
    return [struct.pack("!II", thread, i) for i in range(n)]


@needs_room
@pytest.mark.parametrize("way", WAYS)
def test_every_second_destination_is_dead_and_the_other_gets_all(at: Stand, way: str) -> None:
    healthy = marked(0, 300)
    WAYS[way](at, healthy)
    assert at.peer.collect(300) == healthy
    errors = at.conn.recv_transport_errors()
    assert errors
    assert set(errors) == {at.error()}
    assert at.conn.stats().send_errors == 0
    assert at.conn.stats().gso_fallbacks == {}


def test_single_datagrams_of_one_batch_arrive_too(at: Stand) -> None:
    others = [dead_address(at.dead[0]) for _ in range(40)]
    pairs = [(b"x", to) for to in others]
    pairs.insert(20, (b"alive", at.peer.address))
    at.conn.send_batch(pairs)  # no two to one destination: each is a message
    assert at.peer.collect(1) == [b"alive"]
    assert {error.addr for error in at.conn.recv_transport_errors()} == set(others)


@needs_room
@pytest.mark.parametrize("way", WAYS)
def test_four_threads_send_to_the_dead_and_the_living_get_all(way: str) -> None:
    n = 400
    with stand() as at, contextlib.ExitStack() as stack:
        stands = [
            at._replace(peer=stack.enter_context(PlainPeer()), dead=dead_address())
            for _ in range(4)
        ]
        sending = [start(WAYS[way], each, marked(thread, n)) for thread, each in enumerate(stands)]
        for future in sending:
            future.result(PATIENCE_S)
        for thread, each in enumerate(stands):
            assert each.peer.collect(n) == marked(thread, n)
        assert at.conn.stats().send_errors == 0
        at.conn.recv_transport_errors()
        assert polled(at.conn) == 0


# Entries are read as if they came from the network


def test_no_bytes_of_an_entry_are_believed() -> None:
    extended = struct.pack("=IBBBBII", errno.EMSGSIZE, 2, 3, 4, 0, 1280, 0)
    ours = struct.pack("=H2x4s8x", socket.AF_INET, bytes([10, 0, 0, 1]))
    whole = extended + ours
    found = parse_error(whole, (HOST, 9))
    assert found == (errno.EMSGSIZE, "icmp", 3, 4, 1280, (HOST, 9), ("10.0.0.1", 0))
    for n in range(len(whole)):
        cut = parse_error(whole[:n], (HOST, 9))
        if n < 16:
            assert cut is None
        else:
            assert cut is not None
            assert cut.offender == (("10.0.0.1", 0) if n >= 24 else None)
    for family in (0, 1, 255, 0xFFFF):
        odd = parse_error(extended + struct.pack("=H", family) + bytes(60), None)
        assert odd is not None
        assert (odd.addr, odd.offender) == (None, None)


def test_an_origin_that_is_not_known_is_told_by_its_number() -> None:
    error = parse_error(struct.pack("=IBBBBII", 5, 200, 1, 2, 0, 7, 0), None)
    assert error is not None
    assert (error.errno, error.origin, error.mtu) == (5, "200", None)
    assert not error.is_from_network


@needs_ipv6
def test_a_routers_scope_is_told() -> None:
    extended = struct.pack("=IBBBBII", errno.ENETUNREACH, 3, 1, 0, 0, 0, 0)
    router = socket.inet_pton(socket.AF_INET6, "fe80::1")
    data = extended + struct.pack("=H2x4x16sI", socket.AF_INET6, router, 7)
    error = parse_error(data, None)
    assert error is not None
    assert error.offender == ("fe80::1", 0, 0, 7)
