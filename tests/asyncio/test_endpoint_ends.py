"""Errors, exceptions and the end: who is told what is as with stock asyncio."""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import warnings
from typing import Any

from loopback import HOST, dead_address, needs_room
from stage import Endpoint, Scenario, Scenarios, Stage, World, compare, each_world

scenarios = Scenarios()
pytestmark = needs_room
TOO_LONG = bytes(65508)


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


def fail(*_: object) -> None:
    raise ZeroDivisionError("by a callback")


@scenarios
async def refusals_of_a_connected_one(stage: Stage) -> None:
    a = await stage.endpoint("a", remote_addr=dead_address())
    for n in range(1, 4):
        a.call("sendto", b"nobody is there")
        await stage.until(lambda n=n: len(a.errors) == n)  # type: ignore[misc]
    a.call("is_closing")


@scenarios
async def a_refusal_met_by_sending(stage: Stage) -> None:
    a = await stage.endpoint("a", remote_addr=dead_address())
    a.transport.pause_reading()
    a.call("sendto", b"nobody is there")
    await stage.until(lambda: len(a.errors) == 0)
    a.call("sendto", b"meets the refusal")
    a.transport.resume_reading()
    await stage.until(lambda: len(a.errors) >= 1)
    stage.note("kinds", *{type(error).__name__ for error in a.errors})


@scenarios
async def a_burst_to_nobody_is_told_of(stage: Stage) -> None:
    a = await stage.endpoint("a", remote_addr=dead_address())
    for _ in range(20):
        a.call("sendto", b"nobody is there")
    await stage.until(lambda: a.errors)
    a.transport.abort()
    await stage.until(lambda: a.is_lost)
    # How many datagrams each refusal costs is luck, as the kernel tells of one at a time.
    del stage.notes["a's errors"]
    stage.note("kinds", *{str(error) for error in a.errors})


@scenarios
async def an_error_in_a_burst_costs_itself(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    for i in range(30):
        a.call("sendto", TOO_LONG if i % 10 == 5 else b"%d" % i, to)
    await stage.collect(27)
    await stage.until(lambda: len(a.errors) == 3)


@scenarios
async def destinations_that_cannot_be_reached(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    for addr in (to, ("240.0.0.1", 9), to, (HOST, 0), ("255.255.255.255", 9), to):
        a.call("sendto", b"x", addr)
    await stage.collect(3)
    await stage.until(lambda: len(a.errors) == 3)


@scenarios
async def a_callback_of_an_error_sends(stage: Stage) -> None:
    to = stage.sink().address

    def tell(a: Endpoint, _exc: object) -> None:
        a.transport.sendto(b"what a pity", to)

    a = await stage.endpoint("a", error_received=tell)
    for _ in range(3):
        a.call("sendto", TOO_LONG, to)
    await stage.collect(3)


@scenarios
async def a_callback_of_an_error_aborts(stage: Stage) -> None:
    to = stage.sink().address
    a = await stage.endpoint("a", error_received=lambda a, _: a.transport.abort())
    a.call("sendto", b"before", to)
    a.call("sendto", TOO_LONG, to)
    await stage.until(lambda: a.is_lost)
    await stage.collect(1)


@scenarios
async def connection_made_fails(stage: Stage) -> None:
    a = await stage.endpoint("a", connection_made=fail)
    stage.sink().send(a.transport.get_extra_info("sockname"), b"it lives on")
    await stage.until(lambda: a.received)


@scenarios
async def error_received_fails(stage: Stage) -> None:
    a = await stage.endpoint("a", remote_addr=dead_address(), error_received=fail)
    a.call("sendto", b"nobody is there")
    await stage.until(lambda: a.errors)
    a.call("is_closing")


@scenarios
async def connection_lost_fails(stage: Stage) -> None:
    a = await stage.endpoint("a", connection_lost=fail)
    sock = a.transport.get_extra_info("socket")
    a.transport.close()
    await stage.until(lambda: sock.fileno() == -1)


@scenarios
async def closing_sends_what_was_given_before(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    for i in range(10):
        a.call("sendto", b"%d" % i, to)
    a.call("is_closing")
    a.call("close")
    a.call("is_closing")
    a.call("sendto", b"after", to)
    a.call("close")
    a.call("abort")
    a.call("get_write_buffer_size")
    await stage.until(lambda: a.is_lost)
    await stage.collect(11)


@scenarios
async def aborting_sends_what_has_left(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    for i in range(10):
        a.call("sendto", b"%d" % i, to)
    a.call("abort")
    a.call("abort")
    await stage.until(lambda: a.is_lost)
    await stage.collect(10)


@scenarios
async def what_is_asked_of_a_closed_one(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    b = await stage.endpoint("b", remote_addr=to)
    for each in (a, b):
        each.call("close")
        await stage.until(lambda each=each: each.is_lost)  # type: ignore[misc]
        for method in ("is_closing", "get_write_buffer_size", "close", "is_reading", "abort"):
            each.call(method)
        for _ in range(7):
            each.call("sendto", b"x")
        each.call("sendto", b"x", to)
        stage.note(each.name, repr(each.transport))


@scenarios
async def a_closed_one_is_sent_by_from_outside_the_loop(stage: Stage) -> None:
    a, to = await stage.endpoint("a"), stage.sink().address
    a.call("close")
    await stage.until(lambda: a.is_lost)
    await asyncio.to_thread(a.call, "sendto", b"x", to)


@scenarios
async def closing_where_it_is_sent(stage: Stage) -> None:
    def answer(a: Endpoint, data: bytes, addr: Any) -> None:
        a.transport.sendto(data, addr)
        a.transport.sendto(data + data, addr)
        if data == b"3":
            a.transport.close()
            a.transport.sendto(b"late", addr)

    a = await stage.endpoint("a", datagram_received=answer)
    stage.sink().send(a.transport.get_extra_info("sockname"), *[b"%d" % i for i in range(20)])
    await stage.until(lambda: a.is_lost)
    await stage.collect(9)


@scenarios
async def receiving_fails_for_good(stage: Stage) -> None:
    a = await stage.endpoint("a")
    a.transport._fatal_error(OSError(5, "of a test"), "of a test")
    await stage.until(lambda: a.is_lost)
    b = await stage.endpoint("b")
    b.transport._fatal_error(ZeroDivisionError("of a test"), "of a test")
    await stage.until(lambda: b.is_lost)


@scenarios
async def pickling_and_limits(stage: Stage) -> None:
    a = await stage.endpoint("a")
    stage.call("a", "pickled", pickle.dumps, a.transport)
    a.call("get_write_buffer_limits")
    a.call("set_write_buffer_limits", 100, 200)
    a.call("set_write_buffer_limits", 100)
    a.call("get_write_buffer_limits")
    a.call("get_write_buffer_size")
    for method in ("write", "writelines", "write_eof", "can_write_eof"):
        stage.call("a", method, lambda m=method: getattr(a.transport, m)())


def forget(world: World) -> list[str]:
    """Leave a transport open when its loop closes; return what is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = world.new_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((HOST, 0))
        loop.run_until_complete(world.create(Endpoint.__mro__[1], sock=sock))
        del sock
        loop.close()
        del loop
        gc.collect()
    return [str(each.message).split(" ")[0] + type(each).__name__ for each in caught]


@each_world
def test_a_forgotten_transport_is_warned_of(world: World) -> None:
    assert len(forget(world)) >= 1
