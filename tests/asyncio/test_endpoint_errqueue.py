"""Sockets on which the user set IP_RECVERR: told as on stock asyncio, but nothing spins.

Stock reads no error queue, so its loop is woken for ever by one that has an entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import Iterator
from typing import Any

from batching._kernel import IP_RECVERR, SOL_IP
from loopback import HOST, dead_address, needs_linux
from stage import STOCK, Scenario, Scenarios, Stage, World, compare, each_world, play

scenarios = Scenarios()
pytestmark = needs_linux


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


@contextlib.contextmanager
def hearing(remote: Any = None) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(SOL_IP, IP_RECVERR, 1)
        sock.setblocking(False)
        sock.bind((HOST, 0))
        if remote:
            sock.connect(remote)
        yield sock


@scenarios
async def a_refusal_of_one_that_is_not_connected(stage: Stage) -> None:
    with hearing() as sock:
        a = await stage.endpoint("a", sock=sock)
        a.call("sendto", b"nobody is there", dead_address())
        await stage.until(lambda: a.errors)
        a.call("sendto", b"somebody is", stage.sink().address)
        await stage.collect(1)


@scenarios
async def a_refusal_of_a_connected_one(stage: Stage) -> None:
    with hearing(dead_address()) as sock:
        a = await stage.endpoint("a", sock=sock)
        for n in range(1, 4):
            a.call("sendto", b"nobody is there")
            await stage.until(lambda n=n: len(a.errors) == n)  # type: ignore[misc]


async def until_it_rests(stage: Stage) -> None:
    """Return once the kernel has no more to say of the socket's errors."""
    with hearing() as sock:
        a = await stage.endpoint("a", sock=sock)
        poller = select.poll()
        poller.register(sock, 0)
        for paused in (False, True):
            a.call("sendto", b"nobody is there", dead_address())
            if paused:
                assert poller.poll(0)
                a.transport.pause_reading()
                a.transport.resume_reading()
            await stage.until(lambda: not poller.poll(0))


@each_world
def test_the_loop_rests_afterwards(world: World) -> None:
    assert play(world, until_it_rests)


def test_stock_does_not_rest() -> None:
    async def turns(stage: Stage) -> None:
        with hearing() as sock:
            a = await stage.endpoint("a", sock=sock)
            a.call("sendto", b"nobody is there", dead_address())
            await stage.until(lambda: a.errors)
            poller = select.poll()
            poller.register(sock, 0)
            for _ in range(100):
                await asyncio.sleep(0)
            assert poller.poll(0)
            a.transport.abort()

    assert play(STOCK, turns)
