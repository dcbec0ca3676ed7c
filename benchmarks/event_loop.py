"""One event loop under test, one use of it a process.

event_loop.py recv LOOP SIZE
event_loop.py send LOOP SIZE COUNT PORT
event_loop.py echo LOOP
event_loop.py ping LOOP callbacks|task SIZE PORT

recv and send know the commands of contender.py, and ``check``: what arrives, or is sent, is then
compared byte by byte with ``samples``, which takes no part in what is measured.  echo answers
each line with the CPU time it has used, ping with the median round trip of so many pings.
Rule 1 of contender.py holds: a protocol that is measured counts, and looks for the mark.
The mark of the end is not empty here: for an empty datagram asyncio frees the 256 KiB that it
made for it, whole, whereupon glibc gets such memory without asking the kernel from then on, and
all that follows is received in half the time.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from child import LOOPBACK, RECEIVE_BUFFER, commands, say

from batching.asyncio import new_event_loop
from batching.cli.aio import Sending
from batching.cli.machine import force_receive_buffer

P = TypeVar("P", bound=asyncio.BaseProtocol)
Loop = asyncio.AbstractEventLoop
Transport = asyncio.DatagramTransport

MARK = b"."
LAST = b"the last one"
EXTRAS = ("uvloop", "aiofastnet")  # ways that are packages
FACTORIES: dict[str, Callable[[], Loop]] = {
    "stock": asyncio.new_event_loop,
    "stock64K": asyncio.new_event_loop,  # see Endpoint
    "uvloop": lambda: cast(Loop, importlib.import_module("uvloop").new_event_loop()),
    "aiofastnet": lambda: cast(
        Loop, importlib.import_module("aiofastnet").patch_loop(asyncio.new_event_loop())
    ),
    "ours": new_event_loop,
    "ours, lists": new_event_loop,
}


def is_here(way: str) -> bool:
    """Tell whether what a way needs is installed."""
    return way not in EXTRAS or importlib.util.find_spec(way) is not None


def samples(size: int) -> list[bytes]:
    """Return datagrams that differ from one another, as many as some batches hold."""
    numbers = random.Random(size)
    return [numbers.randbytes(size) for _ in range(300)]


def digest(datagrams: Iterable[bytes]) -> str:
    """Return what tells datagrams in one order from others, and from other borders."""
    found = hashlib.sha256()
    for data in datagrams:
        found.update(len(data).to_bytes(4, "big") + data)
    return found.hexdigest()


class Endpoint:
    """A loop that runs between commands only, and its socket."""

    def __init__(self, way: str) -> None:
        self.way = way
        self.loop = FACTORIES[way]()
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        force_receive_buffer(self.sock, RECEIVE_BUFFER)
        self.sock.bind((LOOPBACK, 0))
        self.address = self.sock.getsockname()

    def open(self, factory: Callable[[], P]) -> tuple[Transport, P]:
        async def create() -> tuple[Transport, P]:
            return await self.loop.create_datagram_endpoint(factory, sock=self.sock)

        transport, protocol = self.loop.run_until_complete(create())
        if self.way == "stock64K":
            cast(Any, transport).max_size = 65536
        return transport, protocol


# ---- receiving ----


class Receiving(asyncio.DatagramProtocol):
    """Counts what comes before the mark of the end, which alone has another size."""

    def __init__(self, loop: Loop, size: int) -> None:
        self.loop = loop
        self.size = size
        self.count = self.calls = 0
        self.done: asyncio.Future[None] = loop.create_future()

    def begin(self) -> asyncio.Future[None]:
        self.count = self.calls = 0
        self.done = self.loop.create_future()
        return self.done

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) == self.size:
            self.count += 1
        elif not self.done.done():
            self.done.set_result(None)


class ReceivingLists(Receiving):
    def datagrams_received(self, datagrams: list[tuple[bytes, object]]) -> None:
        self.calls += 1
        if len(datagrams[-1][0]) == self.size:
            self.count += len(datagrams)
        else:
            for data, addr in datagrams:
                self.datagram_received(data, addr)


class Collecting(Receiving):
    """Keeps what comes up to ``LAST``."""

    def __init__(self, loop: Loop, size: int) -> None:
        super().__init__(loop, size)
        self.datagrams: list[bytes] = []

    def datagram_received(self, data: bytes, addr: object) -> None:
        if data == LAST and not self.done.done():
            self.done.set_result(None)
        elif data != MARK:
            self.datagrams.append(data)


class CollectingLists(Collecting):
    def datagrams_received(self, datagrams: list[tuple[bytes, object]]) -> None:
        for data, addr in datagrams:
            self.datagram_received(data, addr)


def receive(way: str, size: int) -> None:
    endpoint = Endpoint(way)
    loop = endpoint.loop
    are_lists = way == "ours, lists"
    kind, collector = (ReceivingLists, CollectingLists) if are_lists else (Receiving, Collecting)
    transport, protocol = endpoint.open(lambda: kind(loop, size))
    say(ports=[endpoint.address[1]])
    marker = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def collect(*, is_last_sent: bool) -> list[bytes]:
        """Return what has come up to ``LAST``: nothing that came before it is there still."""
        collecting = collector(loop, size)
        transport.set_protocol(collecting)
        try:
            if not is_last_sent:
                marker.sendto(LAST, endpoint.address)
            loop.run_until_complete(asyncio.wait_for(collecting.done, 30))
        finally:
            transport.set_protocol(protocol)
        return collecting.datagrams

    for (command,) in commands():
        if command == "flush":
            collect(is_last_sent=False)
            say()
        elif command == "check":
            say(digest=digest(collect(is_last_sent=True)))
        else:  # live, full: nothing comes before the command is read
            done = protocol.begin()
            cpu, start = time.process_time(), time.perf_counter()
            loop.run_until_complete(done)
            elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
            n = protocol.count
            calls = protocol.calls or n
            say(datagrams=n, calls=calls, measured=n, wrong=0, seconds=elapsed, cpu=cpu)


# ---- sending ----


def send(way: str, size: int, count: int, port: int) -> None:
    """Send ``count`` a turn."""
    endpoint = Endpoint(way)
    transport, protocol = endpoint.open(Sending)
    say(ports=[])
    datagrams = [bytes(size) for _ in range(count)]
    clock = time.perf_counter

    async def run(seconds: float, to: tuple[str, int]) -> int:
        turns, end = 0, clock() + seconds
        while clock() < end:
            for data in datagrams:
                transport.sendto(data, to)
            turns += 1
            await asyncio.sleep(0)
            if not protocol.writable.is_set():
                await protocol.writable.wait()
        await protocol.sent(transport)
        return turns

    async def check(to: tuple[str, int]) -> None:
        everything = samples(size)
        for at in range(0, len(everything), count):
            for data in everything[at : at + count]:
                transport.sendto(data, to)
            await asyncio.sleep(0)
        await protocol.sent(transport)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as marker:
        for command, argument in commands():
            if command == "check":
                endpoint.loop.run_until_complete(check((LOOPBACK, int(argument))))
                say()
                continue
            cpu, start = time.process_time(), clock()
            turns = endpoint.loop.run_until_complete(run(float(command), (LOOPBACK, port)))
            elapsed, cpu = clock() - start, time.process_time() - cpu
            marker.sendto(b"", (LOOPBACK, port))
            n = turns * count
            say(datagrams=n, calls=turns, measured=n, wrong=0, seconds=elapsed, cpu=cpu)


# ---- echo and ping-pong ----


class Echoing(asyncio.DatagramProtocol):
    transport: Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(Transport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class EchoingLists(Echoing):
    def datagrams_received(self, datagrams: list[tuple[bytes, tuple[str, int]]]) -> None:
        sendto = self.transport.sendto
        for data, addr in datagrams:
            sendto(data, addr)


def answer_cpu(loop: Loop) -> None:
    """Answer each line with the CPU seconds that were used, while the loop runs; end with stdin."""

    def answer() -> None:
        if os.read(0, 4096):
            say(cpu=time.process_time())
        else:
            loop.stop()

    loop.add_reader(0, answer)


def echo(way: str) -> None:
    endpoint = Endpoint(way)
    endpoint.open(EchoingLists if way == "ours, lists" else Echoing)
    say(ports=[endpoint.address[1]])
    answer_cpu(endpoint.loop)
    endpoint.loop.run_forever()


class Pinging(asyncio.DatagramProtocol):
    """The next ping leaves in the callback of the last one's answer, or a task awaits that."""

    transport: Transport

    def __init__(self, loop: Loop, data: bytes, to: tuple[str, int]) -> None:
        self.loop = loop
        self.data = data
        self.to = to
        self.left = self.sent_at = 0
        self.times: list[int] = []
        self.answered: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(Transport, transport)

    async def run(self, pings: int) -> None:
        self.left = pings
        self.answered = self.loop.create_future()
        self.ping()
        await self.answered

    def ping(self) -> None:
        self.sent_at = time.perf_counter_ns()
        self.transport.sendto(self.data, self.to)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.times.append(time.perf_counter_ns() - self.sent_at)
        self.left -= 1
        if data != self.data:
            self.answered.set_exception(RuntimeError("another answer than the ping"))
        elif self.left:
            self.ping()
        else:
            self.answered.set_result(data)


