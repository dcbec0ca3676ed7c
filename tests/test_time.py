"""When calls end: timeouts, deadlines, non-blocking, and which of them wins."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Callable, Iterator

import pytest

from batching import Conn, Segments, SendBlocked, SendError, SendTimeout
from loopback import (
    PATIENCE_S,
    PlainPeer,
    gather,
    messages,
    needs_gso,
    needs_room,
    start_reader,
)

pytestmark = pytest.mark.kernel


def past() -> float:
    return time.monotonic() - 1


def future() -> float:
    return time.monotonic() + PATIENCE_S


RECEIVING: dict[str, Callable[[Conn], object]] = {
    "recv_batch": lambda conn: conn.recv_batch(),
    "recv_batch of 1": lambda conn: conn.recv_batch(1),
    "recv_segments": lambda conn: conn.recv_segments(),
    "read_batch": lambda conn: conn.read_batch(messages(1)),
}
SENDING: dict[str, Callable[[Conn], object]] = {
    "send_batch": lambda conn: conn.send_batch([(b"x", conn.local_addr())]),
    "send_segments": lambda conn: conn.send_segments([Segments(b"x", 1, conn.local_addr())]),
    "write_batch_to": lambda conn: conn.write_batch_to([b"x"], conn.local_addr()),
    "write_to_udp_addr_port": lambda conn: conn.write_to_udp_addr_port(b"x", conn.local_addr()),
}
receiving = pytest.mark.parametrize("call", RECEIVING.values(), ids=RECEIVING.keys())
sending = pytest.mark.parametrize("call", SENDING.values(), ids=SENDING.keys())


@receiving
def test_a_timeout_runs_from_the_call(conn: Conn, call: Callable[[Conn], object]) -> None:
    conn.settimeout(0.05)
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(TimeoutError) as caught:
            call(conn)
        assert caught.value.errno == errno.ETIMEDOUT
        assert 0.049 <= time.monotonic() - started < PATIENCE_S


@receiving
def test_non_blocking_raises_at_once(conn: Conn, call: Callable[[Conn], object]) -> None:
    conn.settimeout(0)
    with pytest.raises(BlockingIOError) as caught:
        call(conn)
    assert caught.value.errno == errno.EAGAIN


@receiving
def test_a_passed_deadline_raises_though_data_waits(
    conn: Conn, peer: PlainPeer, call: Callable[[Conn], object]
) -> None:
    peer.send(conn.local_addr(), b"x")
    conn.set_read_deadline(past())
    with pytest.raises(TimeoutError) as caught:
        call(conn)
    assert caught.value.errno == errno.ETIMEDOUT
    conn.set_read_deadline(None)
    assert gather(conn, 1) == [b"x"]


@needs_gso
@receiving
def test_a_passed_deadline_raises_though_datagrams_are_pending(
    conn: Conn, peer: PlainPeer, call: Callable[[Conn], object]
) -> None:
    peer.send_train(conn.local_addr(), b"abc", 1)
    assert len(conn.recv_batch(1)) == 1
    conn.set_deadline(past())
    with pytest.raises(TimeoutError):
        call(conn)
    assert conn.pending == 2
    conn.set_deadline(future())
    assert gather(conn, 2) == [b"b", b"c"]


@receiving
def test_a_new_deadline_ends_a_call_that_waits(conn: Conn, call: Callable[[Conn], object]) -> None:
    waiting = start_reader(conn, call, conn)
    conn.set_read_deadline(past())
    with pytest.raises(TimeoutError):
        waiting.result(PATIENCE_S)


def test_an_earlier_deadline_ends_calls_that_wait_for_a_later_one(conn: Conn) -> None:
    conn.set_deadline(future())
    waiting = [start_reader(conn, conn.recv_batch) for _ in range(3)]
    conn.set_deadline(time.monotonic() + 0.02)
    for each in waiting:
        with pytest.raises(TimeoutError):
            each.result(PATIENCE_S)


def test_a_later_deadline_lets_a_call_wait_on(conn: Conn, peer: PlainPeer) -> None:
    near = time.monotonic() + 0.1
    conn.set_read_deadline(near)
    waiting = start_reader(conn, conn.recv_batch)
    conn.set_read_deadline(future())
    conn.set_deadline(None)
    while time.monotonic() < near + 0.02:
        assert not waiting.done()
    peer.send(conn.local_addr(), b"x")
    assert waiting.result(PATIENCE_S) == [(b"x", peer.address)]


@pytest.mark.parametrize(
    ("timeout_s", "deadline_s"),
    [
        pytest.param(0.02, PATIENCE_S, id="the timeout"),
        pytest.param(PATIENCE_S, 0.02, id="the deadline"),
        pytest.param(None, 0.02, id="the deadline without a timeout"),
        pytest.param(0.02, math.inf, id="the timeout before a deadline of infinity"),
    ],
)
def test_the_earlier_wins(conn: Conn, timeout_s: float | None, deadline_s: float) -> None:
    started = time.monotonic()
    conn.settimeout(timeout_s)
    conn.set_deadline(started + deadline_s)
    with pytest.raises(TimeoutError):
        conn.recv_batch()
    assert 0.019 <= time.monotonic() - started < PATIENCE_S / 2


def test_non_blocking_wins_over_a_deadline(conn: Conn, peer: PlainPeer) -> None:
    conn.set_deadline(past())
    conn.setblocking(False)
    with pytest.raises(BlockingIOError):
        conn.recv_batch()
    assert conn.send_batch([(b"x", conn.local_addr())]) == 1
    assert conn.recv_batch() == [(b"x", conn.local_addr())]


@sending
def test_a_passed_deadline_keeps_all_back(conn: Conn, call: Callable[[Conn], object]) -> None:
    conn.set_write_deadline(past())
    with pytest.raises(SendTimeout) as caught:
        call(conn)
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert isinstance(error, SendError)
    assert not isinstance(error, SendBlocked)
    assert error.errno == errno.ETIMEDOUT
    assert (error.sent, dict(error.errors), error.unsent) == (0, {}, [0])
    assert conn.stats().send_calls == 0
    conn.set_write_deadline(None)
    call(conn)
    assert gather(conn, 1) == [b"x"]


@pytest.mark.parametrize(
    "call",
    [
        lambda conn, late: conn.send_batch((b"x", conn.local_addr()) for _ in late),
        lambda conn, late: conn.send_segments(Segments(b"x", 1, conn.local_addr()) for _ in late),
    ],
    ids=["send_batch", "send_segments"],
)
def test_a_deadline_that_passes_while_datagrams_are_made_keeps_them_back(
    conn: Conn, call: Callable[[Conn, Iterator[None]], object]
) -> None:
    def takes_long() -> Iterator[None]:
        conn.set_write_deadline(past())
        yield

    conn.set_write_deadline(future())
    with pytest.raises(SendTimeout) as caught:
        call(conn, takes_long())
    assert caught.value.unsent == [0]
    assert conn.stats().send_calls == 0


@needs_room
def test_what_a_deadline_kept_back_can_be_resumed(conn: Conn, peer: PlainPeer) -> None:
    datagrams = [(b"%d" % i, peer.address) for i in range(2000)]
    conn.set_deadline(past())
    with pytest.raises(SendTimeout) as caught:
        conn.send_batch(datagrams)
    assert caught.value.unsent == list(range(2000))
    conn.set_deadline(None)
    assert conn.send_batch([datagrams[i] for i in caught.value.unsent]) == 2000
    assert peer.collect(2000) == [data for data, _ in datagrams]


def test_each_direction_has_its_deadline(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"x")
    conn.set_read_deadline(past())
    assert conn.send_batch([(b"y", peer.address)]) == 1
    conn.set_read_deadline(None)
    conn.set_write_deadline(past())
    assert conn.recv_batch() == [(b"x", peer.address)]
    with pytest.raises(TimeoutError):
        conn.send_batch([(b"y", peer.address)])


def test_set_deadline_is_for_both_directions(conn: Conn) -> None:
    conn.set_deadline(past())
    with pytest.raises(TimeoutError):
        conn.recv_batch()
    with pytest.raises(TimeoutError):
        conn.send_batch([(b"y", conn.local_addr())])


@pytest.mark.parametrize("timeout", [None, 0.0, 1.5, 3])
def test_the_timeout_is_told(conn: Conn, timeout: float | None) -> None:
    conn.settimeout(timeout)
    assert conn.gettimeout() == timeout


def test_setblocking_is_a_timeout(conn: Conn) -> None:
    conn.setblocking(False)
    assert conn.gettimeout() == 0
    conn.setblocking(True)
    assert conn.gettimeout() is None


BAD = [
    pytest.param("settimeout", -1, ValueError, "timeout -1.0, must be 0 or more", id="negative"),
    pytest.param("settimeout", math.nan, ValueError, "timeout nan", id="nan"),
    pytest.param("settimeout", "5", TypeError, "timeout must be .* not str", id="str"),
    pytest.param("settimeout", [], TypeError, "timeout must be .* not list", id="list"),
    pytest.param("set_deadline", math.nan, ValueError, "deadline nan", id="deadline nan"),
    pytest.param("set_read_deadline", "5", TypeError, "deadline must be .* str", id="deadline str"),
    pytest.param(
        "set_write_deadline", {}, TypeError, "deadline must be .* dict", id="deadline dict"
    ),
]


@pytest.mark.parametrize(("method", "value", "kind", "message"), BAD)
def test_a_bad_time_is_told_and_changes_nothing(
    conn: Conn,
    peer: PlainPeer,
    method: str,
    value: object,
    kind: type[Exception],
    message: str,
) -> None:
    with pytest.raises(kind, match=message):
        getattr(conn, method)(value)
    assert conn.gettimeout() is None
    peer.send(conn.local_addr(), b"x")
    assert conn.recv_batch() == [(b"x", peer.address)]
