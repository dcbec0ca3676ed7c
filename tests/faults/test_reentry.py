"""A signal handler, at every point of a call in turn, that uses the very Conn of that call.

It receives, sends, asks or closes.  Nobody waits for himself, and what both calls together
return is what came, each datagram once and in order.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from batching import Conn, _errqueue, open_conn
from boundaries import NEVER, SIGNAL, Boundaries
from boundaries import boundaries as boundaries
from loopback import ANY_PORT, PATIENCE_S, PlainPeer, dead_address, messages, needs_linux

pytestmark = pytest.mark.slow
Receive = Callable[[Conn], list[bytes]]
SENT = [b"%d" % number for number in range(2)]


def read_batch(conn: Conn, n: int) -> list[bytes]:
    msgs = messages(n, 64)
    return [bytes(msg.data) for msg in msgs[: conn.read_batch(msgs)]]


RECEIVING: dict[str, Receive] = {
    "recv_batch": lambda conn: [data for data, _ in conn.recv_batch()],
    "recv_segments": lambda conn: [x for each in conn.recv_segments() for x in each.tolist()],
    "read_batch": lambda conn: read_batch(conn, 2),
}
ONE: dict[str, Receive] = {
    "recv_batch": lambda conn: [data for data, _ in conn.recv_batch(1)],
    "read_batch": lambda conn: read_batch(conn, 1),
}
USING: dict[str, Callable[[Conn, Any], object]] = {
    "send": lambda conn, to: conn.send_batch([(b"from the handler", to)]),
    "ask": lambda conn, _to: (repr(conn), conn.stats(), conn.local_addr(), conn.pending),
    "set": lambda conn, _to: conn.settimeout(PATIENCE_S),
}
CALLS: dict[str, Callable[[Conn, Any], object]] = {
    "recv_batch": lambda conn, _to: conn.recv_batch(),
    "send_batch": lambda conn, to: conn.send_batch([(data, to) for data in SENT]),
    "local_addr": lambda conn, _to: conn.local_addr(),
    "repr": lambda conn, _to: repr(conn),
    "close": lambda conn, _to: conn.close(),
}


def all_there(conn: Conn, receive: Receive) -> list[bytes]:
    """Receive without waiting, until nothing is there."""
    received: list[bytes] = []
    with contextlib.suppress(BlockingIOError):
        while True:
            received += receive(conn)
    return received


@pytest.mark.parametrize("inner", [RECEIVING["recv_batch"]], ids=["recv_batch"])
@pytest.mark.parametrize("outer", RECEIVING.values(), ids=RECEIVING.keys())
def test_a_handler_that_receives(
    boundaries: Boundaries, peer: PlainPeer, outer: Receive, inner: Receive
) -> None:
    by_handler: list[bytes] = []
    conn: Conn

    def handle(_number: int, _frame: object) -> None:
        by_handler.extend(all_there(conn, inner))

    signal.signal(SIGNAL, handle)
    n_by_handler = 0
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        by_handler.clear()
        with open_conn(ANY_PORT) as conn:
            conn.settimeout(0)
            peer.send(conn.local_addr(), *SENT)
            by_call = []
            with contextlib.suppress(BlockingIOError):
                by_call = boundaries.run(lambda: outer(conn), chosen)
            n_by_handler += len(by_handler) > 0
            by_call += all_there(conn, outer)
            assert sorted(by_handler + by_call) == SENT, boundaries.place
            assert by_handler == sorted(by_handler), boundaries.place
            assert by_call == sorted(by_call), boundaries.place
            assert conn.stats().recv_datagrams == len(SENT)
    assert n_by_handler


@pytest.mark.parametrize("inner", [ONE["read_batch"]], ids=["read_batch"])
@pytest.mark.parametrize("outer", ONE.values(), ids=ONE.keys())
def test_a_handler_that_waits_for_a_datagram(
    boundaries: Boundaries, peer: PlainPeer, outer: Receive, inner: Receive
) -> None:
    by_handler: list[bytes] = []
    conn: Conn

    def handle(_number: int, _frame: object) -> None:
        peer.send(conn.local_addr(), b"second")
        by_handler.extend(inner(conn))

    signal.signal(SIGNAL, handle)
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        by_handler.clear()
        with open_conn(ANY_PORT) as conn:
            conn.settimeout(PATIENCE_S)
            peer.send(conn.local_addr(), b"first")
            by_call = boundaries.run(lambda: outer(conn), chosen)
            if boundaries.place:
                assert sorted(by_handler + by_call) == [b"first", b"second"], boundaries.place
            conn.settimeout(0)
            assert not all_there(conn, outer)


@pytest.mark.parametrize("use", USING.values(), ids=USING.keys())
def test_a_handler_that_uses_the_conn_otherwise(
    boundaries: Boundaries, peer: PlainPeer, use: Callable[[Conn, Any], object]
) -> None:
    conn: Conn
    signal.signal(SIGNAL, lambda *_: use(conn, conn.local_addr()))
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        with open_conn(ANY_PORT) as conn:
            conn.settimeout(PATIENCE_S)
            pairs = [(data, conn.local_addr()) for data in SENT]
            assert boundaries.run(lambda: conn.send_batch(pairs), chosen) == 2  # noqa: B023
            received = [data for data, _ in conn.recv_batch()]
            assert [data for data in received if data in SENT] == SENT, boundaries.place


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_handler_that_closes(
    boundaries: Boundaries, peer: PlainPeer, call: Callable[[Conn, Any], object]
) -> None:
    conn: Conn
    signal.signal(SIGNAL, lambda *_: conn.close())
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        conn = open_conn(ANY_PORT)
        conn.settimeout(PATIENCE_S)
        peer.send(conn.local_addr(), *SENT)
        fd = conn.fileno()
        with contextlib.suppress(OSError):
            boundaries.run(lambda: call(conn, peer.address), chosen)  # noqa: B023 - at once
        if boundaries.place:
            assert conn.fileno() == -1
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)
        sent = conn.stats().send_datagrams
        assert peer.collect(sent) == SENT[:sent], boundaries.place
        conn.close()


def ask_for_errors(conn: Conn, _to: Any) -> list[Any]:
    return conn.recv_transport_errors()


def meet_errors(conn: Conn, to: Any) -> list[Any]:
    conn.send_batch([(data, to) for data in SENT])
    return []


def send_and_ask(conn: Conn, datagrams: list[Any]) -> list[Any]:
    conn.send_batch(datagrams)
    return conn.recv_transport_errors()


@needs_linux
@pytest.mark.parametrize("n_before", [1, 3])
@pytest.mark.parametrize("inner", [ask_for_errors, meet_errors])
def test_a_handler_amid_the_errors_of_the_network(
    boundaries: Boundaries,
    monkeypatch: pytest.MonkeyPatch,
    inner: Callable[[Conn, Any], list[Any]],
    n_before: int,
) -> None:
    monkeypatch.setattr(_errqueue, "MAX_WAITING", 2)  # of 3, one makes room
    dead = dead_address()
    found: list[Any] = []
    conn: Conn

    def handle(_number: int, _frame: object) -> None:
        found.extend(inner(conn, dead))

    signal.signal(SIGNAL, handle)
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        found.clear()
        with open_conn(ANY_PORT, transport_errors=True, gso="off") as conn:  # an error each
            conn.settimeout(0)
            found += boundaries.run(lambda: send_and_ask(conn, [(b"x", dead)] * n_before), chosen)
            found += conn.recv_transport_errors()
            n_known = len(found) + conn.stats().transport_errors_lost
            assert n_known == conn.stats().send_datagrams, boundaries.place
