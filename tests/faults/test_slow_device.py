"""A device that is slower than the sender: a full socket (EAGAIN), a full queue (ENOBUFS).

tbf lets v0 send next to nothing until it is opened, so that what a call does when there is
no room needs no luck with the time.  What had to wait arrives once it is open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Final

import pytest

from batching import Conn, Segments, SendBlocked, SendError, SendTimeout, open_conn
from ends import Ends, codes, ends_on
from ends import net as net
from loopback import PATIENCE_S, PlainPeer, needs_gso, needs_ipv6, needs_room, start, until
from netns import Link, needs_command, needs_netns
from numbered import Batch, assert_arrived, failed, number, numbered, send, taken, unsent

pytestmark = [
    needs_netns,
    needs_command("tc"),
    needs_gso,
    needs_ipv6,
    needs_room,
    pytest.mark.kernel,
]

SEND_BUFFER: Final = 20_000  # bytes; the kernel doubles it
# Level and option: include/uapi/linux/in.h and in6.h.
RECVERR: Final = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}
TRAINS: Final = [1000] * 400
SINGLES: Final = list(range(300, 700))  # no two in a train, since each is longer than the last
SHORT_TRAINS: Final = ([1000] * 10 + [10]) * 36  # shorter than the queue
SIZES: Final = [pytest.param(TRAINS, id="trains"), pytest.param(SINGLES, id="singles")]


class Slow:
    """Ends with a device that sends next to nothing, until it is opened."""

    def __init__(self, ends: Ends, stack: contextlib.ExitStack) -> None:
        self.ends, self.net, self.conn = ends, ends.net, ends.conn
        self.far, self.other = ends.far, ends.other
        with self.net.left:
            self.source = stack.enter_context(PlainPeer(ends.local[0]))
        with self.net.right:
            self._last = stack.enter_context(PlainPeer(ends.far.address[0]))
        stack.callback(self.net.left.run, "tc", "qdisc", "del", "dev", "v0", "root")

    def fill_the_socket(self) -> None:
        """Let the socket block: it has little room, and the queue has much."""
        self._set_option(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.net.shape("8kbit")

    def fill_the_queue(self, *, is_told: bool) -> None:
        """Let the device's queue be full soon; the kernel tells who wants to hear of it."""
        self._set_option(*RECVERR[self.ends.version], int(is_told))
        self.net.shape("8kbit", burst=70_000, limit=20_000)  # a train passes, no second one

    def _set_option(self, level: int, name: int, value: int) -> None:
        with socket.socket(fileno=os.dup(self.conn.fileno())) as twin:
            twin.setsockopt(level, name, value)

    def open(self) -> None:
        """Let all that waits go out; return when it has arrived."""
        self.net.shape("1gbit", burst=100_000)
        self.flush()

    def flush(self) -> None:
        self.source.send(self._last.address, b"last")
        assert self._last.collect(1) == [b"last"]

    def batch(self, sizes: list[int]) -> Batch:
        return numbered(
            [size for size in sizes for _ in "ab"], self.far.address, self.other.address
        )

    def assert_arrived(self, batch: Batch) -> None:
        self.flush()
        assert_arrived(batch, self.far, self.other)


@pytest.fixture(
    params=[pytest.param(4, id="ipv4"), pytest.param(6, id="ipv6", marks=pytest.mark.slow)]
)
def slow(request: pytest.FixtureRequest, net: Link) -> Iterator[Slow]:
    with ends_on(net, request.param) as ends, contextlib.ExitStack() as stack:
        yield Slow(ends, stack)


def has_room(conn: Conn) -> bool:
    return bool(select.select([], [conn], [], 0)[1])


def start_blocked(slow: Slow, batch: Batch) -> Future[SendError | None]:
    """Send in a thread; return when some of it went out, and the rest has to wait."""
    slow.fill_the_socket()
    sending = start(send, slow.conn, batch)
    until(lambda: slow.conn.stats().send_datagrams and not has_room(slow.conn))
    assert not sending.done()
    return sending


# A full socket


@pytest.mark.parametrize("sizes", SIZES)
def test_a_full_socket_is_waited_for(slow: Slow, sizes: list[int]) -> None:
    batch = slow.batch(sizes)
    sending = start_blocked(slow, batch)
    slow.open()
    assert sending.result(PATIENCE_S) is None
    slow.assert_arrived(batch)
    assert slow.conn.stats().gso_fallbacks == {}


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
def test_a_slow_device_that_goes_on_gets_all(slow: Slow, sizes: list[int]) -> None:
    slow.fill_the_socket()
    slow.net.shape("8mbit", burst=10_000)
    batch = slow.batch(sizes)
    assert send(slow.conn, batch) is None
    slow.assert_arrived(batch)


def give_up_at_once(conn: Conn) -> type[SendError]:
    conn.settimeout(0)
    return SendBlocked


