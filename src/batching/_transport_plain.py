"""PlainTransport: CPython's own, for sockets that are not UDP."""

from __future__ import annotations

import asyncio
import sys
from asyncio import selector_events
from typing import Any, Final

SENDS_EMPTY: Final = sys.version_info >= (3, 13)  # before it, sendto(b"") does nothing
HEADER: Final = 8 if SENDS_EMPTY else 0  # bytes that a datagram adds to the write buffer's size
# They stay counted once it is sent: CPython's own mistake.
_LEAKS: Final = (3, 13) <= sys.version_info < (3, 13, 6)

_Base: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]


def takes_batches(protocol: object) -> bool:
    """Tell whether a protocol wants lists of datagrams."""
    return hasattr(type(protocol), "datagrams_received")  # some answer to any attribute


class PlainTransport(_Base):  # type: ignore[misc]
    """CPython's own, which gives protocols that take batches what they ask for."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        super().set_protocol(protocol)
        self._takes_batches = takes_batches(protocol)

    def _send_plainly(self, data: Any, addr: Any) -> None:
        if self._extra["peername"]:
            self._sock.send(data)
        else:
            self._sock.sendto(data, addr)

    def _read_ready(self) -> None:
        if not self._takes_batches:
            super()._read_ready()
        elif not self._conn_lost:
            try:
                datagram = self._sock.recvfrom(self.max_size)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            self._protocol.datagrams_received([datagram])

    def _sendto_ready(self) -> None:
        if not _LEAKS:
            super()._sendto_ready()
            return
        while self._buffer:
            data, addr = self._buffer.popleft()
            self._buffer_size -= len(data) + HEADER
            try:
                self._send_plainly(data, addr)
            except (BlockingIOError, InterruptedError):
                self._buffer.appendleft((data, addr))
                self._buffer_size += len(data) + HEADER
                break
            except OSError as exc:
                self._protocol.error_received(exc)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:  # noqa: BLE001 - as CPython's own
                self._fatal_error(exc, "Fatal write error on datagram transport")
                return
        self._end_of_buffer()

    def _end_of_buffer(self) -> None:
        """Go on, once all that there is room for has left."""
        self._maybe_resume_protocol()  # may append to buffer
        if not self._buffer:
            self._loop._remove_writer(self._sock_fd)
            if self._closing:
                self._call_connection_lost(None)


def is_contiguous(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether ``socket.send`` would take it."""
    try:
        return not isinstance(data, memoryview) or data.c_contiguous
    except ValueError:  # released
        return False
