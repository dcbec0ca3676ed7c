"""A number that was given away: nobody reads from it, and nobody sends through it.

Threads use a Conn while it is closed and its number goes at once to another socket, which
has datagrams that are told apart.  All meet at a barrier in every round, so that they really
collide.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from batching import Conn, open_conn
from loopback import ANY_PORT, PATIENCE_S, PlainPeer, messages, run_script, start, until

N_ROUNDS = 100
N_THREADS = 3
OURS, THEIRS = b"ours", b"not yours"
Use = Callable[[Conn, Any], list[bytes]]


def read_batch(conn: Conn) -> list[bytes]:
    msgs = messages(2, 64)
    return [bytes(msg.data) for msg in msgs[: conn.read_batch(msgs)]]


def send(conn: Conn, to: Any) -> list[bytes]:
    conn.send_batch([(OURS, to), (OURS + OURS, to)])
    return []


READING: dict[str, Use] = {
    "recv_batch": lambda conn, _to: [data for data, _ in conn.recv_batch()],
    "recv_segments": lambda conn, _: [x for each in conn.recv_segments() for x in each.tolist()],
    "read_batch": lambda conn, _to: read_batch(conn),
}


class Round:
    """A Conn, threads that use it until it is closed, and the newcomer after it."""

    def __init__(self, use: Use, peer: PlainPeer, n_closers: int) -> None:
        self.newcomer = PlainPeer()
        self.conn = open_conn(ANY_PORT)
        self.conn.settimeout(PATIENCE_S)
        self.number, self.address = self.conn.fileno(), self.conn.local_addr()
        self.barrier = threading.Barrier(N_THREADS + n_closers + 1)
        self.users = [start(self._use, use, peer.address) for _ in range(N_THREADS)]
        self.closers = [start(self._close) for _ in range(n_closers)]

    def _use(self, use: Use, to: Any) -> list[bytes]:
        received: list[bytes] = []
        self.barrier.wait(PATIENCE_S)
        with contextlib.suppress(OSError):
            while True:
                received += use(self.conn, to)
        return received

    def _close(self) -> None:
        self.barrier.wait(PATIENCE_S)
        self.conn.close()

    def play(self, peer: PlainPeer) -> None:
        """Meet, close, and let a newcomer have the number as soon as it is free."""
        peer.send(self.address, OURS)
        self.barrier.wait(PATIENCE_S)
        end = time.monotonic() + PATIENCE_S
        lower = []  # numbers that were free before
        newcomer = PlainPeer()
        while newcomer.sock.fileno() != self.number:
            assert time.monotonic() < end, "the number was not given away"
            if newcomer.sock.fileno() < self.number:
                lower.append(newcomer)
            else:
                newcomer.sock.close()
            newcomer = PlainPeer()
        for each in [*lower, self.newcomer]:
            each.sock.close()
        self.newcomer = newcomer
        peer.send(self.newcomer.address, THEIRS, THEIRS)

    def finish(self) -> list[bytes]:
        """Return what the users received; fail if the newcomer has lost anything."""
        received = [data for user in self.users for data in user.result(PATIENCE_S)]
        for closer in self.closers:
            closer.result(PATIENCE_S)
        with self.newcomer:
            assert self.newcomer.collect(2) == [THEIRS] * 2
        return received


@pytest.mark.slow
@pytest.mark.parametrize("n_closers", [1, 3])
@pytest.mark.parametrize("read", READING.values(), ids=READING.keys())
def test_no_reader_gets_what_is_a_newcomers(peer: PlainPeer, read: Use, n_closers: int) -> None:
    for _ in range(N_ROUNDS):
        played = Round(read, peer, n_closers)
        played.play(peer)
        assert set(played.finish()) <= {OURS}


@pytest.mark.slow
def test_no_sender_sends_through_a_newcomer(peer: PlainPeer) -> None:
    for _ in range(N_ROUNDS // 2):
        with PlainPeer() as target:
            played = Round(send, target, 1)
            played.play(peer)
            played.finish()
            pairs = target.collect_pairs(played.conn.stats().send_datagrams)
            assert {source for _, source in pairs} <= {played.address}


@pytest.mark.slow
def test_a_conn_that_takes_over_the_number_is_another(peer: PlainPeer) -> None:
    for _ in range(N_ROUNDS):
        played = Round(READING["recv_batch"], peer, 1)
        peer.send(played.address, OURS)
        played.barrier.wait(PATIENCE_S)
        with open_conn(ANY_PORT) as newcomer:
            newcomer.settimeout(PATIENCE_S)
            peer.send(newcomer.local_addr(), THEIRS)
            assert [data for data, _ in newcomer.recv_batch()] == [THEIRS]
            peer.send(played.newcomer.address, THEIRS, THEIRS)
            assert set(played.finish()) <= {OURS}


def test_a_handler_closes_while_threads_read(peer: PlainPeer) -> None:
    closing: list[Conn] = []
    kept = signal.signal(signal.SIGUSR1, lambda *_: closing[-1].close())
    try:
        for read in READING.values():
            for _ in range(10):
                played = Round(read, peer, 0)
                closing.append(played.conn)
                peer.send(played.address, OURS)
                played.barrier.wait(PATIENCE_S)
                os.kill(os.getpid(), signal.SIGUSR1)
                with PlainPeer() as newcomer:
                    peer.send(newcomer.address, THEIRS)
                    peer.send(played.newcomer.address, THEIRS, THEIRS)
                    assert set(played.finish()) <= {OURS}
                    assert newcomer.collect(1) == [THEIRS]
                with pytest.raises(OSError, match="Bad file descriptor"):
                    os.fstat(played.number)
    finally:
        signal.signal(signal.SIGUSR1, kept)


def receive_until_closed(conn: Conn, received: list[bytes]) -> None:
    with contextlib.suppress(OSError):
        while True:
            received += [data for data, _ in conn.recv_batch(7)]


def test_12_threads_on_one_conn_lose_nothing(conn: Conn) -> None:
    n_senders, n_batches, batch = 8, 30, 10
    conn.settimeout(PATIENCE_S)
    here = conn.local_addr()
    received: list[list[bytes]] = [[] for _ in range(4)]

    def send_all(sender: int) -> None:
        for first in range(0, n_batches * batch, batch):
            numbers = range(first, first + batch)
            conn.send_batch([(b"%d %d" % (sender, number), here) for number in numbers])
            # Few enough on the way for the smallest receive buffer that a system grants.
            until(lambda: conn.stats().send_datagrams - conn.stats().recv_datagrams < 200)

    receivers = [start(receive_until_closed, conn, each) for each in received]
    senders = [start(send_all, sender) for sender in range(n_senders)]
    for each in senders:
        each.result(2 * PATIENCE_S)
    total = n_senders * n_batches * batch
    until(lambda: sum(map(len, received)) >= total)
    conn.close()
    for receiver in receivers:
        receiver.result(PATIENCE_S)
    assert Counter(data for each in received for data in each) == Counter(
        b"%d %d" % (sender, number)
        for sender in range(n_senders)
        for number in range(n_batches * batch)
    )
    for each_received in received:
        last = Counter[int]()
        for sender, number in (map(int, data.split()) for data in each_received):
            assert number >= last[sender]
            last[sender] = number


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_amid_readers_and_close() -> None:
    script = """
