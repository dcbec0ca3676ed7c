"""AsyncConn on asyncio and on trio: nothing lost by cancellation, anyio's own errors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from collections.abc import Iterator
from typing import Any, cast

import pytest

from batching import Conn, Segments, SendBlocked, SendError
from loopback import ANY_PORT, PATIENCE_S, PlainPeer, needs_room

anyio = pytest.importorskip("anyio", reason='needs "udp-batching[anyio]"')

from batching.anyio import AsyncConn, open_conn  # noqa: E402 - only where anyio is there

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    if request.param == "trio":
        pytest.importorskip("trio", reason="needs trio")
    return str(request.param)


@pytest.fixture
def anyio_peer() -> Iterator[PlainPeer]:
    with PlainPeer() as peer:
        yield peer


async def test_datagrams_and_trains_there_and_back() -> None:
    async with await open_conn(ANY_PORT) as a, await open_conn(ANY_PORT) as b:
        sent = [b"%d" % i for i in range(10)]
        assert await a.send_batch([(data, b.local_addr()) for data in sent]) == 10
        received: list[Any] = []
        with anyio.fail_after(PATIENCE_S):
            while len(received) < 10:
                received += await b.recv_batch(3)
        assert received == [(data, a.local_addr()) for data in sent]
        assert await b.send_segments([Segments(b"aabbc", 2, a.local_addr())]) == 3
        with anyio.fail_after(PATIENCE_S):
            assert [x for each in await a.recv_segments() for x in each.tolist()] == [
                b"aa",
                b"bb",
                b"c",
            ]
        assert a.stats().send_datagrams == 10
        assert a.offload == b.offload


async def test_iteration_gives_batches_as_they_come(anyio_peer: PlainPeer) -> None:
    async with await open_conn(ANY_PORT) as conn:
        anyio_peer.send(conn.local_addr(), b"one", b"two")
        received: list[bytes] = []
        with anyio.fail_after(PATIENCE_S):
            async for batch in conn:
                received += [data for data, _ in batch]
                if received == [b"one", b"two"]:
                    break


async def test_a_receiver_waits_for_the_first(anyio_peer: PlainPeer) -> None:
    received: list[bytes] = []
    async with await open_conn(ANY_PORT) as conn, anyio.create_task_group() as group:

        async def receive() -> None:
            received.extend(data for data, _ in await conn.recv_batch())

        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert not received
        anyio_peer.send(conn.local_addr(), b"x")
    assert received == [b"x"]


async def test_cancellation_loses_nothing_that_was_received(anyio_peer: PlainPeer) -> None:
    async with await open_conn(ANY_PORT) as conn:
        received: list[bytes] = []

        async def receive(scope: Any) -> None:
            with scope:
                received.extend(data for data, _ in await conn.recv_batch(2))

        for number in range(200):
            scope = anyio.CancelScope()
            anyio_peer.send(conn.local_addr(), b"%d" % number)
            async with anyio.create_task_group() as group:
                group.start_soon(receive, scope)
                if number % 3:
                    await anyio.lowlevel.checkpoint()
                if number % 2:
                    scope.cancel()
        with anyio.fail_after(PATIENCE_S):
            while len(received) < 200:
                received += [data for data, _ in await conn.recv_batch()]
        assert received == [b"%d" % number for number in range(200)]


async def test_asyncios_own_cancellation_loses_nothing_either(
    anyio_backend: str, anyio_peer: PlainPeer
) -> None:
    if anyio_backend != "asyncio":
        pytest.skip("of asyncio: it strikes in what anyio shields, too")
    async with await open_conn(ANY_PORT) as conn:
        received: list[bytes] = []
        for n_turns in range(6):
            anyio_peer.send(conn.local_addr(), b"%d" % n_turns)
            task = asyncio.create_task(conn.recv_batch())
            for _ in range(n_turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                received += [data for data, _ in await task]
        with anyio.fail_after(PATIENCE_S):
            while len(received) < 6:
                received += [data for data, _ in await conn.recv_batch()]
        assert received == [b"%d" % n for n in range(6)]


async def test_close_gives_the_number_back_once_nobody_watches_it() -> None:
    conn = await open_conn(ANY_PORT)
    left: list[int] = []

    async def receive() -> None:
        try:
            with pytest.raises(anyio.ClosedResourceError):
                await conn.recv_batch()
        finally:
            left.append(conn._conn.fileno())

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        await conn.aclose()
    assert left != [-1]  # it was open until the waiter had left


async def test_a_cancelled_call_has_not_begun(anyio_peer: PlainPeer) -> None:
    async with await open_conn(ANY_PORT) as conn:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await conn.send_batch([(b"x", anyio_peer.address)])
        assert scope.cancelled_caught
        assert conn.stats().send_datagrams == 0


async def test_another_receiver_is_refused() -> None:
    async with await open_conn(ANY_PORT) as conn, anyio.create_task_group() as group:
        group.start_soon(conn.recv_batch)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await conn.recv_segments()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("way", ["recv_batch", "recv_segments"])
async def test_close_wakes_who_waits(way: str) -> None:
    conn = await open_conn(ANY_PORT)

    async def receive() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await getattr(conn, way)()

    with anyio.fail_after(PATIENCE_S):
        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await conn.aclose()
    for call in (conn.recv_batch(), conn.send_batch([]), conn.send_segments([])):
        with pytest.raises(anyio.ClosedResourceError):
            await call
    await conn.aclose()


async def test_bad_input_is_refused_as_by_conn(anyio_peer: PlainPeer) -> None:
    async with await open_conn(ANY_PORT) as conn:
        with pytest.raises(ValueError, match="datagram 1: host 'localhost' is not numeric"):
            await conn.send_batch([(b"x", anyio_peer.address), (b"x", ("localhost", 1))])
        with pytest.raises(TypeError, match="not one"):
            await conn.send_segments(cast(Any, Segments(b"x", 1, anyio_peer.address)))
        with pytest.raises(ValueError, match="max_datagrams 0"):
            await conn.recv_batch(0)
        with pytest.raises(SendError) as caught:
            await conn.send_batch([(bytes(70_000), anyio_peer.address), (b"y", anyio_peer.address)])
        assert list(caught.value.errors) == [0]
        assert caught.value.sent == 1
        assert anyio_peer.collect(1) == [b"y"]


class Full:
    """A Conn that has no room at first: it takes so many datagrams a call, by the script."""

    def __init__(self, conn: Conn, *script: tuple[int, set[int]]) -> None:
        self.conn = conn
        self.script = list(script)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)

    def send_batch(self, items: list[Any]) -> int:
        if not self.script:
            return self.conn.send_batch(items)
        n, failing = self.script.pop(0)
        errors = {i: OSError(errno.EPERM, "refused") for i in failing}
        good = [item for i, item in enumerate(items[:n]) if i not in failing]
        self.conn.send_batch(good)
        raise SendBlocked(errno.EAGAIN, "full", len(good), errors, list(range(n, len(items))))

    def send_segments(self, trains: list[Segments], to: Any = None) -> int:
        """Let the first train go in part, and none of the others."""
        if not self.script:
            return self.conn.send_segments(trains, to=to)
        n, failing = self.script.pop(0)
        first = trains[0]
        good = [data for i, data in enumerate(first.tolist()[:n]) if i not in failing]
        self.conn.send_batch([(data, first.addr) for data in good])
        errors = {i: OSError(errno.EPERM, "refused") for i in failing}
        part = SendBlocked(errno.EAGAIN, "full", len(good), errors, list(range(n, len(first))))
        raise SendBlocked(errno.EAGAIN, "full", len(good), {0: part}, list(range(1, len(trains))))


def full(conn: AsyncConn, *script: tuple[int, set[int]]) -> None:
    target: Any = conn
    target._conn = Full(target._conn, *script)


@needs_room
async def test_a_full_socket_is_waited_for_and_errors_keep_their_indices(
    anyio_peer: PlainPeer,
) -> None:
    async with await open_conn(ANY_PORT) as conn:
        full(conn, (3, {1}), (0, set()), (2, {0}))
        items = [(b"%d" % i, anyio_peer.address) for i in range(8)]
        with pytest.raises(SendError) as caught:
            await conn.send_batch(items)
        assert sorted(caught.value.errors) == [1, 3]
        assert (caught.value.sent, list(caught.value.unsent)) == (6, [])
        assert not isinstance(caught.value, SendBlocked)
        assert anyio_peer.collect(6) == [b"%d" % i for i in (0, 2, 4, 5, 6, 7)]


@needs_room
async def test_a_train_that_went_out_in_part_goes_on_where_it_stopped(
    anyio_peer: PlainPeer,
) -> None:
    trains = [Segments(b"abcdefg", 1, anyio_peer.address), Segments(b"xy", 1, anyio_peer.address)]
    async with await open_conn(ANY_PORT) as conn:
        full(conn, (3, set()), (2, set()))
        assert await conn.send_segments(trains) == 9
        assert anyio_peer.collect(9) == [bytes([c]) for c in b"abcdefgxy"]
        full(conn, (3, {1}), (2, {0}))
        with pytest.raises(SendError) as caught:
            await conn.send_segments(trains)
        [(index, error)] = caught.value.errors.items()
        assert index == 0
        assert isinstance(error, SendError)
        assert sorted(error.errors) == [1, 3]
        assert caught.value.sent == 7
        assert anyio_peer.collect(7) == [bytes([c]) for c in b"acefgxy"]
