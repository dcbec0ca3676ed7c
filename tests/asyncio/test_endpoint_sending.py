"""Sending: what leaves, in which order, and what is raised, is as with stock asyncio."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Any

from loopback import HOST, needs_ipv6, needs_room
from stage import Endpoint, Scenario, Scenarios, Stage, World, compare, each_world

scenarios = Scenarios()
pytestmark = needs_room
IP_RECVTTL = 12  # include/uapi/linux/in.h
WRONG_DATA: list[Any] = ["text", None, 5, [b"x"], object(), ("x",)]


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


async def open_pair(stage: Stage, *, connected: bool = False, **options: Any) -> tuple[Any, Any]:
    """Open an endpoint, and a plain socket; return it and the socket's address to send to."""
    to = stage.sink().address
    if connected:
        options["remote_addr"] = to
    return await stage.endpoint("a", **options), None if connected else to


@scenarios
async def a_burst_leaves_in_order(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for i in range(1500):
        a.transport.sendto(b"%d" % i, to)
    await stage.collect(1500)


@scenarios
async def a_burst_leaves_a_connected_one_in_order(stage: Stage) -> None:
    a, _ = await open_pair(stage, connected=True)
    for i in range(100):
        a.call("sendto", b"%d" % i)
    await stage.collect(100)


@scenarios
async def what_connection_made_sends_leaves(stage: Stage) -> None:
    to = stage.sink().address

    def greet(a: Endpoint) -> None:
        for i in range(5):
            a.call("sendto", b"%d" % i, to)

    await stage.endpoint("a", connection_made=greet)
    await stage.collect(5)


@scenarios
async def turns_keep_their_order(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for i in range(100):
        for j in range(i % 4):
            a.transport.sendto(b"%d.%d" % (i, j), to)
        await asyncio.sleep(0)
    await stage.collect(150)


@scenarios
async def host_names_keep_their_place(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for i in range(20):
        a.transport.sendto(b"%d" % i, ("localhost", to[1]) if i % 3 == 2 else to)
    await stage.collect(20)


@scenarios
async def destinations_get_theirs(stage: Stage) -> None:
    a = await stage.endpoint("a")
    sinks = [stage.sink(name) for name in ("one", "two", "three")]
    for i in range(90):
        a.transport.sendto(b"%d" % i, sinks[i % 3].address)
    for index in range(3):
        await stage.collect(30, index=index)


@scenarios
async def what_a_buffer_held_leaves(stage: Stage) -> None:
    a, to = await open_pair(stage)
    data = bytearray(b"....")
    for i in range(10):
        data[:] = b"%04d" % i
        a.transport.sendto(data, to)
        a.transport.sendto(memoryview(data)[1:], to)
        data[:] = b"gone"
    data.extend(b"not exported any more")
    await stage.collect(20)


@scenarios
async def memoryviews_of_other_formats(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for _ in range(2):
        a.call("sendto", memoryview(bytes(range(16))).cast("I"), to)
        a.call("sendto", memoryview(bytes(range(16))).cast("B", (4, 4)), to)
        a.call("sendto", memoryview(b"read only"), to)
    await stage.collect(6)


@scenarios
async def a_memoryview_with_gaps_is_fatal(stage: Stage) -> None:
    a, to = await open_pair(stage)
    a.call("sendto", b"before", to)
    a.call("sendto", b"before too", to)
    a.call("sendto", memoryview(b"abcdef")[::2], to)
    await stage.until(lambda: a.is_lost)
    await stage.collect(2)


@scenarios
async def a_released_memoryview_is_as_it_was(stage: Stage) -> None:
    a, to = await open_pair(stage)
    view = memoryview(b"abc")
    view.release()
    a.call("sendto", b"before", to)
    a.call("sendto", view, to)
    await stage.collect(1)


@scenarios
async def subclasses_of_buffers(stage: Stage) -> None:
    class Text(bytes):
        def __bytes__(self) -> bytes:
            return b"asked the wrong way"

    a, to = await open_pair(stage)
    for _ in range(3):
        a.call("sendto", Text(b"right"), to)
    await stage.collect(3)


@scenarios
async def wrong_data_raises(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for data in WRONG_DATA:
        a.call("sendto", data, to)
        a.call("sendto", data)
    a.call("sendto", b"still open", to)
    await stage.collect(1)


@scenarios
async def empty_datagrams_are_as_the_version_has_them(stage: Stage) -> None:
    a, to = await open_pair(stage)
    for data in (b"", b"x", b"", b"", b"y", bytearray(), memoryview(b"")):
        a.call("sendto", data, to)
    a.call("sendto", b"last", to)
    await stage.collect(8 if sys.version_info >= (3, 13) else 3)


@scenarios
async def echo(stage: Stage) -> None:
    def answer(a: Endpoint, data: bytes, addr: Any) -> None:
        a.transport.sendto(data, addr)

    a = await stage.endpoint("a", datagram_received=answer)
    stage.sink().send(a.transport.get_extra_info("sockname"), *[b"%d" % i for i in range(150)])
    await stage.collect(150)


@scenarios
async def endpoints_talk_to_each_other(stage: Stage) -> None:
    def answer(_: Endpoint, data: bytes, addr: Any) -> None:
        if len(data) < 20:
            other = {"b": c, "c": b}[_.name]
            other.transport.sendto(data + b"x", addr)

    b = await stage.endpoint("b", datagram_received=answer)
    c = await stage.endpoint("c", datagram_received=answer)
    a = await stage.endpoint("a")
    for endpoint in (b, c):
        a.transport.sendto(b"ball", endpoint.transport.get_extra_info("sockname"))
    await stage.until(lambda: len(a.received) == 2)


@scenarios
async def sendto_may_be_replaced(stage: Stage) -> None:
    a, to = await open_pair(stage)
    plain = a.transport.sendto

    def dropping(data: bytes, addr: Any = None) -> None:
        if data != b"drop":
            plain(data + b"!", addr)

    a.transport.sendto = dropping
    for data in (b"one", b"drop", b"two"):
        a.transport.sendto(data, to)
    await stage.collect(2)


@scenarios
async def options_hold_for_what_is_sent_after_them(stage: Stage) -> None:
    a, to = await open_pair(stage)
    plain = stage.sink("other")
    plain.sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    sock = a.transport.get_extra_info("socket")
    for ttl in (3, 4, 5):
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        a.transport.sendto(b"%d" % ttl, plain.address)
        a.transport.sendto(b"%d again" % ttl, plain.address)
    for _ in range(6):
        await stage.until(lambda: readable(plain.sock))
        data, control, _flags, _from = plain.sock.recvmsg(100, 100)
        stage.note("ttl", data, control[0][2])
    a.transport.sendto(b"over", to)
    await stage.collect(1)


def readable(sock: socket.socket) -> bool:
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    return True


# Addresses


async def check_addresses(stage: Stage, *addresses: Any, **options: Any) -> None:
    """Send to each, alone and behind another, each from an endpoint of its own."""
    host = options["local_addr"][0] if "local_addr" in options else HOST
    to = stage.sink(host=host).address
    for i, given in enumerate(addresses):
        is_open = isinstance(given, tuple) and given[1:2] == (0,)
        addr = (given[0], to[1], *given[2:]) if is_open else given
        a = await stage.endpoint(f"a{i}", **options)
        for _ in range(2):
            a.call("sendto", b"to it", addr)
        a.call("sendto", b"before", to)
        a.call("sendto", b"to it", addr)
        a.call("sendto", b"after", to)
        a.call("is_closing")
        a.transport.close()
        await stage.until(lambda a=a: a.is_lost)  # type: ignore[misc]
        stage.drain()  # before another endpoint gets this one's port


@scenarios
async def addresses_of_an_unconnected_one(stage: Stage) -> None:
    wrong = (None, "127.0.0.1", ("127.0.0.1",), ("127.0.0.1", "0"), [HOST, 0], 5, (HOST, 70000))
    also = ((HOST, -1), (HOST, 1.5), ("::1", 0), (b"127.0.0.1", 0), ("127.1", 0), (HOST, 0, 0), ())
    await check_addresses(stage, (HOST, 0), ("localhost", 0), ("", 0), *wrong, *also)


@scenarios.marked(needs_ipv6)
async def addresses_of_an_ipv6_one(stage: Stage) -> None:
    good = (("::1", 0), ("::1", 0, 0), ("::1", 0, 0, 0), ("", 0))
    wrong = ((HOST, 0), ("::ffff:127.0.0.1", 0), ("::1%lo", 0), ("<broadcast>", 0))
    also = (("::1", 0, 1 << 20), ("::1", 0, 0, -1), ("::1", 0, 0, 0, 0), ("fe80::1%nosuch", 0))
    await check_addresses(stage, *good, *wrong, *also, local_addr=("::1", 0))


@scenarios
async def addresses_of_a_connected_one(stage: Stage) -> None:
    a, _ = await open_pair(stage, connected=True)
    to = a.transport.get_extra_info("peername")
    for addr in (None, to, (HOST, 1), ("localhost", to[1]), "text", (), [*to], (*to, 0)):
        a.call("sendto", b"x", addr)
    a.transport.close()
    a.call("sendto", b"after closing")
    a.call("sendto", b"after closing", (HOST, 1))
    await stage.collect(2)


@scenarios
async def addresses_of_one_whose_socket_came_connected(stage: Stage) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(stage.sink().address)
        a = await stage.endpoint("a", sock=sock)
        for addr in (None, (HOST, 1), ("localhost", 1), "text"):
            a.call("sendto", b"x", addr)
            a.call("sendto", b"y", addr)
        a.call("get_extra_info", "peername")
        await stage.collect(8)


@scenarios
async def extra_info(stage: Stage) -> None:
    a, _ = await open_pair(stage, connected=True)
    b = await stage.endpoint("b")
    for each in (a, b):
        for name in ("socket", "sockname", "peername", "addr", "nothing", None):
            each.call("get_extra_info", name)
        each.call("get_extra_info", "nothing", "instead")
        sock = each.transport.get_extra_info("socket")
        stage.note(each.name, repr(sock), int(sock.family), int(sock.type), sock.getsockname())
        for method in ("close", "send", "recv", "settimeout"):
            stage.call(each.name, method, lambda m=method, s=sock: getattr(s, m)(5))
