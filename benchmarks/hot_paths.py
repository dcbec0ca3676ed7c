"""The hot paths whose instructions are counted: what instructions.py runs under callgrind.

hot_paths.py

Prints the paths as JSON.  Each is run in blocks of calls.  Before each block, between its two
halves and after it a mark is made, at which callgrind writes down what it has counted: the
first half only prepares (sends what the second receives, for example, to somebody else), the
second half prepares and calls.  So the difference is that of the calls alone.

Rule 1: nothing depends on time.  Nobody waits who has not been waiting in one system call for
what comes for sure, and the clock that a transport looks at stands still within a turn.
Rule 2: nothing depends on chance.  No garbage is looked for while counting, and all sockets
are of this process.
Rule 3: every path is seen to move the datagrams that it claims, before and after.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import batching
from batching._kernel import SOL_UDP, UDP_SEGMENT

LOOPBACK = "127.0.0.1"
BLOCKS = 3  # the least is taken
CALLS = 24  # a block: a receiver repeats itself after 8 + 16 calls of one message (slots.pxd)
WARM_UP = 3  # blocks
TURN_NS = 1_000_000  # longer than what a transport takes for one turn
mark = os.getppid  # instructions.py tells callgrind so; nothing else calls it
now_ns = [0]

Address = tuple[str, int]


class Path(NamedTuple):
    """A way for datagrams to go."""

    name: str
    datagrams: int
    """A call."""
    run: Callable[[int], object]
    """Prepare and call, so many times."""
    prepare: Callable[[int], object]
    """All but the calls."""
    moved: Callable[[], int]
    """Return how many datagrams have arrived."""


class Sink:
    """A socket to send to, which is read only to see what came."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        # Capped, silently, at twice net.core.rmem_max: room for a batch, without a privilege.
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self._sock.bind((LOOPBACK, 0))
        self._sock.setblocking(False)
        self._count = 0
        self.address: Address = self._sock.getsockname()
        self.fileno = self._sock.fileno

    def count(self) -> int:
        """Read what is there, and return how many datagrams that were since the beginning."""
        try:
            while True:
                self._sock.recv(1)
                self._count += 1
        except BlockingIOError:
            return self._count


class Feed:
    """Sends a train to a socket of this process, with a plain socket, and sees that it came."""

    def __init__(self, size: int, count: int, to: Address, fd: int) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] if count > 1 else []
        arrivals = select.poll()
        arrivals.register(fd, select.POLLIN)
        self._send = functools.partial(sock.sendmsg, [bytes(size * count)], control, 0, to)
        self._await = arrivals.poll

    def __call__(self) -> None:
        self._send()
        self._await()


def nothing(*_: object) -> None:
    """Stand in for a call."""


def repeat(prepare: Callable[[], object], call: Callable[[], object], calls: int) -> None:
    for _ in range(calls):
        prepare()
        call()


def feeds(size: int, count: int, to: Address, fd: int) -> tuple[Feed, Feed]:
    """Return a feed, and the same to somebody else."""
    elsewhere = Sink()
    return Feed(size, count, to, fd), Feed(size, count, elsewhere.address, elsewhere.fileno())


def sending() -> Iterator[Path]:
    conn = batching.open_conn((LOOPBACK, 0))
    first, second = Sink(), Sink()

    def path(name: str, datagrams: int, call: Callable[[], object]) -> Path:
        return Path(
            name,
            datagrams,
            functools.partial(repeat, nothing, call),
            functools.partial(repeat, nothing, nothing),
            lambda: first.count() + second.count(),
        )

    buffers = [bytearray(1400) for _ in range(128)]
    yield path(
        "write_batch_to, 128 x 1400 B", 128, lambda: conn.write_batch_to(buffers, first.address)
    )
    pairs = [(bytes(64), first.address) for _ in range(128)]
    yield path("send_batch, 128 x 64 B", 128, lambda: conn.send_batch(pairs))
    in_turn = [(bytes(64), sink.address) for _ in range(64) for sink in (first, second)]
    yield path("send_batch, two in turn, 128 x 64 B", 128, lambda: conn.send_batch(in_turn))
    yield path("send_batch, 1 x 64 B", 1, lambda: conn.send_batch([(bytes(64), first.address)]))
    train = [batching.Segments(bytes(46 * 1400), 1400, first.address)]
    yield path("send_segments, 46 x 1400 B", 46, lambda: conn.send_segments(train))


def receiving() -> Iterator[Path]:
    conn = batching.open_conn((LOOPBACK, 0))
    control = batching.min_control_message_size()
    messages = [
        batching.Message(buffers=[bytearray(2048)], oob=bytearray(control)) for _ in range(128)
    ]

    def path(name: str, count: int, size: int, call: Callable[[], object]) -> Path:
        feed, elsewhere = feeds(size, count, conn.local_addr()[:2], conn.fileno())
        return Path(
            f"{name}, {count} x {size} B",
            count,
            functools.partial(repeat, feed, call),
            functools.partial(repeat, elsewhere, nothing),
            lambda: conn.stats().recv_datagrams,
        )

    for count, size in ((46, 1400), (64, 64)):
        yield path("recv_batch", count, size, conn.recv_batch)
        yield path("read_batch", count, size, lambda: conn.read_batch(messages))
        yield path("recv_segments", count, size, conn.recv_segments)
    yield path("recv_batch", 1, 64, conn.recv_batch)


