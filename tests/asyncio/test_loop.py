"""What is about loops: turns, ends, threads, debug mode, batches, and loops that will not do."""

from __future__ import annotations

import asyncio
import gc
import re
from typing import Any

import pytest

import batching.asyncio
from loopback import HOST, PlainPeer, needs_gso, needs_room, start
from stage import (
    LOOP,
    STOCK,
    Endpoint,
    Notes,
    Stage,
    World,
    compare,
    each_asyncio_world,
    each_world,
    play,
)

pytestmark = needs_room


def open_in(loop: Any, world: World) -> Any:
    create = world.create(asyncio.DatagramProtocol, local_addr=(HOST, 0))
    transport, _ = loop.run_until_complete(create)
    return transport


def send(transport: Any, peer: PlainPeer, n: int = 5) -> None:
    for i in range(n):
        transport.sendto(b"%d" % i, peer.address)


SENT = [b"%d" % i for i in range(5)]


def end(loop: Any, transport: Any) -> None:
    transport.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_what_the_turn_that_stops_the_loop_sent_has_left(peer: PlainPeer) -> None:
    loop = LOOP.new_loop()
    transport = open_in(loop, LOOP)
    for steps in ((send, loop.stop), (loop.stop, send)):
        for step in steps:
            loop.call_soon(*((step, transport, peer) if step is send else (step,)))
        loop.run_forever()
        assert peer.collect(5) == SENT
    end(loop, transport)


def test_what_a_turn_that_ends_with_ctrl_c_sent_has_left(peer: PlainPeer) -> None:
    def interrupt(transport: Any) -> None:
        send(transport, peer)
        raise KeyboardInterrupt

    loop = LOOP.new_loop()
    transport = open_in(loop, LOOP)
    loop.call_soon(interrupt, transport)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert peer.collect(5) == SENT
    end(loop, transport)


class Regretting(asyncio.DatagramProtocol):
    """Answers an error by sending, and by stopping the loop."""

    def __init__(self, peer: PlainPeer) -> None:
        self.peer = peer
        self.loops: list[Any] = []
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def error_received(self, exc: Exception) -> None:
        loop = asyncio.get_running_loop()
        self.loops.append(loop if loop.is_running() else None)
        for data in (b"sorry", b"so sorry"):
            self.transport.sendto(data, self.peer.address)
        loop.stop()


@pytest.mark.parametrize("world", [STOCK, LOOP], ids=repr)
def test_errors_of_the_last_turn_are_told_in_the_running_loop(
    world: World, peer: PlainPeer
) -> None:
    def send_too_much() -> None:
        for data in (b"0", b"1", bytes(65508), b"3"):
            transport.sendto(data, peer.address)

    loop = world.new_loop()
    create = world.create(lambda: Regretting(peer), local_addr=(HOST, 0))
    transport, protocol = loop.run_until_complete(create)
    loop.call_soon(send_too_much)
    loop.stop()
    loop.run_forever()
    assert protocol.loops == [loop]
    assert sorted(peer.collect(5)) == [b"0", b"1", b"3", b"so sorry", b"sorry"]
    assert loop.run_until_complete(asyncio.sleep(0.001, "goes on")) == "goes on"
    end(loop, transport)


