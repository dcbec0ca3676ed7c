"""Nothing grows: 100 000 batches of every way, errors too, and 10 000 Conns leave no trace.

What is held is counted exactly, by malloc and by Python: once each way was gone through some
hundred times, to fill what is kept (plans, slabs, peers), nothing an iteration may be added.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
from collections.abc import Callable

import pytest

from batching import Conn, Segments, SendError, open_conn, try_upgrade_to_conn
from holdings import Holdings, needs_mallinfo
from loopback import ANY_PORT, PATIENCE_S, PlainPeer, messages, needs_linux

pytestmark = [pytest.mark.slow, needs_linux, needs_mallinfo]

N_WARM = 300
SLACK = 64 << 10  # bytes: what is less than 512 is an object's, and counted there
PERIOD = 4096  # new addresses, after which the native back end forgets all of their spellings
MANY = b"0123456789" * 1000
PAIRS = [bytes([i]) * (100 + i % 3) for i in range(10)]


def assert_nothing_grows(step: Callable[[], object], n: int) -> None:
    for _ in range(N_WARM):
        step()
    before = Holdings.now()
    for _ in range(n):
        step()
    after = Holdings.now()
    assert after.n_descriptors == before.n_descriptors
    assert after.n_objects - before.n_objects < max(n // 20, 1200)  # a cache of 1024 fills
    assert after.n_bytes - before.n_bytes < SLACK


def failing(call: Callable[[], object], kind: type[BaseException], code: int | None = None) -> None:
    try:
        call()
    except kind as error:
        assert code is None or getattr(error, "errno", None) == code  # noqa: PT017
    else:
        raise AssertionError(f"no {kind.__name__}")


class Ways:
    """Steps of two batches each: one is sent, one is received (or an error is met)."""

    def __init__(self, conn: Conn) -> None:
        self.conn = conn
        self.to = conn.local_addr()
        self.messages = messages(16)
        self.buffers = [bytearray(data) for data in PAIRS]
        self.others: list[memoryview | bytearray] = [memoryview(data) for data in PAIRS]
        self.others += self.buffers

    def pairs(self) -> None:
        assert self.conn.send_batch([(data, self.to) for data in PAIRS]) == len(PAIRS)
        while self.conn.recv_batch(7) and self.conn.pending:
            pass

    def segments(self) -> None:
        self.conn.send_batch([(MANY[:1000], self.to) for _ in range(8)])  # a view of a slab
        trains = self.conn.recv_segments()
        self.conn.send_segments(trains[:1], to=self.to)
        assert self.conn.recv_segments()[0].data

    def messages_into(self) -> None:
        self.conn.write_batch_to(self.buffers, self.to, offset=8)
        assert self.conn.read_batch(self.messages)

    def other_buffers(self) -> None:
        self.conn.send_batch((data, self.to) for data in self.others)
        while self.conn.recv_batch() and self.conn.pending:
            pass

    def single(self) -> None:
        self.conn.write_to_udp_addr_port(b"x", (self.to[0], self.to[1]))
        assert self.conn.recv_batch()

    def refused(self) -> None:
        failing(lambda: self.conn.send_batch([(MANY * 7, self.to)]), SendError, errno.EMSGSIZE)
        failing(lambda: self.conn.send_batch([(b"x", self.to), (b"x", 5)]), TypeError)  # type: ignore[list-item]
        failing(lambda: self.conn.write_batch_to([b"x"], self.to, offset=8), ValueError)
        failing(lambda: self.conn.read_batch(self.messages, socket.MSG_DONTWAIT), BlockingIOError)


@pytest.mark.parametrize(
    ("way", "n"),
    [  # each step is a batch sent and one received, but "refused", which is four
        ("pairs", 10_000),
        ("segments", 10_000),
        ("messages_into", 10_000),
        ("other_buffers", 5_000),
        ("single", 10_000),
        ("refused", 2_500),
    ],
)
def test_batches_leave_nothing_behind(conn: Conn, way: str, n: int) -> None:
    conn.settimeout(PATIENCE_S)
    assert_nothing_grows(getattr(Ways(conn), way), n)


def test_trains_with_all_that_comes_beside_them_leave_nothing_behind() -> None:
    with open_conn(("0.0.0.0", 0), ecn=True, pktinfo=True, timestamps=True) as conn:
        conn.settimeout(PATIENCE_S)
        port = conn.local_addr()[1]
        hosts = itertools.cycle(f"127.0.1.{i}" for i in range(1, 30))
        bad = Segments(b"x", 1, conn.local_addr(), local_addr=("x", 1))

        def step() -> None:
            to = (next(hosts), port)
            trains = [Segments(MANY[:5000], 1000, to, ecn=i % 4) for i in range(3)]
            conn.send_segments(trains)
            trains = conn.recv_segments()
            assert trains[0].local_addr == to
            failing(lambda: conn.send_segments([*trains, bad]), ValueError)
            trains[0].addr = to
            assert conn.send_segments(trains[:1])
            assert conn.recv_segments()[0].timestamp_ns

        assert_nothing_grows(step, 1_500)


def test_ever_new_senders_and_destinations_leave_nothing_behind(conn: Conn) -> None:
    conn.settimeout(PATIENCE_S)
    to = conn.local_addr()
    ports = iter(range(1024, 65536))

    def step() -> None:
        port = next(ports)
        conn.send_batch([(b"x", ("127.0.0.2", port)), (b"x", to)])
        assert conn.recv_batch()

    for _ in range(5000):  # peers, and what is known of addresses, are at their bound
        step()
    assert_nothing_grows(step, 2 * PERIOD)


def test_conns_leave_nothing_behind(backend: object, peer: PlainPeer) -> None:
    def step() -> None:
        with open_conn(ANY_PORT) as conn:
            conn.write_to_udp_addr_port(b"x", conn.local_addr())
            assert conn.recv_batch()

    assert_nothing_grows(step, 4_000)


def test_upgrades_and_refusals_leave_nothing_behind(backend: object) -> None:
    taken = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    taken.bind(ANY_PORT)

    def step() -> None:
        failing(lambda: open_conn(taken.getsockname()), OSError, errno.EADDRINUSE)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with contextlib.closing(try_upgrade_to_conn(sock, "udp4")) as conn:
            assert isinstance(conn, Conn)

    with taken:
        assert_nothing_grows(step, 3_000)
