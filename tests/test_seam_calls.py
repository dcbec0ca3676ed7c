"""The seam of _mmsg, over each back end: dispatch and fetch, a whole batch in one call."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType
from typing import Any

import pytest

from batching import Segments, open_conn
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    messages,
    needs_linux,
    needs_whole_trains,
    start,
    until,
)
from seam_rig import A, B, C, Rig

pytestmark = pytest.mark.kernel

MANY = 8192  # datagrams: a full window
BIG = bytes(70000)  # more than a datagram may have


# dispatch


def dispatches(rig: Rig, data: Any) -> list[Callable[[Any], int]]:
    """Return the ways to send two datagrams, of which ``data`` is the first."""
    to = rig.address
    trains = [Segments(data, len(data), to), Segments(b"2", 1, to)]
    return [
        lambda tx: rig.plan.dispatch(tx, [(data, to), (b"2", to)]),
        lambda tx: rig.plan.dispatch(tx, [[data, to], (b"2", (*to,))]),
        lambda tx: rig.plan.dispatch_to(tx, (data, b"2"), to),
        lambda tx: rig.plan.dispatch_segments(tx, trains),
        lambda tx: rig.plan.dispatch_segments(tx, trains, rig.peers.get(to)),
    ]


def test_dispatch_sends_all_and_holds_nothing(rig: Rig) -> None:
    data = bytearray(b"1")
    for n_calls, dispatch in enumerate(dispatches(rig, data), 1):
        assert dispatch(rig.tx) == -1
        assert (rig.plan.datagrams_sent, rig.plan.position, rig.plan.left) == (2, 0, 0)
        assert [rig.sink.recv(9) for _ in range(2)] == [b"1", b"2"]
        assert rig.counters.snapshot()["send_datagrams"] == 2 * n_calls
    with contextlib.suppress(BufferError):  # views of the trains, which are the test's
        data.append(0)


def test_dispatch_tells_what_the_first_attempt_met_and_holds_the_rest(rig: Rig) -> None:
    for dispatch in dispatches(rig, BIG):
        assert dispatch(rig.tx) == errno.EMSGSIZE
        assert (rig.plan.position, rig.plan.datagrams_sent) == (0, 0)
        assert rig.plan.left == 2
        rig.plan.skip(errno.EMSGSIZE)
        assert rig.plan.attempt(rig.tx) == (1, 0)
        assert rig.sink.recv(9) == b"2"
        assert rig.plan.report() == [(0, 0, 1, errno.EMSGSIZE)]
        rig.plan.release()


def test_dispatch_that_sent_a_part_goes_on_from_there(rig: Rig) -> None:
    held = bytearray(b"last")
    items = [(b"first", rig.address), (BIG, B), (held, rig.address), (b"end", C)]
    assert rig.plan.dispatch(rig.tx, items) == errno.EMSGSIZE or rig.plan.position
    assert rig.plan.datagrams_sent == 2  # both of the first destination
    with pytest.raises(BufferError):
        held.append(0)
    assert rig.plan.attempt(rig.tx) == (0, errno.EMSGSIZE)
    rig.plan.skip(errno.EMSGSIZE)
    assert rig.plan.attempt(rig.tx) == (1, 0)
    assert [rig.sink.recv(9) for _ in range(2)] == [b"first", b"last"]
    rig.plan.release()
    held.append(0)


def test_a_closed_descriptor_refuses_a_dispatch_even_of_nothing(rig: Rig) -> None:
    assert rig.plan.dispatch(rig.tx, []) == -1
    assert rig.plan.dispatch_to(rig.tx, [], A) == -1
    assert rig.plan.dispatch_segments(rig.tx, []) == -1
    closed = rig.backend.Descriptor(PlainPeer().sock)
    closed.close()
    assert rig.plan.dispatch(closed, []) == errno.EBADF
    for dispatch in dispatches(rig, b"1"):
        assert dispatch(closed) == errno.EBADF
        assert rig.plan.left > 0
    assert rig.counters.snapshot()["send_datagrams"] == 0


@pytest.mark.parametrize("where", [0, 1, 500])
def test_what_is_unfit_in_mid_load_lets_go_of_the_plan_before_too(rig: Rig, where: int) -> None:
    held, address = bytearray(b"held"), ("127.0.0.1", 1001)
    items: list[Any] = [(held, address if i % 3 else B) for i in range(where)]
    unfits: list[Callable[[], object]] = [
        lambda: rig.plan.dispatch(rig.tx, [*items, (held, address), (held, "nowhere")]),
        lambda: rig.plan.dispatch(rig.tx, [*items, [held, address], [held]]),
        lambda: rig.plan.dispatch_to(rig.tx, [held] * where + [None], address),
        lambda: rig.plan.dispatch_to(rig.tx, [held], "nowhere"),
        lambda: rig.plan.dispatch_to(rig.tx, [held] * (MANY + 1), address),
        lambda: rig.plan.dispatch_segments(rig.tx, [Segments(b"x", 1, address)] * where + [held]),
        lambda: rig.plan.load(items, -1),
    ]
    for unfit in unfits:
        counts = []
        for _ in range(3):
            rig.plan.load([(held, address)])
            with contextlib.suppress(TypeError, ValueError):
                pytest.fail(f"not refused: {unfit()}")
            held.append(0)  # BufferError if anything of it was still held
            assert rig.plan.n_messages == 0
            counts.append((sys.getrefcount(held), sys.getrefcount(address)))
        assert counts[1] == counts[2]  # the first found a peer, which keeps its address
    assert rig.counters.snapshot()["send_calls"] == 0


class Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in "abcdMefUgh")  # M: mapped, U: used


def in_use() -> int:
    """Return the bytes that C's malloc has given out; 0 where it does not say."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    mallinfo.restype = Mallinfo
    found = mallinfo()
    return int(found.M + found.U)