def refuse(world: World) -> bool:
    """Tell whether the running loop is still known after another was refused to run."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError):
            inner.run_forever()
        return asyncio._get_running_loop() is loop

    inner = world.new_loop()
    with world.running() as runner:
        is_known = runner.run(main())
    inner.close()
    return is_known


def test_a_loop_that_is_refused_to_run_is_as_on_stock() -> None:
    assert refuse(LOOP) == refuse(STOCK)  # 3.13.0 forgets it


@each_world
def test_what_is_sent_while_the_loop_does_not_run_leaves_at_once(
    world: World, peer: PlainPeer
) -> None:
    loop = world.new_loop()
    transport = open_in(loop, world)
    send(transport, peer)
    assert peer.collect(5) == SENT
    end(loop, transport)


@each_world
def test_what_another_thread_sends_leaves_at_once(world: World, peer: PlainPeer) -> None:
    async def main() -> None:
        transport, _ = await world.create(asyncio.DatagramProtocol, local_addr=(HOST, 0))
        start(send, transport, peer).result()  # no turn of the loop passes
        assert peer.collect(5) == SENT
        transport.close()

    with world.running() as runner:
        runner.run(main())


@each_world
def test_what_main_sent_last_leaves(world: World, peer: PlainPeer) -> None:
    async def main() -> None:
        transport, _ = await world.create(asyncio.DatagramProtocol, local_addr=(HOST, 0))
        send(transport, peer)
        kept.append(transport)

    kept: list[Any] = []
    loop = world.new_loop()
    loop.run_until_complete(main())
    loop.close()
    assert peer.collect(5) == SENT
    del loop
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        forget(kept)


def forget(kept: list[Any]) -> None:
    kept.clear()
    gc.collect()


@each_world
def test_what_waits_leaves_with_a_transport_whose_cycle_is_collected(
    world: World, peer: PlainPeer
) -> None:
    """What is in the cycle beside it, its socket for one, is finalized in any order."""
    loop = world.new_loop()
    create = world.create(lambda: Regretting(peer), local_addr=(HOST, 0))
    kept = [loop.run_until_complete(create)]
    loop.call_soon(send, kept[0][0], peer)
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.close()
    del loop, create
    with pytest.warns(ResourceWarning, match="unclosed"):
        forget(kept)
    assert peer.collect(5) == SENT


@each_world
def test_to_look_at_a_transport_sends_nothing(world: World, peer: PlainPeer) -> None:
    async def main() -> None:
        transport: Any = (await world.create(asyncio.DatagramProtocol, local_addr=(HOST, 0)))[0]
        while not transport._deferred:
            transport.sendto(b"x", peer.address)
        repr(transport)
        assert transport._deferred
        transport.get_write_buffer_size()
        assert not transport._deferred
        transport.close()

    with world.running() as runner:
        runner.run(main())


async def talk(stage: Stage) -> None:
    def answer(b: Endpoint, data: bytes, addr: Any) -> None:
        b.transport.sendto(data + b"!", addr)

    a, b = await stage.endpoint("a"), await stage.endpoint("b", datagram_received=answer)
    for i in range(50):
        a.call("sendto", b"%d" % i, b.transport.get_extra_info("sockname"))
    await stage.until(lambda: len(a.received) == 50)


@each_asyncio_world
def test_debug_mode_is_as_on_stock(world: World) -> None:
    compare(world, talk, debug=True)


@each_world
def test_two_loops_in_two_threads(world: World) -> None:
    playing = [start(play, world, talk) for _ in range(2)]
    expected = play(STOCK, talk)
    assert [each.result() for each in playing] == [expected] * 2


def test_repr_is_as_on_stock() -> None:
    async def scenario(stage: Stage) -> None:
        a = await stage.endpoint("a")
        stage.note("a", repr(a.transport))
        a.transport.pause_reading()
        stage.note("a", repr(a.transport))
        a.transport.close()
        stage.note("a", repr(a.transport))
        await stage.until(lambda: a.is_lost)
        stage.note("a", repr(a.transport))

    compare(LOOP, scenario)


# Batches


class Batches(Endpoint):
    def datagrams_received(self, datagrams: list[tuple[bytes, Any]]) -> None:
        self.received += datagrams
        self._tell("datagrams_received", type(datagrams).__name__, *map(type, datagrams))


def play_batches(world: World, n: int, **hooks: Any) -> tuple[Notes, list[bytes]]:
    received: list[bytes] = []

    async def scenario(stage: Stage) -> None:
        a = await stage.endpoint("a", kind=Batches, **hooks)
        source = stage.sink("source")
        to = a.transport.get_extra_info("sockname")
        source.send_train(to, b"".join(b"%04d" % i for i in range(n)), 4)
        source.send(to, b"last")
        await stage.until(lambda: len(a.received) == n + 1)
        assert {addr for _, addr in a.received} == {source.address}
        received.extend(data for data, _ in a.received)

    return play(world, scenario), received


@needs_gso
@each_world
def test_a_protocol_that_asks_for_batches_gets_lists(world: World) -> None:
    notes, received = play_batches(world, 60)
    assert received == [b"%04d" % i for i in range(60)] + [b"last"]
    calls = [note for note in notes["a"] if note[0] == "datagrams_received"]
    assert {call[1] for call in calls} == {"list"}
    assert len(calls) < 61


@needs_gso
def test_a_batch_whose_callback_fails_loses_no_other() -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    notes, received = play_batches(LOOP, 60, datagrams_received=fail)
    assert len(received) == 61
    assert notes["handler"]


@each_world
def test_unix_sockets_give_batches_too(world: World, tmp_path: Any) -> None:
    async def scenario(stage: Stage) -> None:
        import socket

        options = {"family": socket.AF_UNIX, "local_addr": str(tmp_path / "a")}
        a = await stage.endpoint("a", kind=Batches, **options)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as source:
            for data in SENT:
                source.sendto(data, str(tmp_path / "a"))
        await stage.until(lambda: len(a.received) == 5)
        stage.note("data", *[data for data, _ in a.received])

    assert play(world, scenario)["data"] == [tuple(SENT)]


def test_only_the_type_says_that_it_wants_batches() -> None:
    class Agreeable(Endpoint):
        def __getattr__(self, name: str) -> Any:
            if name == "datagrams_received":
                raise AssertionError("looked up on the instance")
            raise AttributeError(name)

    async def scenario(stage: Stage) -> None:
        a = await stage.endpoint("a", kind=Agreeable)
        stage.sink("source").send(a.transport.get_extra_info("sockname"), *SENT)
        await stage.until(lambda: len(a.received) == 5)

    assert len(play(LOOP, scenario)["a"]) == 7


# Loops that will not do


class NoReaders(asyncio.SelectorEventLoop):
    """As Windows' proactor: what AbstractEventLoop has in its place raises."""

    add_reader = asyncio.AbstractEventLoop.add_reader