def give_up_soon(conn: Conn) -> type[SendError]:
    conn.settimeout(0.02)
    return SendTimeout


def give_up_at_a_time(conn: Conn) -> type[SendError]:
    conn.set_write_deadline(time.monotonic() + PATIENCE_S / 40)  # 0.5 s, where not emulated
    return SendTimeout


def give_up_late(conn: Conn) -> None:
    conn.set_write_deadline(time.monotonic() + PATIENCE_S)


GIVE_UP: Final = [give_up_at_once, give_up_soon, give_up_at_a_time]


def give_up_never(conn: Conn) -> None:
    conn.settimeout(None)
    conn.set_write_deadline(None)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("give_up", GIVE_UP)
def test_who_gives_up_is_told_what_was_sent_and_sends_the_rest(
    slow: Slow, give_up: Callable[[Conn], type[SendError]], sizes: list[int]
) -> None:
    slow.fill_the_socket()
    batch = slow.batch(sizes)
    kind = give_up(slow.conn)
    error = send(slow.conn, batch)
    assert type(error) is kind
    assert 0 < error.sent < len(batch)
    assert error.errors == {}
    slow.open()
    slow.assert_arrived(taken(batch, error))
    give_up_never(slow.conn)
    assert send(slow.conn, unsent(batch, error)) is None
    slow.assert_arrived(unsent(batch, error))


@pytest.mark.parametrize("sizes", SIZES)
def test_going_on_with_what_is_unsent_completes_the_list(slow: Slow, sizes: list[int]) -> None:
    slow.fill_the_socket()
    slow.conn.settimeout(0)
    batch = left = slow.batch(sizes)
    n_calls = 0
    while error := send(slow.conn, left):
        assert isinstance(error, SendBlocked)
        left = unsent(left, error)
        if not n_calls:
            slow.net.shape("80mbit", burst=10_000)
            slow.flush()
        n_calls += 1
        assert select.select([], [slow.conn], [], PATIENCE_S)[1]
    assert n_calls  # two or more, but for a machine as slow as the device
    slow.assert_arrived(batch)


def test_a_deadline_set_meanwhile_ends_the_wait(slow: Slow) -> None:
    batch = slow.batch(SINGLES)
    sending = start_blocked(slow, batch)
    slow.conn.set_write_deadline(time.monotonic())
    error = sending.result(PATIENCE_S)
    assert type(error) is SendTimeout
    slow.open()
    slow.assert_arrived(taken(batch, error))


def test_close_meanwhile_tells_what_was_sent(slow: Slow) -> None:
    batch = slow.batch(SINGLES)
    sending = start_blocked(slow, batch)
    slow.conn.close()
    error = sending.result(PATIENCE_S)
    assert error
    assert (error.errno, error.errors) == (errno.EBADF, {})
    assert 0 < error.sent < len(batch)
    slow.open()
    slow.assert_arrived(taken(batch, error))


def test_trains_that_have_to_wait_are_told_by_their_index(slow: Slow) -> None:
    slow.fill_the_socket()
    slow.conn.settimeout(0)
    batch = numbered([1000] * 200, slow.far.address)
    trains = [
        Segments(b"".join(data for data, _ in batch[i : i + 20]), 1000, slow.far.address)
        for i in range(0, len(batch), 20)
    ]
    with pytest.raises(SendBlocked) as caught:
        slow.conn.send_segments(trains)
    error = caught.value
    n_sent = len(trains) - len(error.unsent)
    assert (error.sent, list(error.unsent)) == (20 * n_sent, list(range(n_sent, len(trains))))
    slow.open()
    slow.assert_arrived(batch[: 20 * n_sent])
    slow.conn.settimeout(None)
    assert slow.conn.send_segments([trains[i] for i in error.unsent]) == 200 - error.sent
    slow.assert_arrived(batch[20 * n_sent :])


@contextlib.contextmanager
def small_mtu(slow: Slow) -> Iterator[None]:
    route = f"{slow.far.address[0]} dev v0 mtu 1300"
    slow.net.left.ip(f"route add {route}")
    try:
        yield
    finally:
        slow.net.left.ip(f"route del {route}")


def test_a_refused_train_that_has_to_wait_is_told_datagram_by_datagram(slow: Slow) -> None:
    batch = numbered([1400] * 40, slow.far.address)
    whole = Segments(b"".join(data for data, _ in batch), 1400, slow.far.address)
    slow.fill_the_socket()
    slow.conn.settimeout(0)
    with small_mtu(slow):
        with pytest.raises(SendBlocked) as caught:
            slow.conn.send_segments([whole])
        part = caught.value.errors[0]
        assert isinstance(part, SendBlocked)
        assert 0 < part.sent == caught.value.sent < len(batch)
        assert list(part.unsent) == list(range(part.sent, len(batch)))
        assert (part.errors, caught.value.unsent) == ({}, [])
        slow.open()
        slow.assert_arrived(taken(batch, part))
        slow.conn.settimeout(None)
        assert send(slow.conn, unsent(batch, part)) is None
        slow.assert_arrived(unsent(batch, part))


