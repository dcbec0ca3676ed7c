"""Several threads, and signal handlers that raise: nothing is lost, doubled or left locked."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TypeVar

import pytest

from batching import Conn, Segments, SendError, open_conn
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    assert_nothing_left,
    gather,
    messages,
    needs_gso,
    needs_room,
    run_script,
    start,
    start_reader,
    until,
)

pytestmark = pytest.mark.kernel

T = TypeVar("T")

N_SENDERS = 8
N_RECEIVERS = 4
N_BATCHES = 40
BATCH = 20


class Interrupted(Exception):
    """What a signal handler raises, as KeyboardInterrupt is raised."""


@pytest.fixture
def conn(conn: Conn) -> Conn:
    conn.settimeout(PATIENCE_S)
    return conn


class Interrupter:
    """Makes one signal raise during a call of the main thread."""

    def __init__(self) -> None:
        self.is_armed = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_armed:
            self.is_armed = False
            raise Interrupted

    def interrupt(self, call: Callable[..., T], *args: object, after_s: float = 0) -> T | None:
        """Make a call, a signal once ``after_s`` have passed; None if it was interrupted."""
        try:
            try:
                self.is_armed = True
                signal.setitimer(signal.ITIMER_REAL, after_s)
                return call(*args)
            finally:
                self.is_armed = False
        except Interrupted:
            return None


@pytest.fixture
def interrupter() -> Iterator[Interrupter]:
    interrupter = Interrupter()
    kept = {
        number: signal.signal(number, interrupter.handle)
        for number in (signal.SIGALRM, signal.SIGUSR1)
    }
    yield interrupter
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in kept.items():
        signal.signal(number, handler)


def send_all(conn: Conn, sender: int, receiver: Conn) -> int:
    """Send in every way there is, in turn."""
    to = receiver.local_addr()
    for batch in range(N_BATCHES):
        data = [b"%d %d" % (sender, number) for number in range(batch * BATCH, (batch + 1) * BATCH)]
        if batch % 3 == 0:
            conn.send_batch([(each, to) for each in data])
        elif batch % 3 == 1:
            conn.write_batch_to(data, to)
        else:
            conn.send_segments([Segments(each, len(each), to) for each in data])
        # Few enough on the way for the smallest receive buffer that a system grants.
        until(lambda: receiver.stats().recv_datagrams > conn.stats().send_datagrams - 300)
    return N_BATCHES * BATCH


def receive_all(conn: Conn, way: int, received: list[bytes]) -> None:
    """Receive in one of the ways there are, until it is closed."""
    msgs = messages(7)
    with contextlib.suppress(OSError):
        while True:
            if way == 0:
                received += [data for data, _ in conn.recv_batch()]
            elif way == 1:
                received += [data for data, _ in conn.recv_batch(3)]
            elif way == 2:
                received += [data for train in conn.recv_segments() for data in train.tolist()]
            else:
                n = conn.read_batch(msgs)
                received += [bytes(msg.data) for msg in msgs[:n]]


def test_8_senders_and_4_receivers_lose_nothing(conn: Conn) -> None:
    received: list[list[bytes]] = [[] for _ in range(N_RECEIVERS)]
    with open_conn(ANY_PORT) as receiver:
        receivers = [start(receive_all, receiver, way, got) for way, got in enumerate(received)]
        senders = [start(send_all, conn, i, receiver) for i in range(N_SENDERS)]
        total = sum(sender.result(2 * PATIENCE_S) for sender in senders)
        until(lambda: sum(map(len, received)) >= total)
        receiver.close()
        for each in receivers:
            each.result(PATIENCE_S)
    found = Counter(data for got in received for data in got)
    assert found == Counter(
        b"%d %d" % (sender, number)
        for sender in range(N_SENDERS)
        for number in range(N_BATCHES * BATCH)
    )
    assert conn.stats().send_datagrams == receiver.stats().recv_datagrams == total


@needs_gso
@pytest.mark.parametrize("way", ["recv_batch", "read_batch"])
def test_a_reader_that_leaves_datagrams_wakes_the_next(
    conn: Conn, peer: PlainPeer, way: str
) -> None:
    waiting = [
        start_reader(conn, conn.recv_batch, 1)
        if way == "recv_batch"
        else start_reader(conn, conn.read_batch, messages(1))
        for _ in range(5)
    ]
    peer.send_train(conn.local_addr(), b"abcde", 1)
    got = [each.result(PATIENCE_S) for each in waiting]
    if way == "recv_batch":
        pairs = [pair for each in got if isinstance(each, list) for pair in each]
        assert sorted(data for data, _ in pairs) == [b"a", b"b", b"c", b"d", b"e"]
    else:
        assert got == [1] * 5
    assert_nothing_left(conn)


def test_calls_of_both_directions_do_not_wait_for_each_other(conn: Conn, peer: PlainPeer) -> None:
    waiting = start_reader(conn, conn.recv_batch)
    assert conn.send_batch([(b"x", peer.address)] * 100) == 100
    assert not waiting.done()
    peer.send(conn.local_addr(), b"y")
    assert waiting.result(PATIENCE_S) == [(b"y", peer.address)]


@needs_room
def test_a_sender_and_close_agree_on_what_was_sent(peer: PlainPeer) -> None:
    for _ in range(20):
        conn = open_conn(ANY_PORT)
        pairs = [(b"%d" % i, peer.address) for i in range(3000)]
        sending = start(conn.send_batch, pairs)
        until(lambda: conn.stats().send_calls or sending.done())  # noqa: B023
        conn.close()
        error = sending.exception(PATIENCE_S)
        n = 0
        if error is None:
            n = sending.result()
        elif isinstance(error, SendError):
            n = error.sent
            assert error.unsent == list(range(n, 3000))  # of one destination: a prefix
        if error is not None:
            assert isinstance(error, OSError)
            assert error.errno == errno.EBADF
        assert peer.collect(n) == [data for data, _ in pairs[:n]]


@pytest.mark.parametrize("way", ["recv_batch", "recv_segments", "read_batch"])
def test_a_handler_that_raises_ends_a_wait(
    conn: Conn, peer: PlainPeer, interrupter: Interrupter, way: str
) -> None:
    arguments = (messages(1),) if way == "read_batch" else ()

    def send_signal() -> None:
        until(lambda: conn.stats().recv_calls >= 1)
        os.kill(os.getpid(), signal.SIGUSR1)

    sending = start(send_signal)
    assert interrupter.interrupt(getattr(conn, way), *arguments) is None
    sending.result(PATIENCE_S)
    # No lock is held, nobody is inside: it works, from any thread, and closes.
    peer.send(conn.local_addr(), b"x")
    assert start(gather, conn, 1).result(PATIENCE_S) == [b"x"]
    assert conn.send_batch([(b"y", peer.address)]) == 1
    fd = conn.fileno()
    conn.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_handler_that_does_not_raise_lets_a_wait_go_on(conn: Conn, peer: PlainPeer) -> None:
    handled = threading.Event()
    kept = signal.signal(signal.SIGUSR1, lambda *_: handled.set())

    def interrupt_and_send() -> None:
        until(lambda: conn.stats().recv_calls >= 1)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert handled.wait(PATIENCE_S)
        peer.send(conn.local_addr(), b"x")

    killer = start(interrupt_and_send)
    try:
        assert conn.recv_batch() == [(b"x", peer.address)]
    finally:
        signal.signal(signal.SIGUSR1, kept)
    killer.result(PATIENCE_S)


def test_interrupted_senders_double_nothing(
    conn: Conn, peer: PlainPeer, interrupter: Interrupter
) -> None:
    n_interrupts = number = 0
    end = time.monotonic() + PATIENCE_S / 4
    while n_interrupts < 100 and time.monotonic() < end:
        # Alternating sizes: many messages a call, hence many places to be interrupted in.
        pairs = [(b"%06d" % i + bytes(i % 2), peer.address) for i in range(number, number + 60)]
        number += 60
        after_s = 1e-5 * (1 + number % 40)
        n_interrupts += interrupter.interrupt(conn.send_batch, pairs, after_s=after_s) is None
    assert n_interrupts
    assert conn.send_batch([(b"%06d" % number, peer.address)]) == 1
    sent = conn.stats().send_datagrams
    numbers = [int(data[:6]) for data in peer.collect(sent)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == number


def test_interrupted_readers_double_nothing(
    conn: Conn, peer: PlainPeer, interrupter: Interrupter
) -> None:
    numbers: list[int] = []
    n_interrupts = n_sent = 0
    end = time.monotonic() + PATIENCE_S / 4
    while n_interrupts < 100 and time.monotonic() < end:
        peer.send(conn.local_addr(), *[b"%06d" % i for i in range(n_sent, n_sent + 4)])
        n_sent += 4
        for _ in range(2):
            after_s = 1e-5 * (1 + n_sent % 10)
            pairs = interrupter.interrupt(conn.recv_batch, 2, after_s=after_s)
            n_interrupts += pairs is None
            numbers += [int(data) for data, _ in pairs or ()]
    assert n_interrupts
    peer.send(conn.local_addr(), b"%06d" % n_sent)
    while not numbers or numbers[-1] < n_sent:
        numbers += [int(data) for data, _ in conn.recv_batch()]
    # An interrupt on the very way out of a call takes its result with it, but no more.
    assert numbers == sorted(set(numbers))
    assert conn.stats().recv_datagrams == n_sent + 1
    assert n_sent + 1 - len(numbers) <= 2 * n_interrupts


def test_a_finalizer_that_receives_does_not_deadlock() -> None:
    run_script(
        textwrap.dedent("""
            import batching

            class Session:
                def __init__(self, conn):
                    self.conn, self.itself = conn, self  # a cycle: only the collector ends it
                def __del__(self):
                    try:
                        self.conn.recv_batch()
                    except BlockingIOError:
                        pass

            with batching.open_conn(("127.0.0.1", 0)) as conn, batching.open_conn() as source:
                conn.settimeout(0)
                source.send_batch([(b"x", conn.local_addr())] * 20_000)
                for _ in range(20):
                    Session(conn)
                kept = []
                try:
                    while True:
                        kept += conn.recv_batch()  # makes objects enough for a collection
                except BlockingIOError:
                    pass
        """)
    )
