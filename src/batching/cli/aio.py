"""Contenders on an event loop: a ``DatagramProtocol`` on asyncio's loop, uvloop and ours.

The loop runs for a long burst at a time, so that starting and stopping it weighs
nothing against the datagrams of the burst.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from batching.asyncio import new_event_loop

from .ends import before_end, bind, steps

__all__ = [
    "Sending",
    "receive_asyncio",
    "receive_batching",
    "receive_batching_lists",
    "receive_uvloop",
    "send_asyncio",
    "send_batching",
    "send_uvloop",
]

_BURST: Final = 4096  # datagrams


def send_asyncio(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send with ``DatagramTransport.sendto`` on asyncio's own loop."""
    return _send(asyncio.new_event_loop(), to, size, batch)


def send_uvloop(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send with ``DatagramTransport.sendto`` on uvloop."""
    return _send(_uvloop(), to, size, batch)


def send_batching(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send with ``DatagramTransport.sendto`` on the loop of ``batching.asyncio``."""
    return _send(new_event_loop(), to, size, batch)


def receive_asyncio(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive with ``datagram_received`` on asyncio's own loop."""
    return _receive(asyncio.new_event_loop(), ready, size)


def receive_uvloop(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive with ``datagram_received`` on uvloop."""
    return _receive(_uvloop(), ready, size)


def receive_batching(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive with ``datagram_received`` on the loop of ``batching.asyncio``."""
    return _receive(new_event_loop(), ready, size)


def receive_batching_lists(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive with ``datagrams_received`` on the loop of ``batching.asyncio``."""
    return _receive(new_event_loop(), ready, size, _ReceivingLists)


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    return loop


class Sending(asyncio.DatagramProtocol):
    """Keeps what went wrong, and whether the transport may be written to."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.writable = asyncio.Event()
        self.writable.set()

    def pause_writing(self) -> None:
        """Let whoever writes wait."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """Let them go on."""
        self.writable.set()

    def error_received(self, exc: Exception) -> None:
        """Keep the error for ``sent``."""
        self.error = exc

    async def sent(self, transport: asyncio.DatagramTransport) -> None:
        """Wait until the kernel has everything."""
        waiting = cast(Any, transport).get_write_buffer_size  # missing in typeshed's class
        while waiting():
            await asyncio.sleep(0)
        if self.error is not None:
            raise self.error


def _send(
    loop: asyncio.AbstractEventLoop, to: tuple[str, int], size: int, batch: int
) -> Iterator[int]:
    datagrams = [bytes(size) for _ in range(batch)]
    rounds = max(1, _BURST // 2 // batch)

    async def burst(transport: asyncio.DatagramTransport, protocol: Sending) -> None:
        for _ in range(rounds):
            for data in datagrams:
                transport.sendto(data, to)
            await asyncio.sleep(0)
            await protocol.writable.wait()
        await protocol.sent(transport)  # counted once the kernel has it

    async def open_() -> tuple[asyncio.DatagramTransport, Sending]:
        return await loop.create_datagram_endpoint(Sending, local_addr=("127.0.0.1", 0))

    transport, protocol = loop.run_until_complete(open_())
    try:
        while True:
            loop.run_until_complete(burst(transport, protocol))
            yield rounds * batch
    finally:
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


class _Receiving(asyncio.DatagramProtocol):
    """Counts datagrams up to a burst or to the end, and looks at the length of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        self._loop = loop
        self._size = size
        self._left = 0
        self.count = 0
        self.ended = False
        self.error: Exception | None = None
        self._done: asyncio.Future[None] | None = None

    def expect(self, burst: int) -> asyncio.Future[None]:
        """Return what is done when ``burst`` more datagrams, or the end, have come."""
        self._left = burst
        self._done = self._loop.create_future()
        if self.count >= burst or self.ended:
            self._done.set_result(None)
        return self._done

    def datagram_received(self, data: bytes, addr: object) -> None:
        if len(data) == self._size and not self.ended:
            self.count += 1
            if self.count != self._left:
                return
        else:
            self.ended = True
            try:
                before_end([len(data)], self._size)
            except ValueError as error:
                self.error = error
        self._tell()

    def _tell(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class _ReceivingLists(_Receiving):
    """The same for lists, of which a burst may be more than one datagram too long."""

    def datagrams_received(self, datagrams: list[tuple[bytes, object]]) -> None:
        if {len(data) for data, _ in datagrams} == {self._size} and not self.ended:
            self.count += len(datagrams)
            if self.count >= self._left:
                self._tell()
        else:
            for data, addr in datagrams:
                self.datagram_received(data, addr)


def _receive(
    loop: asyncio.AbstractEventLoop,
    ready: Callable[[int], None],
    size: int,
    kind: type[_Receiving] = _Receiving,
) -> Iterator[int]:
    async def open_() -> tuple[asyncio.DatagramTransport, _Receiving]:
        sock = bind()
        sock.setblocking(False)
        ends = await loop.create_datagram_endpoint(lambda: kind(loop, size), sock=sock)
        ready(sock.getsockname()[1])
        return ends

    transport, protocol = loop.run_until_complete(open_())
    try:
        for burst in steps(_BURST):
            loop.run_until_complete(protocol.expect(burst))
            if protocol.error is not None:
                raise protocol.error
            count, protocol.count = protocol.count, 0
            yield count
            if protocol.ended:
                return
    finally:
        transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
