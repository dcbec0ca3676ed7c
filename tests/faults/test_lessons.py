"""What destinations teach, while signals' handlers send or raise, and while others close.

A socket that leaves out checksums is refused every train (EINVAL), and takes each datagram.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest

from batching import Conn, _lessons, open_conn
from boundaries import NEVER, SIGNAL, Boundaries
from boundaries import boundaries as boundaries
from fake_core import Clock
from loopback import ANY_PORT, PATIENCE_S, Address, PlainPeer, descriptors, needs_gso, start

pytestmark = [
    needs_gso,
    pytest.mark.slow,
    # A handler that raises may leave the closing of the watch of routes to its finalizer.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

SO_NO_CHECK: Final = 11  # include/uapi/asm-generic/socket.h
LONGER: Final = 40.0  # seconds than anything is remembered


class Raised(Exception):
    """What the handler raises, as KeyboardInterrupt is raised."""


class Source:
    """A Conn whose trains are refused or taken, as the test says, and whose clock it moves."""

    def __init__(self) -> None:
        self.conn: Conn = open_conn(ANY_PORT)
        self.clock = Clock()
        waiter: Any = self.conn._waiter
        waiter.clock = self.clock

    def refuse_trains(self, refuses: bool) -> None:
        with socket.socket(fileno=os.dup(self.conn.fileno())) as twin:
            twin.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, int(refuses))

    def send(self, to: Address) -> None:
        self.conn.send_batch([(b"train", to)] * 3)

    def sends_trains(self, to: Address) -> bool:
        before = self.conn.stats().send_trains
        self.send(to)
        return self.conn.stats().send_trains == before + 1

    def forget(self, to: Address) -> None:
        self.clock.now += LONGER
        with contextlib.suppress(Raised):
            self.send(to)


@contextlib.contextmanager
def source() -> Iterator[Source]:
    made = Source()
    with made.conn:
        yield made


def interrupt(*_: object) -> None:
    raise Raised


@pytest.mark.parametrize("is_forgetting", [False, True])
def test_a_handler_that_raises_costs_no_more_than_the_lesson(
    boundaries: Boundaries, peer: PlainPeer, is_forgetting: bool
) -> None:
    signal.signal(SIGNAL, interrupt)
    for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
        with source() as on:
            on.refuse_trains(True)
            if is_forgetting:
                on.send(peer.address)
                on.refuse_trains(False)
                on.clock.now += LONGER
            with contextlib.suppress(Raised):
                boundaries.run(lambda: on.send(peer.address), chosen)
            on.refuse_trains(False)
            on.forget(peer.address)
            assert on.sends_trains(peer.address), boundaries.place


@pytest.mark.parametrize("is_forgetting", [False, True])
def test_a_handler_that_learns_and_forgets_on_the_conn_it_interrupts(
    boundaries: Boundaries, peer: PlainPeer, is_forgetting: bool
) -> None:
    with PlainPeer() as other:
        on: Source

        def handle(*_: object) -> None:
            on.clock.now += LONGER
            on.send(other.address)

        signal.signal(SIGNAL, handle)
        for chosen in itertools.chain((NEVER,) * 3, boundaries.each()):
            with source() as on:
                on.refuse_trains(True)
                if is_forgetting:
                    on.send(peer.address)
                    on.send(other.address)
                    on.clock.now += LONGER
                boundaries.run(lambda: on.send(peer.address), chosen)
                on.refuse_trains(False)
                on.forget(peer.address)
                assert on.sends_trains(peer.address), boundaries.place
                assert on.sends_trains(other.address), boundaries.place


def test_close_waits_for_who_looks_at_the_routes(
    peer: PlainPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the number could be given away while somebody reads from it."""
    looks, goes_on = threading.Event(), threading.Event()
    order: list[str] = []

    class Watch:
        def has_changed(self) -> bool:
            looks.set()
            assert goes_on.wait(PATIENCE_S)
            order.append("looked")
            return False

        def close(self) -> None:
            order.append("closed")

    monkeypatch.setattr(_lessons, "watch_routes", Watch)
    with source() as on:
        on.refuse_trains(True)
        on.send(peer.address)
        on.clock.now += 1
        sending = start(on.conn.send_batch, [(b"x", peer.address)])
        assert looks.wait(PATIENCE_S)
        closing = start(on.conn.close)
        goes_on.set()
        closing.result(PATIENCE_S)
        assert order == ["looked", "closed"]
        with contextlib.suppress(OSError):  # it may have met the end
            sending.result(PATIENCE_S)


def test_a_lesson_learnt_after_close_holds_no_descriptor(peer: PlainPeer) -> None:
    before = descriptors()
    with source() as on:
        on.conn.close()
        peer_of_it = on.conn._sender.peers.get(peer.address)
        on.conn._sender.lessons.learn(peer_of_it, 5, 100)
    assert descriptors() == before


def test_one_call_remembers_no_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lessons, "_MAX_LEARNT", 10)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(PlainPeer()) for _ in range(30)]
        on = stack.enter_context(source())
        on.refuse_trains(True)
        on.conn.send_batch([(b"train", peer.address) for peer in peers for _ in range(3)])
        assert on.conn.stats().gso_fallbacks == {"EINVAL": 30}
        assert len(on.conn._sender.lessons.learnt) == 10
