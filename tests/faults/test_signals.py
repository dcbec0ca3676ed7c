"""A signal every millisecond, and handlers that raise at random, while datagrams are moved.

A handler that returns is not noticed: nothing is lost or doubled, and no wait
ends early.  One that raises costs what docs/design.md says, and no more; the Conn stays usable,
and the threads that wait beside go on waiting.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batching import Conn, Segments, open_conn
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    messages,
    needs_linux,
    start,
    start_reader,
    until,
)

pytestmark = needs_linux
N_BATCHES = 150
BATCH = 20
N_INTERRUPTS = 300


class Interrupted(Exception):
    """What a handler raises."""


class Timer:
    """Sends SIGALRM to this process, again and again, and counts what is handled."""

    def __init__(self) -> None:
        self.n_handled = 0
        self.is_armed = False

    def handle(self, _number: int, _frame: object) -> None:
        self.n_handled += 1
        if self.is_armed:
            raise Interrupted

    def interrupt(self, call: Callable[[], object], after_s: float) -> bool:
        """Make a call that the next signal ends; tell whether it did."""
        try:
            try:
                self.is_armed = True
                signal.setitimer(signal.ITIMER_REAL, after_s)
                call()
            finally:
                self.is_armed = False
        except Interrupted:
            return True
        return False


@pytest.fixture
def timer() -> Iterator[Timer]:
    timer = Timer()
    kept = signal.signal(signal.SIGALRM, timer.handle)
    yield timer
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, kept)


def number_of(data: bytes) -> int:
    return int(data[:6])


def send_in_turn(conn: Conn, to: Any, batch: int) -> None:
    """Send a batch in one of the ways there are, of one length and of two."""
    numbers = range(batch * BATCH, (batch + 1) * BATCH)
    data = [b"%06d" % number + bytes(number % (1 + batch % 2)) for number in numbers]
    if batch % 3 == 0:
        conn.send_batch([(each, to) for each in data])
    elif batch % 3 == 1:
        conn.write_batch_to(data, to)
    else:
        conn.send_segments([Segments(each, len(each), to) for each in data])


def receive_in_turn(conn: Conn, turn: int) -> list[bytes]:
    if turn % 4 == 0:
        return [data for data, _ in conn.recv_batch()]
    if turn % 4 == 1:
        return [data for data, _ in conn.recv_batch(3)]
    if turn % 4 == 2:
        return [data for train in conn.recv_segments() for data in train.tolist()]
    msgs = messages(5, 64)
    return [bytes(msg.data) for msg in msgs[: conn.read_batch(msgs)]]


def receive_all(conn: Conn, n: int) -> list[int]:
    received: list[int] = []
    while len(received) < n:
        received += [number_of(data) for data in receive_in_turn(conn, len(received))]
    return received


def test_a_signal_every_millisecond_is_not_noticed(timer: Timer) -> None:
    total = N_BATCHES * BATCH
    with open_conn(ANY_PORT) as ours, open_conn(ANY_PORT) as theirs:
        ours.settimeout(PATIENCE_S)
        theirs.settimeout(PATIENCE_S)

        def send_all(conn: Conn, other: Conn) -> None:
            for batch in range(N_BATCHES):
                send_in_turn(conn, other.local_addr(), batch)
                until(lambda: conn.stats().send_datagrams < other.stats().recv_datagrams + 200)

        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        sending = start(send_all, ours, theirs)
        answering = start(receive_all, theirs, total)
        sending_back = start(send_all, theirs, ours)
        received = receive_all(ours, total)  # in the main thread, where handlers run
        assert received == answering.result(PATIENCE_S) == list(range(total))
        sending.result(PATIENCE_S)
        sending_back.result(PATIENCE_S)
        reader = start(receive_all, theirs, total)
        send_all(ours, theirs)
        assert reader.result(PATIENCE_S) == list(range(total))
        assert ours.stats().send_datagrams == 2 * total
    assert timer.n_handled


@pytest.mark.parametrize("way", range(4))
def test_a_signal_every_millisecond_does_not_end_a_wait(
    timer: Timer, conn: Conn, peer: PlainPeer, way: int
) -> None:
    conn.settimeout(PATIENCE_S)
    signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)

    def send_late() -> None:
        until(lambda: timer.n_handled >= 20)
        peer.send(conn.local_addr(), b"late")

    late = start(send_late)
    assert receive_in_turn(conn, way) == [b"late"]
    late.result(PATIENCE_S)
    conn.settimeout(0.02)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        receive_in_turn(conn, way)
    assert time.monotonic() - started >= 0.02


@pytest.mark.slow
def test_handlers_that_raise_while_sending(timer: Timer, conn: Conn, peer: PlainPeer) -> None:
    choose = random.Random(4)
    conn.settimeout(PATIENCE_S)
    n_interrupts = batch = collected = 0
    numbers: list[int] = []
    end = time.monotonic() + PATIENCE_S / 4
    while n_interrupts < N_INTERRUPTS and time.monotonic() < end:
        after_s = choose.uniform(5e-6, 2e-4)
        n_interrupts += timer.interrupt(
            lambda: send_in_turn(conn, peer.address, batch),  # noqa: B023 - made at once
            after_s,
        )
        batch += 1
        sent = conn.stats().send_datagrams
        numbers += [number_of(data) for data in peer.collect(sent - collected)]
        collected = sent
    assert n_interrupts
    assert numbers == sorted(set(numbers))
    assert_usable_and_closes(conn, peer)


@pytest.mark.slow
def test_handlers_that_raise_while_receiving(timer: Timer, conn: Conn, peer: PlainPeer) -> None:
    choose = random.Random(5)
    conn.settimeout(PATIENCE_S)
    received: list[bytes] = []
    n_interrupts = n_sent = turn = 0
    end = time.monotonic() + PATIENCE_S / 4
    while n_interrupts < N_INTERRUPTS and time.monotonic() < end:
        peer.send(conn.local_addr(), *[b"%06d" % (n_sent + each) for each in range(4)])
        n_sent += 4
        turn += 1
        n_interrupts += timer.interrupt(
            lambda: received.extend(receive_in_turn(conn, turn)),  # noqa: B023 - made at once
            choose.uniform(5e-6, 2e-4),
        )
    assert n_interrupts
    peer.send(conn.local_addr(), b"%06d" % n_sent)
    while not received or number_of(received[-1]) < n_sent:
        received += receive_in_turn(conn, 0)
    numbers = [number_of(data) for data in received]
    assert numbers == sorted(set(numbers))
    assert conn.stats().recv_datagrams == n_sent + 1  # the back end has missed none
    assert_usable_and_closes(conn, peer)


def assert_usable_and_closes(conn: Conn, peer: PlainPeer) -> None:
    waiting = start_reader(conn, conn.recv_batch)
    peer.send(conn.local_addr(), b"x")
    assert waiting.result(PATIENCE_S) == [(b"x", peer.address)]
    assert conn.send_batch([(b"y", peer.address)]) == 1
    assert peer.collect(1) == [b"y"]
    number = conn.fileno()
    conn.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_keyboard_interrupt_ends_the_main_threads_wait_only(conn: Conn, peer: PlainPeer) -> None:
    conn.settimeout(PATIENCE_S)
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        waiting = [start_reader(conn, conn.recv_batch, 1) for _ in range(3)]
        for _ in range(20):
            before = conn.stats().recv_calls

            def send_signal(before: int) -> None:
                until(lambda: conn.stats().recv_calls > before)
                os.kill(os.getpid(), signal.SIGINT)

            sending = start(send_signal, before)
            with pytest.raises(KeyboardInterrupt):
                conn.recv_batch()
            sending.result(PATIENCE_S)
            assert not any(each.done() for each in waiting)
        peer.send(conn.local_addr(), b"a", b"b", b"c")
        got = [data for each in waiting for data, _ in each.result(PATIENCE_S)]
        assert sorted(got) == [b"a", b"b", b"c"]
        waiting = [start_reader(conn, conn.recv_batch) for _ in range(3)]
        conn.close()
        for each in waiting:
            with contextlib.suppress(OSError):
                each.result(PATIENCE_S)
    finally:
        signal.signal(signal.SIGINT, kept)
