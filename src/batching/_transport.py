"""DatagramTransport: CPython's own, to the letter, with batches underneath.

A turn of the loop asks the kernel once.  After its first datagram the burst goes on only
while nothing else in the loop is ready to run, and for 1 ms at most; the rest waits, in
order, for the next turn, and the kernel is not asked before it is gone.
Of sending see ``_transport_sending``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import socket
from asyncio.log import logger
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ._open import is_udp
from ._transport_plain import PlainTransport
from ._transport_sending import SendingTransport, clock_ns

if TYPE_CHECKING:
    from ._address import Address


_MAX_BURST_NS: Final = 1_000_000  # then replies leave, and timers have their turn
_LOOK_EVERY: Final = 8  # datagrams: looking at the clock costs as much as one of them


class DatagramTransport(SendingTransport):
    """A UDP socket in an event loop; see ``asyncio.DatagramTransport``."""

    _context: contextvars.Context | None = None  # that of the reader
    _paused = False

    def __init__(self, loop: Any, *arguments: Any, **extra: Any) -> None:
        super().__init__(loop, *arguments, **extra)
        self._ready: deque[asyncio.Handle] | None = getattr(loop, "_ready", None)
        self._burst: Iterator[tuple[bytes, Address]] | None = None  # what is left of it
        self._receive = self._conn._receiver.batch_at_once
        self._is_going_on = False  # a handle for it waits in the loop

    def _add_reader(self, fd: int, callback: Any, *arguments: Any) -> None:
        if self.is_reading():
            handle = self._loop._add_reader(fd, callback, *arguments)
            self._context = getattr(handle, "_context", None)

    # The three are missing in the datagram transports of CPython 3.11.2, which Debian 12 has.
    def is_reading(self) -> bool:
        return not self._closing and not self._paused

    def pause_reading(self) -> None:
        if self.is_reading():
            self._paused = True
            self._loop._remove_reader(self._sock_fd)
            if self._loop.get_debug():
                logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        if self._closing or not self._paused:
            return
        self._paused = False
        self._add_reader(self._sock_fd, self._read_ready)
        if self._loop.get_debug():
            logger.debug("%r resumes reading", self)
        if self._burst is not None or self._conn.pending:
            self._go_on_soon()

    def _read_ready(self) -> None:
        if self._conn_lost or self._burst is not None:  # what is left goes on by itself
            return
        try:
            batch = self._receive()
        except OSError as exc:
            if self._conn.pending:  # the kernel knows nothing of it
                self._go_on_soon()
            self._renew_soon()
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as CPython's own
            self._fatal_error(exc, "Fatal read error on datagram transport")
        else:
            if len(batch) == 1 and not self._takes_batches:
                self._deliver_lone(*batch[0])
            elif batch:
                self._burst = iter(batch)
                self._deliver(self._burst)
            else:
                self._renew_soon()

    def _go_on_soon(self) -> None:
        if not self._is_going_on:
            self._is_going_on = True
            self._loop.call_soon(self._go_on, context=self._context)

    def _go_on(self) -> None:
        """Go on with what waits in user space."""
        self._is_going_on = False
        if self._closing:
            self._burst = None
        elif not self._paused:
            if self._burst is None:
                self._read_ready()
            else:
                self._deliver(self._burst)

    def _deliver_lone(self, data: bytes, addr: Address) -> None:
        """As _deliver, of which little is left for a single datagram."""
        self._in_burst, self._has_sent = True, False
        try:
            self._protocol.datagram_received(data, addr)
        finally:
            self._in_burst = False
            if self._deferred:
                self._flush()

    def _deliver(self, burst: Iterator[tuple[bytes, Address]]) -> None:
        """Give the protocol one datagram, and more while nothing else is ready."""
        ready, loop = self._ready, self._loop
        end_ns = clock_ns() + _MAX_BURST_NS
        is_over = False
        self._in_burst, self._has_sent = True, False
        try:
            if self._takes_batches:
                is_over = True
                self._protocol.datagrams_received(list(burst))
            else:
                for n, (data, addr) in enumerate(burst, 1):
                    self._protocol.datagram_received(data, addr)
                    if self._closing or self._paused or self._takes_batches:
                        break
                    # Even if none is left: the reader, due in this turn too, would get ahead.
                    if ready is None or loop._stopping or (ready and _is_another_ready(ready)):
                        break
                    if not n % _LOOK_EVERY and clock_ns() > end_ns:
                        break
                else:
                    is_over = True
        finally:
            self._in_burst = False
            if is_over or self._closing:
                self._burst = None
            elif not self._paused:
                self._go_on_soon()
            self._flush()

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            super()._call_connection_lost(exc)
        finally:
            self._conn.close()


def make_transport(loop: Any, sock: socket.socket, *arguments: Any, **extra: Any) -> Any:
    """Return a transport for a datagram socket: a plain one where it is not one of UDP."""
    if is_udp(sock):
        with contextlib.suppress(OSError):  # EMFILE: a plain one needs no descriptor more
            return DatagramTransport(loop, sock, *arguments, **extra)
    return PlainTransport(loop, sock, *arguments, **extra)


def flush(transport: object) -> None:
    """Send what a transport of ours keeps for the end of the turn."""
    if isinstance(transport, DatagramTransport):
        transport._flush()


# These of ours are no reason to end a burst of another.
_OWN: Final = frozenset(
    (DatagramTransport._read_ready, DatagramTransport._go_on, DatagramTransport._end_turn)
)


def _is_another_ready(ready: deque[asyncio.Handle]) -> bool:
    """Tell whether anything but our own transports' moving of datagrams is about to run."""
    for handle in tuple(ready):  # another thread may append
        callback = handle._callback  # type: ignore[attr-defined]
        if getattr(callback, "__func__", None) not in _OWN:
            return True
    return False