@pytest.mark.skipif(in_use() == 0, reason="needs glibc's mallinfo2, and no sanitizer's malloc")
def test_room_that_few_calls_need_is_given_back(rig: Rig) -> None:
    if rig.backend.__name__.endswith("_portable"):
        pytest.skip("its plans are Python objects")
    view = memoryview(b"x")
    items = [(view, (A, B, C)[i % 3]) for i in range(MANY)]
    rig.plan.dispatch(rig.tx, items[:9])
    before = in_use()
    rig.plan.load(items)
    assert in_use() - before > 1 << 20
    rig.plan.release()
    assert in_use() - before < 1 << 17
    assert rig.plan.dispatch(rig.tx, items) == -1
    assert in_use() - before < 1 << 17


# fetch


def into(rig: Rig, sleeps: bool = False) -> Any:
    """Call fetch_into, and answer as the other ways of fetching do."""
    msgs = [rig.backend.Message([bytearray(64)], bytearray(64)) for _ in range(9)]
    found = rig.slots.fetch_into(rig.rx, msgs, sleeps)
    return msgs[:found] if found > 0 else -found


FETCHES = [
    pytest.param(lambda rig, **how: rig.slots.fetch(rig.rx, **how), id="fetch"),
    pytest.param(lambda rig, **how: rig.slots.fetch_segments(rig.rx, **how), id="fetch_segments"),
    pytest.param(into, id="fetch_into"),
]
each_fetch = pytest.mark.parametrize("fetch", FETCHES)


def test_fetch_takes_what_one_attempt_brings(rig: Rig) -> None:
    sender = rig.source.getsockname()
    rig.send(b"1", b"2", b"3")
    assert rig.slots.fetch(rig.rx, 2) == [(b"1", sender), (b"2", sender)]
    rig.send(b"4")
    assert rig.slots.fetch(rig.rx) == [(b"3", sender)]
    (train,) = rig.slots.fetch_segments(rig.rx)
    assert (train.tolist(), train.addr) == ([b"4"], sender)
    rig.send(b"5")
    (msg,) = into(rig)
    assert (bytes(msg.data), msg.addr) == (b"5", sender)


