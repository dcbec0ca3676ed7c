"""Receiving: what a protocol is told, and when, is what stock asyncio tells it."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest

from loopback import needs_gso, needs_room
from stage import LOOP, Endpoint, Scenario, Scenarios, Stage, World, compare, each_world, play

scenarios = Scenarios()
pytestmark = needs_room
BURST = [b"%d" % i for i in range(200)]  # fewer than the least receive buffer holds
SHADE: contextvars.ContextVar[int] = contextvars.ContextVar("SHADE", default=0)


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


def send(stage: Stage, to: Endpoint, *datagrams: bytes) -> None:
    """Let datagrams be there at once, before the loop looks."""
    stage.sink("source").send(to.transport.get_extra_info("sockname"), *datagrams)


async def receive(stage: Stage, datagrams: list[bytes] = BURST, **hooks: Any) -> Endpoint:
    """Open an endpoint, and send a burst to it."""
    a = await stage.endpoint("a", **hooks)
    send(stage, a, *datagrams)
    return a


@scenarios
async def connection_made_comes_before_the_first_datagram(stage: Stage) -> None:
    def send_to_itself(a: Endpoint) -> None:
        stage.sink("source").send(a.transport.get_extra_info("sockname"), b"early", b"early too")

    a = await stage.endpoint("a", connection_made=send_to_itself)
    await stage.until(lambda: len(a.received) == 2)


@scenarios
async def a_burst_comes_in_order(stage: Stage) -> None:
    a = await receive(stage)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios.marked(needs_gso)
async def a_train_comes_datagram_by_datagram(stage: Stage) -> None:
    a = await stage.endpoint("a")
    source = stage.sink("source")
    source.send_train(a.transport.get_extra_info("sockname"), bytes(range(250)) * 4, 100)
    await stage.until(lambda: len(a.received) == 10)


@scenarios
async def empty_and_large_datagrams(stage: Stage) -> None:
    a = await receive(stage, [b"", bytes(65507), b"", b"x", bytes(9000), b""])
    await stage.until(lambda: len(a.received) == 6)


@scenarios
async def data_is_bytes_and_the_sender_a_tuple(stage: Stage) -> None:
    a = await receive(stage, [b"x"])
    await stage.until(lambda: a.received)
    [(data, addr)] = a.received
    stage.note("a", type(data).__name__, type(addr).__name__, [type(x).__name__ for x in addr])


@scenarios
async def closing_in_a_burst_stops_delivery(stage: Stage) -> None:
    def close(a: Endpoint, data: bytes, _addr: object) -> None:
        if data == b"7":
            a.transport.close()

    a = await receive(stage, datagram_received=close)
    await stage.until(lambda: a.is_lost)


@scenarios
async def aborting_in_a_burst_stops_delivery(stage: Stage) -> None:
    def abort(a: Endpoint, data: bytes, _addr: object) -> None:
        if data == b"7":
            a.transport.abort()

    a = await receive(stage, datagram_received=abort)
    await stage.until(lambda: a.is_lost)


@scenarios
async def closing_another_is_told_before_the_next_datagram(stage: Stage) -> None:
    b = await stage.endpoint("b", connection_lost=lambda *_: stage.note("a", "b is lost"))

    def close(_a: Endpoint, data: bytes, _addr: object) -> None:
        if data == b"7":
            b.transport.close()

    a = await receive(stage, datagram_received=close)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios
async def exceptions_lose_no_other_datagram(stage: Stage) -> None:
    def fail(_a: Endpoint, data: bytes, _addr: object) -> None:
        if int(data) % 3 == 0:
            raise ZeroDivisionError(f"because of {data!r}")

    a = await receive(stage, datagram_received=fail)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios
async def callbacks_run_between_datagrams(stage: Stage) -> None:
    def call_soon(a: Endpoint, data: bytes, _addr: object) -> None:
        if int(data) % 5 == 0:
            stage.loop.call_soon(stage.note, a.name, "called", data)

    a = await receive(stage, datagram_received=call_soon)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios
async def tasks_start_between_datagrams(stage: Stage) -> None:
    tasks = []

    async def answer(name: str, data: bytes) -> None:
        stage.note(name, "task", data)

    def create_task(a: Endpoint, data: bytes, _addr: object) -> None:
        tasks.append(stage.loop.create_task(answer(a.name, data)))

    a = await receive(stage, datagram_received=create_task)
    await stage.until(lambda: len(a.received) == len(BURST) and all(t.done() for t in tasks))


@scenarios
async def one_a_turn_from_a_bounded_queue_loses_nothing(stage: Stage) -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue(1)

    def put(a: Endpoint, data: bytes, _addr: object) -> None:
        try:
            queue.put_nowait(data)
        except asyncio.QueueFull:
            stage.note(a.name, "lost", data)

    await receive(stage, datagram_received=put)
    for _ in BURST:
        stage.note("consumer", await queue.get())


@scenarios
async def a_future_is_woken_by_each(stage: Stage) -> None:
    waiting: list[asyncio.Future[bytes]] = []

    def wake(a: Endpoint, data: bytes, _addr: object) -> None:
        if waiting and not waiting[0].done():
            waiting.pop().set_result(data)

    a = await stage.endpoint("a", datagram_received=wake)
    for i in range(30):
        waiting.append(stage.loop.create_future())
        send(stage, a, b"%d" % i)
        stage.note("consumer", await waiting[0])


@scenarios
async def pausing_in_a_burst_and_resuming(stage: Stage) -> None:
    def pause(a: Endpoint, data: bytes, _addr: object) -> None:
        if data == b"7":
            a.transport.pause_reading()
            stage.loop.call_later(0.01, resume, a)

    def resume(a: Endpoint) -> None:
        stage.note(a.name, "resumed", a.transport.is_reading())
        a.transport.resume_reading()

    a = await receive(stage, datagram_received=pause)
    await stage.until(lambda: len(a.received) == len(BURST))
    a.call("pause_reading")
    a.call("pause_reading")
    a.call("is_reading")
    a.call("resume_reading")
    a.call("resume_reading")


@scenarios
async def pausing_and_resuming_at_once_in_each(stage: Stage) -> None:
    def flap(a: Endpoint, _data: bytes, _addr: object) -> None:
        a.transport.pause_reading()
        a.transport.resume_reading()

    a = await receive(stage, datagram_received=flap)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios
async def another_protocol_takes_over_in_a_burst(stage: Stage) -> None:
    other = Endpoint(stage, "other", {})

    def hand_over(a: Endpoint, data: bytes, _addr: object) -> None:
        if data == b"7":
            a.transport.set_protocol(other)
            stage.note("a", a.transport.get_protocol() is other)

    a = await receive(stage, datagram_received=hand_over)
    await stage.until(lambda: len(other.received) == len(BURST) - 8)
    a.transport.close()
    await stage.until(lambda: other.is_lost)
    a.is_lost = True


@scenarios
async def context_variables_last_from_one_to_the_next(stage: Stage) -> None:
    def count(a: Endpoint, _data: bytes, _addr: object) -> None:
        SHADE.set(SHADE.get() + 1)
        stage.note(a.name, SHADE.get())
        stage.loop.call_soon(lambda: None)

    a = await receive(stage, datagram_received=count)
    await stage.until(lambda: len(a.received) == len(BURST))


@scenarios
async def two_endpoints_take_their_own(stage: Stage) -> None:
    a, b = await stage.endpoint("a"), await stage.endpoint("b")
    for data in BURST[:50]:
        send(stage, a, data)
        send(stage, b, data + data)
    await stage.until(lambda: len(a.received) == len(b.received) == 50)


@scenarios
async def closed_before_the_first_turn(stage: Stage) -> None:
    a = await receive(stage)
    a.transport.close()
    await stage.until(lambda: a.is_lost)


@pytest.mark.parametrize("n", [1, 200])
def test_a_burst_of_pure_callbacks_goes_in_few_turns(n: int) -> None:
    async def count_turns(stage: Stage) -> None:
        a = await receive(stage, BURST[:n])
        n_turns = 0
        while len(a.received) < n:
            await asyncio.sleep(0)
            n_turns += 1
        stage.note("turns", n_turns)

    [(n_turns,)] = play(LOOP, count_turns)["turns"]
    assert n_turns <= 2 * n  # one a turn while this task is ready, too: rule 1