class PingingTask(Pinging):
    async def run(self, pings: int) -> None:
        clock = time.perf_counter_ns
        for _ in range(pings):
            start = clock()
            self.answered = self.loop.create_future()
            self.transport.sendto(self.data, self.to)
            data = await self.answered
            self.times.append(clock() - start)
            if data != self.data:
                raise RuntimeError("another answer than the ping")

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.answered.set_result(data)


def ping(way: str, manner: str, size: int, port: int) -> None:
    endpoint = Endpoint(way)
    kind = PingingTask if manner == "task" else Pinging
    data = random.Random(size).randbytes(size)
    _, protocol = endpoint.open(lambda: kind(endpoint.loop, data, (LOOPBACK, port)))
    say(ports=[])
    for (pings,) in commands():
        protocol.times.clear()
        cpu = time.process_time()
        endpoint.loop.run_until_complete(asyncio.wait_for(protocol.run(int(pings)), 60))
        cpu = time.process_time() - cpu
        say(p50=sorted(protocol.times)[int(pings) // 2], cpu=1e9 * cpu / int(pings))


if __name__ == "__main__":
    use, way, *rest = sys.argv[1:]
    if use == "recv":
        receive(way, int(rest[0]))
    elif use == "send":
        send(way, *map(int, rest))
    elif use == "echo":
        echo(way)
    else:
        ping(way, rest[0], int(rest[1]), int(rest[2]))