@each_fetch
def test_fetch_tells_an_errno(rig: Rig, fetch: Any) -> None:
    assert fetch(rig) == errno.EAGAIN
    rig.rx.close()
    assert fetch(rig) == errno.EBADF


def test_messages_are_checked_before_a_fetch_sleeps(rig: Rig) -> None:
    rig.rx.patience_s = PATIENCE_S
    before = rig.counters.snapshot()["recv_calls"]
    with pytest.raises(TypeError, match="message 0"):
        rig.slots.fetch_into(rig.rx, ["unfit"], True)
    assert rig.counters.snapshot()["recv_calls"] == before + 1


@needs_whole_trains
@each_fetch
def test_fetch_tells_of_a_loss_and_leaves_the_rest_pending(backend: Any, fetch: Any) -> None:
    with contextlib.closing(Rig(backend, gro=True, control_size=8)) as rig:
        rig.train(b"aabb", 2)
        rig.send(b"whole")
        rig.rx.patience_s = PATIENCE_S
        assert fetch(rig, sleeps=True) == errno.EBADMSG
        assert rig.slots.pending == 1
        assert len(fetch(rig)) == 1


@each_fetch
@pytest.mark.parametrize(
    ("wake", "expected"),
    [
        (lambda rig: rig.send(b"data"), None),
        (lambda rig: rig.rx.kick(), errno.EAGAIN),
        (lambda rig: rig.rx.close(), errno.EBADF),
    ],
    ids=["data", "kick", "close"],
)
def test_a_sleeping_fetch_wakes(rig: Rig, fetch: Any, wake: Any, expected: int | None) -> None:
    before = rig.counters.snapshot()["recv_calls"]
    rig.rx.patience_s = PATIENCE_S
    waiting: Future[Any] = start(lambda: fetch(rig, sleeps=True))
    until(lambda: rig.counters.snapshot()["recv_calls"] > before)  # then it holds its ticket
    wake(rig)
    found = waiting.result(PATIENCE_S / 2)
    assert found == expected if expected else len(found) == 1


@each_fetch
def test_a_fetch_sleeps_once_and_no_longer_than_it_may(rig: Rig, fetch: Any) -> None:
    rig.rx.patience_s = 0.001
    assert fetch(rig, sleeps=True) == errno.EAGAIN
    assert rig.counters.snapshot()["recv_calls"] == 2
    assert fetch(rig) == errno.EAGAIN
    assert rig.counters.snapshot()["recv_calls"] == 3
    rig.rx.patience_s = 0.0
    assert fetch(rig, sleeps=True) == errno.EAGAIN
    assert rig.counters.snapshot()["recv_calls"] == 4


class Interrupted(Exception):
    """What the handler raises."""


@needs_linux
@pytest.mark.parametrize(
    "receive",
    [
        lambda conn: conn.recv_batch(),
        lambda conn: conn.recv_segments(),
        lambda conn: conn.read_batch(messages(1)),
    ],
    ids=["recv_batch", "recv_segments", "read_batch"],
)
def test_what_wakes_a_sleeper_is_there_after_a_handler_that_raises(receive: Any) -> None:
    # The signal comes to another thread, so it does not end the sleep; the datagram does.
    def handler(_number: int, _frame: FrameType | None) -> None:
        raise Interrupted

    def interrupt() -> None:
        until(lambda: conn.stats().recv_calls)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        peer.send(conn.local_addr(), b"data")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with open_conn(ANY_PORT) as conn, PlainPeer() as peer:
            interrupting = start(interrupt)
            with pytest.raises(Interrupted):
                receive(conn)
            interrupting.result(PATIENCE_S)
            conn.settimeout(PATIENCE_S)
            assert [data for data, _ in conn.recv_batch()] == [b"data"]
    finally:
        signal.signal(signal.SIGUSR1, before)