# A full queue


@pytest.mark.parametrize("give_up", [give_up_never, give_up_at_once, give_up_late])
@pytest.mark.parametrize("sizes", SIZES)
def test_what_finds_no_room_in_the_queue_is_told_and_did_not_go(
    slow: Slow, sizes: list[int], give_up: Callable[[Conn], object]
) -> None:
    slow.fill_the_queue(is_told=True)
    give_up(slow.conn)
    batch = slow.batch(sizes)
    error = send(slow.conn, batch)
    assert type(error) is SendError  # whether it may wait or not: it is not the socket
    assert (codes(error), error.unsent) == ({errno.ENOBUFS}, [])
    assert 0 < error.sent < len(batch)
    slow.open()
    slow.assert_arrived(taken(batch, error))
    assert slow.conn.stats().gso_fallbacks == {}
    give_up_never(slow.conn)
    assert send(slow.conn, failed(batch, error)) is None
    slow.assert_arrived(failed(batch, error))


def test_a_full_queue_costs_other_devices_nothing(slow: Slow) -> None:
    slow.fill_the_queue(is_told=True)
    with slow.net.left, PlainPeer(slow.ends.local[0]) as near:
        batch = numbered(TRAINS, slow.far.address, near.address)
        error = send(slow.conn, batch)
        assert error
        assert {to for _, to in failed(batch, error)} == {slow.far.address}
        slow.open()
        slow.flush()
        assert_arrived(taken(batch, error), slow.far, near)


@pytest.mark.parametrize("sizes", [pytest.param(SHORT_TRAINS, id="trains"), SIZES[1]])
def test_who_does_not_ask_is_not_told_as_with_a_plain_socket(slow: Slow, sizes: list[int]) -> None:
    slow.fill_the_queue(is_told=False)
    assert send(slow.conn, numbered(sizes, slow.far.address)) is None
    slow.source.send(slow.far.address, *[data for data, _ in numbered([1000] * 50, (), first=1000)])
    slow.open()
    arrived = received(slow.far)
    assert arrived == sorted(set(arrived))  # none twice, none overtaken
    assert 0 < sum(i < 1000 for i in arrived) < len(sizes)
    assert sum(i >= 1000 for i in arrived) < 50  # of those of the plain socket
    assert slow.conn.stats().send_errors == 0


def received(peer: PlainPeer) -> list[int]:
    """Return the numbers of what has come."""
    numbers = []
    while select.select([peer.sock], [], [], 0)[0]:
        numbers.append(number(peer.sock.recv(65536)))
    return numbers


@pytest.mark.parametrize("remedy", ["none", "gso", "max_segments"])
def test_a_train_longer_than_the_queue_is_lost_untold_unless_trains_are_made_shorter(
    slow: Slow, remedy: str
) -> None:
    """The kernel drops it whole and says nothing, unless asked to: docs/design.md, Faults."""
    slow.net.shape("1gbit", burst=100_000, limit=20_000)
    batch = numbered([1000] * 60, slow.far.address)
    slow.source.send(slow.far.address, *[data for data, _ in batch])
    slow.assert_arrived(batch)  # of a plain socket, each of them
    with (
        slow.net.left,
        open_conn(
            (slow.source.address[0], 0),
            gso="off" if remedy == "gso" else "auto",
            max_segments=10 if remedy == "max_segments" else None,
        ) as conn,
    ):
        assert send(conn, batch) is None
        slow.flush()
        arrived = received(slow.far)
    assert arrived == ([] if remedy == "none" else [number(data) for data, _ in batch])


def test_a_train_longer_than_the_queue_goes_out_singly_where_errors_are_asked_for(
    slow: Slow,
) -> None:
    slow.fill_the_queue(is_told=True)
    slow.net.shape("1gbit", burst=100_000, limit=20_000)
    batch = numbered([1000] * 60, slow.far.address)
    assert send(slow.conn, batch) is None
    slow.assert_arrived(batch)
    assert slow.conn.stats().send_trains == 0


def test_a_datagram_for_which_the_socket_is_too_small_costs_itself(slow: Slow) -> None:
    slow.fill_the_socket()
    slow.net.shape("1gbit", burst=100_000)
    batch = numbered([100, 60_000, 200, 300], slow.far.address)
    with (
        socket.socket(fileno=os.dup(slow.conn.fileno())) as plain,
        pytest.raises(OSError) as caught,  # noqa: PT011 - which one is the kernel's choice
    ):
        plain.sendto(bytes(60_000), slow.far.address)
    error = send(slow.conn, batch)
    assert error
    assert {i: each.errno for i, each in error.errors.items()} == {1: caught.value.errno}
    slow.assert_arrived(taken(batch, error))
