"""What is sent while an endpoint closes, with a full write buffer too: as with stock asyncio.

That the buffer is full is played: items are put into it, as after EAGAIN.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

import batching.asyncio
from loopback import PlainPeer, needs_room
from stage import (
    Endpoint,
    Scenario,
    Scenarios,
    Stage,
    World,
    compare,
    each_world,
)

scenarios = Scenarios()
pytestmark = needs_room
TOO_LONG = bytes(65508)
HEADER = 8 if sys.version_info >= (3, 13) else 0  # bytes a datagram, to the water marks


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


def fill(transport: Any, *items: tuple[bytes, Any]) -> None:
    for data, addr in items:
        transport._buffer.append((data, addr))
        transport._buffer_size += len(data) + HEADER
    transport._loop._add_writer(transport._sock_fd, transport._sendto_ready)


def sends(to: Any, *data: bytes) -> Any:
    def hook(endpoint: Endpoint, *_: object) -> None:
        for each in data:
            endpoint.transport.sendto(each, to)

    return hook


@scenarios
async def a_replaced_sendto_to_two_addresses(stage: Stage) -> None:
    one, other = stage.sink("one").address, stage.sink("other").address
    a = await stage.endpoint("a")
    plain = a.transport.sendto
    a.transport.sendto = lambda data, addr: plain(b"<" + data + b">", addr)
    for number in range(4):
        for to in (one, other):
            a.transport.sendto(b"%d" % number, to)
    await stage.collect(4)
    await stage.collect(4, index=1)


@scenarios
async def what_an_error_has_sent_as_it_closes(stage: Stage) -> None:
    to = stage.sink().address
    a = await stage.endpoint("a", error_received=sends(to, b"1", b"2", b"3", b"4"))
    a.call("sendto", b"first", to)
    a.call("sendto", TOO_LONG, to)
    a.call("close")
    await stage.until(lambda: a.is_lost)
    await stage.collect(5)


@scenarios
async def what_is_sent_when_writing_resumes_as_it_closes(stage: Stage) -> None:
    to = stage.sink().address
    a = await stage.endpoint("a", resume_writing=sends(to, b"1", b"2", b"3", b"4"))
    a.transport.set_write_buffer_limits(0)
    fill(a.transport, (b"kept", to))
    a.transport._maybe_pause_protocol()
    a.call("close")
    await stage.until(lambda: a.is_lost)
    await stage.collect(5)


@scenarios
async def what_is_sent_as_the_connection_is_lost(stage: Stage) -> None:
    to = stage.sink().address
    a = await stage.endpoint("a", connection_lost=sends(to, b"1", b"2", b"3", b"4"))
    fill(a.transport, (b"kept", to))
    a.call("close")
    await stage.until(lambda: a.is_lost)
    await stage.collect(5)


@scenarios
async def closing_in_a_burst_with_a_full_buffer(stage: Stage) -> None:
    to = stage.sink().address

    def close(endpoint: Endpoint, *_: object) -> None:
        fill(endpoint.transport, (b"kept", to))
        endpoint.transport.close()
        endpoint.transport.sendto(b"behind it", to)

    a = await stage.endpoint("a", datagram_received=close)
    stage.sink("source").send(a.transport.get_extra_info("sockname"), b"1", b"2", b"3")
    await stage.until(lambda: a.is_lost)
    await stage.collect(2)


def loop_with_endpoint(peer: PlainPeer) -> tuple[Any, Any]:
    loop = batching.asyncio.new_event_loop()
    made = loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    return loop, loop.run_until_complete(made)[0]


def test_an_abort_while_the_buffer_goes_out_leaves_no_writer(peer: PlainPeer) -> None:
    """Else the next socket of that number could not be watched."""
    loop = batching.asyncio.new_event_loop()

    class Aborting(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport, self.is_lost = transport, False

        def error_received(self, exc: Exception) -> None:
            self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            assert not self.is_lost
            self.is_lost = True

    async def abort() -> None:
        made = await loop.create_datagram_endpoint(Aborting, local_addr=("127.0.0.1", 0))
        transport: Any = made[0]
        fd = transport._sock_fd
        fill(transport, (b"one", peer.address), (TOO_LONG, peer.address), (b"two", peer.address))
        while not made[1].is_lost:
            await asyncio.sleep(0.001)
        selector: Any = loop
        assert fd not in selector._selector.get_map()

    loop.run_until_complete(abort())
    loop.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of fork beside threads, from 3.12 on
def test_a_forked_child_leaves_what_waits_to_its_parent(peer: PlainPeer) -> None:
    loop, transport = loop_with_endpoint(peer)

    async def send_and_fork() -> None:
        for number in range(4):
            transport.sendto(b"%d" % number, peer.address)
        child = os.fork()
        if not child:
            try:
                transport._flush()
            finally:
                os._exit(0)
        os.waitpid(child, 0)

    loop.run_until_complete(send_and_fork())
    assert peer.collect(4) == [b"0", b"1", b"2", b"3"]
    transport.abort()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