import os, socket, threading, warnings
import batching
warnings.simplefilter("ignore", DeprecationWarning)  # of fork beside a thread, since 3.12
source = batching.open_conn(("127.0.0.1", 0))
for _ in range(20):
    conn = batching.open_conn(("127.0.0.1", 0))
    conn.settimeout(20)
    number, address = conn.fileno(), conn.local_addr()
    barrier = threading.Barrier(4)
    received = []
    def read():
        barrier.wait(20)
        try:
            while True:
                received.extend(data for data, _ in conn.recv_batch())
        except OSError:
            pass
    def close():
        barrier.wait(20)
        conn.close()
    threads = [threading.Thread(target=each) for each in (read, read, close)]
    for thread in threads:
        thread.start()
    source.send_batch([(b"ours", address)])
    barrier.wait(20)
    child = os.fork()
    if not child:
        # Nobody but this thread is here: close closes, whoever was inside.
        conn.close()
        try:
            os.fstat(number)
        except OSError:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as newcomer:
                try:
                    conn.recv_batch()
                except OSError as error:
                    os._exit(error.errno != 9)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert set(received) <= {b"ours"}, received
    try:
        os.fstat(number)
    except OSError:
        pass
    else:
        raise AssertionError("still open in the parent")
source.close()
"""
    run_script(script)
