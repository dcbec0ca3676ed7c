"""batching in asyncio: an event loop for programs as they are, and endpoints for any loop.

``asyncio.Runner(loop_factory=batching.asyncio.new_event_loop)`` makes the UDP sockets of a
program that knows nothing of batching move batches.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import socket
import sys
import threading
import types
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from ._transport import flush, make_transport

__all__ = ["EventLoop", "create_datagram_endpoint", "new_event_loop"]

_P = TypeVar("_P", bound=asyncio.BaseProtocol)


class EventLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop, whose UDP sockets move batches; all else is as it was."""

    def _make_datagram_transport(
        self, sock: socket.socket, *arguments: Any, **extra: Any
    ) -> asyncio.DatagramTransport:
        if sys.version_info >= (3, 12):  # as asyncio's own do
            self._ensure_fd_no_transport(sock)  # type: ignore[attr-defined]
        made: asyncio.DatagramTransport = make_transport(self, sock, *arguments, **extra)
        return made

    def run_forever(self) -> None:
        """Run until stopped; what was sent in the last turn has left, too."""
        is_refused = asyncio._get_running_loop() is not None
        try:
            super().run_forever()
        finally:
            if not is_refused:
                _end_last_turn(self)


def _end_last_turn(loop: Any) -> None:
    """Flush the transports of a loop that has stopped, as in a turn of it: errors are told."""
    loop._stopping, loop._thread_id = True, threading.get_ident()
    asyncio._set_running_loop(loop)
    try:
        for transport in list(loop._transports.values()):
            flush(transport)
    finally:
        asyncio._set_running_loop(None)
        loop._stopping, loop._thread_id = False, None


def new_event_loop() -> EventLoop:
    """Return a new event loop whose UDP sockets move batches."""
    return EventLoop()


async def create_datagram_endpoint(
    protocol_factory: Callable[[], _P],
    local_addr: tuple[str, int] | str | None = None,
    remote_addr: tuple[str, int] | str | None = None,
    *,
    family: int = 0,
    proto: int = 0,
    flags: int = 0,
    reuse_port: bool | None = None,
    allow_broadcast: bool | None = None,
    sock: socket.socket | None = None,
) -> tuple[asyncio.DatagramTransport, _P]:
    """Create a datagram endpoint in the running loop, as its method of this name does.

    The loop is any that has ``add_reader``, uvloop's too.

    Raises:
        NotImplementedError: The loop has no ``add_reader`` (Windows' proactor).
        TypeError, ValueError, OSError: As ``loop.create_datagram_endpoint``.
    """
    loop = asyncio.get_running_loop()
    if type(loop).add_reader is asyncio.AbstractEventLoop.add_reader:
        raise NotImplementedError(
            f"{type(loop).__name__} has no add_reader: run batching.asyncio.new_event_loop(),"
            " or asyncio.SelectorEventLoop"
        )
    create: Any = asyncio.BaseEventLoop.create_datagram_endpoint
    made: tuple[asyncio.DatagramTransport, _P] = await create(
        _Endpoints(loop),
        protocol_factory,
        local_addr,
        remote_addr,
        family=family,
        proto=proto,
        flags=flags,
        reuse_port=reuse_port,
        allow_broadcast=allow_broadcast,
        sock=sock,
    )
    return made


class _Wrapped:
    """A loop of whatever kind, with the names of its state that CPython's own code asks for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = self.wrapped = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    @property
    def _debug(self) -> bool:
        return self._loop.get_debug()

    @property
    def _thread_id(self) -> int | None:
        """The present thread if the loop runs in it."""
        return threading.get_ident() if asyncio._get_running_loop() is self._loop else None


class _LoopView(_Wrapped):
    """A loop under the names that CPython's transports call it by.

    What a loop of another kind has in public is given under those; the rest is its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._selector = selectors.SelectSelector()  # an empty one: a transport's repr looks in it
        self._remove_reader = loop.remove_reader
        self._add_writer = loop.add_writer
        self._remove_writer = loop.remove_writer

    def _add_reader(self, fd: int, callback: Any, *arguments: Any) -> Any:
        """Return what has the context that the callback runs in, each time the same."""
        context = contextvars.copy_context()
        self._loop.add_reader(fd, context.run, callback, *arguments)
        return types.SimpleNamespace(_context=context)

    def renew(self, fd: int, reader: Any, writer: Any) -> None:
        """Wait for a socket again: uvloop gives up waiting for one that has an error pending."""
        for callback, remove, add in (
            (reader, self._remove_reader, self._add_reader),
            (writer, self._remove_writer, self._add_writer),
        ):
            if callback is not None:
                remove(fd)
                add(fd, callback)


class _Endpoints(_Wrapped):
    """What ``BaseEventLoop.create_datagram_endpoint`` takes for its loop."""

    _ensure_resolved = asyncio.BaseEventLoop._ensure_resolved  # type: ignore[attr-defined]

    def _make_datagram_transport(
        self, sock: socket.socket, *arguments: Any
    ) -> asyncio.DatagramTransport:
        loop = self._loop
        is_selector = isinstance(loop, asyncio.SelectorEventLoop)
        view: Any = loop if is_selector else _LoopView(loop)
        made: asyncio.DatagramTransport = make_transport(view, sock, *arguments)
        return made