def test_a_loop_without_add_reader_is_refused_with_advice() -> None:
    async def main() -> None:
        advice = re.escape(
            "NoReaders has no add_reader: run batching.asyncio.new_event_loop(),"
            " or asyncio.SelectorEventLoop"
        )
        with pytest.raises(NotImplementedError, match=advice):
            await batching.asyncio.create_datagram_endpoint(
                asyncio.DatagramProtocol, local_addr=(HOST, 0)
            )

    with asyncio.Runner(loop_factory=NoReaders) as runner:
        runner.run(main())


def test_only_the_datagram_transport_and_the_end_of_a_run_are_replaced() -> None:
    names = {name for name in vars(batching.asyncio.EventLoop) if not name.startswith("__")}
    assert names == {"_make_datagram_transport", "run_forever"}


def test_reading_needs_nothing_that_cpython_3_11_2_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    older = asyncio.selector_events._SelectorTransport  # type: ignore[attr-defined]
    for name in {"is_reading", "pause_reading", "resume_reading", "_paused"} & vars(older).keys():
        monkeypatch.delattr(older, name)
    received: list[bytes] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                received.append(data)
                done.set_result(None)

        transport, _ = await loop.create_datagram_endpoint(Protocol, local_addr=(HOST, 0))
        transport.pause_reading()  # type: ignore[attr-defined]
        transport.sendto(b"x", transport.get_extra_info("sockname"))
        transport.resume_reading()  # type: ignore[attr-defined]
        await asyncio.wait_for(done, 10)
        transport.close()

    with asyncio.Runner(loop_factory=batching.asyncio.new_event_loop) as runner:
        runner.run(main())
    assert received == [b"x"]
