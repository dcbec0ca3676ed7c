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


def dispatches(rig: Rig, data: Any) -> list[Callable[..., Any]]:
    """Return the ways to send two datagrams by a dispatcher, of which ``data`` is the first."""
    to = rig.address
    trains = [Segments(data, len(data), to), Segments(b"2", 1, to)]
    return [
        lambda by, **how: by.send([(data, to), (b"2", to)], **how),
        lambda by, **how: by.send([[data, to], (b"2", (*to,))], **how),
        lambda by, **how: by.send_to((data, b"2"), to, **how),
        lambda by, **how: by.send_segments(trains, **how),
        lambda by, **how: by.send_segments(trains, to, **how),
    ]


def test_a_dispatch_sends_all_and_holds_nothing(rig: Rig) -> None:
    data = bytearray(b"1")
    for n_calls, dispatch in enumerate(dispatches(rig, data), 1):
        assert dispatch(rig.dispatcher) == 2
        assert [rig.sink.recv(9) for _ in range(2)] == [b"1", b"2"]
        assert rig.counters.snapshot()["send_datagrams"] == 2 * n_calls
        plan = rig.dispatcher.take()  # the one that it has used
        assert (plan.datagrams_sent, plan.position, plan.left) == (0, 0, 0)
        rig.dispatcher.give(plan)
    with contextlib.suppress(BufferError):  # views of the trains, which are the test's
        data.append(0)


def test_a_dispatch_tells_what_it_met_and_hands_over_the_rest(rig: Rig) -> None:
    for dispatch in dispatches(rig, BIG):
        plan, items, error = dispatch(rig.dispatcher)
        assert (len(items), error) == (2, errno.EMSGSIZE)
        assert (plan.position, plan.datagrams_sent) == (0, 0)
        assert plan.left == 2
        plan.skip(errno.EMSGSIZE)
        assert plan.attempt(rig.tx) == (1, 0)
        assert rig.sink.recv(9) == b"2"
        assert plan.report() == [(0, 0, 1, errno.EMSGSIZE)]
        rig.dispatcher.give(plan)


def test_a_dispatch_that_sent_a_part_goes_on_from_there(rig: Rig) -> None:
    held = bytearray(b"last")
    items = [(b"first", rig.address), (BIG, B), (held, rig.address), (b"end", C)]
    plan, loaded, error = rig.dispatcher.send(items)
    assert error == errno.EMSGSIZE or plan.position
    assert loaded == items
    assert plan.datagrams_sent == 2  # both of the first destination
    with pytest.raises(BufferError):
        held.append(0)
    assert plan.attempt(rig.tx) == (0, errno.EMSGSIZE)
    plan.skip(errno.EMSGSIZE)
    assert plan.attempt(rig.tx) == (1, 0)
    assert [rig.sink.recv(9) for _ in range(2)] == [b"first", b"last"]
    rig.dispatcher.give(plan)
    held.append(0)


def test_a_dispatch_that_holds_back_looks_at_nothing(rig: Rig) -> None:
    for dispatch in dispatches(rig, BIG):
        plan, items, error = dispatch(rig.dispatcher, holds_back=True)
        assert (plan.n_messages, len(items), error) == (0, 2, -1)
    too_many = [(b"1", rig.address)] * (MANY + 1)
    assert rig.dispatcher.send(too_many)[1:] == (too_many, -1)
    plan, items, error = rig.dispatcher.send_segments([Segments(b"1", 1, A)] * (MANY + 1))
    assert (plan.n_messages, len(items), error) == (0, MANY + 1, -1)
    assert rig.counters.snapshot()["send_calls"] == 0


def test_no_two_calls_have_one_plan(rig: Rig) -> None:
    plans = [rig.dispatcher.take() for _ in range(3)]
    assert len(set(map(id, plans))) == 3
    for plan in plans:
        rig.dispatcher.give(plan)
    again = [rig.dispatcher.take() for _ in range(4)]
    assert len(set(map(id, again))) == 4
    assert set(map(id, plans)) < set(map(id, again))


def test_a_plan_given_back_holds_nothing(rig: Rig) -> None:
    held, plan = bytearray(b"held"), rig.dispatcher.take()
    plan.load([(held, rig.address)])
    rig.dispatcher.give(plan)
    held.append(0)  # BufferError if it did
    for unfit in (None, held):
        with pytest.raises((TypeError, AttributeError)):
            rig.dispatcher.give(unfit)


def test_a_closed_descriptor_refuses_a_dispatch_even_of_nothing(rig: Rig) -> None:
    assert rig.dispatcher.send([]) == 0
    assert rig.dispatcher.send_to([], A) == 0
    assert rig.dispatcher.send_segments([]) == 0
    closed = rig.backend.Descriptor(PlainPeer().sock)
    closed.close()
    by = rig.dispatcher_of(closed)
    assert by.send([])[1:] == ([], errno.EBADF)
    for dispatch in dispatches(rig, b"1"):
        plan, _, error = dispatch(by)
        assert (plan.left > 0, error) == (True, errno.EBADF)
    assert rig.counters.snapshot()["send_datagrams"] == 0


@pytest.mark.parametrize("where", [0, 1, 500])
def test_what_is_unfit_in_mid_load_is_let_go_of_whole(rig: Rig, where: int) -> None:
    held, address = bytearray(b"held"), ("127.0.0.1", 1001)
    items: list[Any] = [(held, address if i % 3 else B) for i in range(where)]
    by, trains = rig.dispatcher, [Segments(b"x", 1, address)] * where
    unfits: list[Callable[[], object]] = [
        lambda: by.send([*items, (held, address), (held, "nowhere")]),
        lambda: by.send([*items, [held, address], [held]]),
        lambda: by.send_to([held] * where + [None], address),
        lambda: by.send_to([held], "nowhere"),
        lambda: by.send_to([held] * (MANY + 1), address),
        lambda: by.send_segments([*trains, held]),
        lambda: by.send_segments(trains, "nowhere"),
        lambda: by.send_segments(Segments(held, 1, address)),
        lambda: rig.plan.load(items, -1),
    ]
    for unfit in unfits:
        counts = []
        for _ in range(3):
            rig.plan.load([(held, address)])
            by.give(rig.plan)
            with contextlib.suppress(TypeError, ValueError):
                pytest.fail(f"not refused: {unfit()}")
            held.append(0)  # BufferError if anything of it was still held
            rig.plan = by.take()
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
    rig.dispatcher.send(items[:9])
    before = in_use()
    plan = rig.dispatcher.take()
    plan.load(items)
    assert in_use() - before > 1 << 20
    rig.dispatcher.give(plan)
    assert in_use() - before < 1 << 17
    assert rig.dispatcher.send(items) == MANY
    assert in_use() - before < 1 << 17
    rig.send(b"1", b"2")
    msgs = messages(1) * (MANY * 4)
    assert rig.slots.fetch_into(rig.rx, msgs[:1]) == 1  # slabs are there from now on
    before = in_use()
    assert rig.slots.fetch_into(rig.rx, msgs) == 1
    assert in_use() - before < 1 << 17  # not the room for so many


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