def forwarding() -> Iterator[Path]:
    conn, onward, sink = batching.open_conn((LOOPBACK, 0)), batching.open_conn(), Sink()
    feed, elsewhere = feeds(1400, 46, conn.local_addr()[:2], conn.fileno())
    yield Path(
        "send_segments(recv_segments()), 46 x 1400 B",
        46,
        functools.partial(
            repeat, feed, lambda: onward.send_segments(conn.recv_segments(), to=sink.address)
        ),
        functools.partial(repeat, elsewhere, nothing),
        sink.count,
    )


class Receiving(asyncio.DatagramProtocol):
    """Counts; feeds itself once a train is through, so that nothing else is ready in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int, size: int) -> None:
        self._loop = loop
        self._train = count
        self._size = size
        self.count = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        self._feed, self._elsewhere = feeds(
            self._size, self._train, sock.getsockname(), sock.fileno()
        )

    def run(self, calls: int) -> None:
        self._until = self.count + calls * self._train
        self._done = self._loop.create_future()
        self._feed()
        self._loop.run_until_complete(self._done)

    def prepare(self, calls: int) -> None:
        repeat(self._elsewhere, nothing, calls)

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.count += 1
        if not self.count % self._train:
            self._go_on()

    def _go_on(self) -> None:
        now_ns[0] += TURN_NS
        if self.count < self._until:
            self._feed()
        elif not self._done.done():
            self._done.set_result(None)


class ReceivingLists(Receiving):
    def datagrams_received(self, datagrams: list[tuple[bytes, object]]) -> None:
        self.count += len(datagrams)
        if not self.count % self._train:
            self._go_on()


class Sending(asyncio.DatagramProtocol):
    def error_received(self, exc: Exception) -> None:
        raise SystemExit(f"a datagram was not sent: {exc}")


def in_loop() -> Iterator[Path]:
    # Taken by a transport's module when it is imported; in C, so as to cost what the true one does.
    vars(time).update(perf_counter_ns=functools.partial(now_ns.__getitem__, 0))
    from batching.asyncio import new_event_loop

    loop = new_event_loop()
    for kind, name in ((Receiving, "datagram_received"), (ReceivingLists, "datagrams_received")):
        receiver = loop.run_until_complete(
            loop.create_datagram_endpoint(
                functools.partial(kind, loop, 46, 1400), local_addr=(LOOPBACK, 0)
            )
        )[1]
        yield Path(
            f"asyncio, {name}, 46 x 1400 B",
            46,
            receiver.run,
            receiver.prepare,
            functools.partial(getattr, receiver, "count"),
        )
    transport, _ = loop.run_until_complete(
        loop.create_datagram_endpoint(Sending, local_addr=(LOOPBACK, 0))
    )
    sink = Sink()

    async def send(sendto: Callable[[bytes, Address], object], turns: int) -> None:
        data, address = bytes(64), sink.address
        for _ in range(turns):
            for _ in range(128):
                sendto(data, address)
            await asyncio.sleep(0)
            now_ns[0] += TURN_NS

    yield Path(
        "asyncio, sendto, 128 x 64 B a turn",
        128,
        lambda turns: loop.run_until_complete(send(transport.sendto, turns)),
        lambda turns: loop.run_until_complete(send(nothing, turns)),
        sink.count,
    )


def check(path: Path) -> None:
    """Run once; exit unless so many datagrams arrive as the path says."""
    before = path.moved()
    path.run(1)
    moved = path.moved() - before
    if moved != path.datagrams:
        sys.exit(f"{path.name}: {moved} datagrams arrived of {path.datagrams}")


def count(path: Path) -> None:
    check(path)
    for _ in range(WARM_UP):
        path.prepare(CALLS)
        path.run(CALLS)
    gc.collect()
    gc.freeze()
    for _ in range(BLOCKS):
        mark()
        path.prepare(CALLS)
        mark()
        path.run(CALLS)
        mark()
    check(path)


def main() -> None:
    gc.disable()
    with batching.open_conn((LOOPBACK, 0)) as conn:
        on = conn.offload
    offload = f"GSO {on.gso}, GRO {on.gro}, {on.max_segments} segments"
    paths = []
    for group in (sending, receiving, forwarding, in_loop):
        for path in group():
            count(path)
            paths.append({"name": path.name, "datagrams": path.datagrams})
    print(json.dumps({"paths": paths, "blocks": BLOCKS, "calls": CALLS, "offload": offload}))


if __name__ == "__main__":
    main()
