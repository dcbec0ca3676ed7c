"""Sockets of all kinds, full ones too, are as with stock asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import Iterator

import pytest

from loopback import HOST, PlainPeer, needs_ipv6, needs_room
from netns import Link, link, needs_command, needs_netns
from stage import (
    Endpoint,
    Scenario,
    Scenarios,
    Stage,
    World,
    compare,
    each_asyncio_world,
    each_world,
)

scenarios = Scenarios()
pytestmark = needs_room


@scenarios.each
@each_world
def test_it_is_as_on_stock(world: World, scenario: Scenario) -> None:
    compare(world, scenario)


@contextlib.contextmanager
def unix_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as a,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as b,
    ):
        b.bind(f"{folder}/theirs")
        a.connect(f"{folder}/theirs")  # one without a name would count as not connected
        yield a, b


@scenarios
async def unix_sockets_by_path(stage: Stage) -> None:
    with tempfile.TemporaryDirectory() as folder:
        a = await stage.endpoint("a", local_addr=f"{folder}/a", family=socket.AF_UNIX)
        b = await stage.endpoint("b", local_addr=f"{folder}/b", family=socket.AF_UNIX)
        for i in range(9):
            b.call("sendto", b"%d" % i, f"{folder}/a")
            await stage.until(lambda i=i: len(a.received) == i + 1)  # type: ignore[misc]
        b.call("sendto", b"x", f"{folder}/nobody")
        assert {addr for _, addr in a.received} == {f"{folder}/b"}
        del stage.notes["a"][1:]  # the path is of this run
        stage.note("a", *[data for data, _ in a.received])


async def fill(stage: Stage, a: Endpoint, *, size: int = 1000) -> int:
    """Send until the protocol is paused; return how many."""
    n = 0
    while ("pause_writing",) not in stage.notes[a.name]:
        a.transport.sendto(b"%06d" % n + bytes(size))
        n += 1
        a.transport.get_write_buffer_size()
        assert n < 10_000
    return n


@scenarios
async def a_full_unix_socket_pauses_and_resumes(stage: Stage) -> None:
    with unix_pair() as (ours, theirs):
        a = await stage.endpoint("a", sock=ours)
        n = await fill(stage, a)
        stage.note("a", n)
        a.call("get_write_buffer_size")
        theirs.setblocking(False)
        received: list[bytes] = []

        def drain() -> bool:
            with contextlib.suppress(BlockingIOError):
                received.append(theirs.recv(65536)[:6])
            return len(received) == n

        await stage.until(drain)
        stage.note("a", *received)
        a.call("get_write_buffer_size")


@scenarios
async def sizes_of_a_full_unix_socket_are_exact(stage: Stage) -> None:
    def note(a: Endpoint) -> None:
        transport = a.transport
        counted = sum(len(data) + header for data, _ in transport._buffer)
        exact.add(transport.get_write_buffer_size() == counted)

    exact: set[bool] = set()
    header = 8 if sys.version_info >= (3, 13) else 0
    with unix_pair() as (ours, theirs):
        theirs.setblocking(False)
        a = await stage.endpoint("a", sock=ours, resume_writing=note)
        await fill(stage, a)
        n = len(a.transport._buffer)
        while a.transport._buffer:
            note(a)
            with contextlib.suppress(BlockingIOError):
                theirs.recv(65536)
            await asyncio.sleep(0)
        stage.note("a", n > 1, *exact)
        a.call("get_write_buffer_size")


@scenarios
async def closing_a_full_unix_socket_flushes_it(stage: Stage) -> None:
    with unix_pair() as (ours, theirs):
        a = await stage.endpoint("a", sock=ours)
        n = await fill(stage, a)
        a.call("close")
        a.call("is_closing")
        theirs.settimeout(5)
        for _ in range(n):
            stage.note("theirs", theirs.recv(65536)[:6])
            await asyncio.sleep(0)
        await stage.until(lambda: a.is_lost)


@scenarios
async def aborting_a_full_unix_socket_does_not(stage: Stage) -> None:
    with unix_pair() as (ours, theirs):
        a = await stage.endpoint("a", sock=ours)
        await fill(stage, a)
        a.call("abort")
        await stage.until(lambda: a.is_lost)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := theirs.recv(65536):
                stage.note("theirs", data[:6])


@scenarios.marked(needs_ipv6)
async def ipv6_sockets(stage: Stage) -> None:
    a = await stage.endpoint("a", local_addr=("::1", 0))
    b = await stage.endpoint("b", remote_addr=a.transport.get_extra_info("sockname")[:2])
    for i in range(20):
        b.call("sendto", b"%d" % i)
    await stage.until(lambda: len(a.received) == 20)
    for name in ("sockname", "peername"):
        b.call("get_extra_info", name)


@scenarios
async def a_socket_of_the_callers(stage: Stage) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        a = await stage.endpoint("a", sock=sock)
        stage.sink("source").send(sock.getsockname(), b"one", b"two")
        await stage.until(lambda: len(a.received) == 2)
        a.call("close")
        await stage.until(lambda: a.is_lost)
        stage.note("a", sock.fileno())


@scenarios
async def shared_ports_and_broadcast(stage: Stage) -> None:
    a = await stage.endpoint("a", reuse_port=True)
    port = a.transport.get_extra_info("sockname")
    b = await stage.endpoint("b", local_addr=port, reuse_port=True)
    c = await stage.endpoint("c", remote_addr=stage.sink().address, allow_broadcast=True)
    for each in (a, b, c):
        sock = each.transport.get_extra_info("socket")
        for option in (socket.SO_REUSEPORT, socket.SO_BROADCAST):
            stage.note(each.name, bool(sock.getsockopt(socket.SOL_SOCKET, option)))
    c.call("sendto", b"x")
    stage.name_port(c.transport.get_extra_info("socket").getsockname(), "c")  # bound late
    await stage.collect(1)


@scenarios
async def endpoints_that_cannot_be(stage: Stage) -> None:
    taken = stage.sink().address
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
        for options in (
            {"local_addr": taken},
            {"sock": stream},
            {},
            {"family": socket.AF_UNIX, "local_addr": (HOST, 0)},
            {"local_addr": (HOST, 0), "remote_addr": ("::1", 9)},
            {"local_addr": "text"},
            {"local_addr": (HOST, 0, 0)},
            {"sock": stream, "remote_addr": taken},
        ):
            try:
                await stage.world.create(asyncio.DatagramProtocol, **options)
            except Exception as exc:  # noqa: BLE001 - compared
                stage.note("refused", exc)


# A device that is slower than the sender


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    with link() as net:
        yield net


def flow(net: Link, end: str) -> Scenario:
    """Fill a UDP socket whose device sends next to nothing, then let all go out."""

    async def scenario(stage: Stage) -> None:
        net.shape("8kbit")
        with net.right:
            far = stage.sink(host=Link.RIGHT[0])
        with net.left:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            last = PlainPeer(Link.LEFT[0])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        sock.connect(far.address)
        with last, sock:
            a = await stage.endpoint("a", sock=sock)
            if end == "fail":
                a.hooks["pause_writing"] = a.hooks["resume_writing"] = lambda *_: 1 / 0
            a.call("set_write_buffer_limits", 20_000)
            n = await fill(stage, a)
            a.call("get_write_buffer_size")
            a.call("sendto", bytearray(b"the last"))
            if end in ("close", "abort"):
                a.call(end)
            net.shape("1gbit", burst=100_000)
            last.send(far.address, b"pushes")
            if end != "abort":
                await stage.until(lambda: n + 2 <= len(received(stage)))
            else:
                await stage.until(lambda: a.is_lost)
            await stage.until(lambda: a.is_lost or not a.transport.get_write_buffer_size())
            arrived = [data for data in received(stage) if data != b"pushes"]
            del stage.notes["sink"]
            if end != "abort":  # of what was in the socket then, how much is out is luck
                stage.note("sink", n, *arrived)

    return scenario


def received(stage: Stage) -> list[bytes]:
    stage.drain()
    return [data[:6] for data, _ in stage.notes.get("sink", [])]


@needs_netns
@needs_command("tc")
@each_world
@pytest.mark.parametrize(
    "end",
    ["go on", "close", "abort", "fail"],
)
def test_a_full_udp_socket_is_as_on_stock(net: Link, world: World, end: str) -> None:
    compare(world, flow(net, end))


@needs_netns
@each_asyncio_world
def test_multicast_of_ipv6_is_as_on_stock(net: Link, world: World) -> None:
    async def scenario(stage: Stage) -> None:
        group = "ff02::1234"
        with net.left:
            index = socket.if_nametoindex("v0")
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            source = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("::", 0))
        membership = socket.inet_pton(socket.AF_INET6, group) + index.to_bytes(4, sys.byteorder)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        with sock, source:
            a = await stage.endpoint("a", sock=sock)
            b = await stage.endpoint("b", sock=source)
            for i in range(9):
                b.call("sendto", b"%d" % i, (group, sock.getsockname()[1], 0, index))
            await stage.until(lambda: len(a.received) == 9)
            stage.note("a", len(a.received))
            del stage.notes["a"][1:-1]  # the source's port was bound late

    compare(world, scenario)
