"""PlainTransport: CPython's own, for sockets that are not UDP."""

from __future__ import annotations

import asyncio
from asyncio import selector_events
from typing import Any

_Base: Any = selector_events._SelectorDatagramTransport  # type: ignore[attr-defined]


def takes_batches(protocol: object) -> bool:
    """Tell whether a protocol wants lists of datagrams."""
    return hasattr(type(protocol), "datagrams_received")  # some answer to any attribute


class PlainTransport(_Base):  # type: ignore[misc]
    """CPython's own, which gives protocols that take batches what they ask for."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        super().set_protocol(protocol)
        self._takes_batches = takes_batches(protocol)

    def get_write_buffer_size(self) -> int:
        if not self._buffer:
            self._buffer_size = 0  # 3.13.0 to 3.13.5 leave 8 bytes of each datagram sent
        size: int = self._buffer_size
        return size

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


def is_contiguous(data: bytes | bytearray | memoryview) -> bool:
    """Tell whether ``socket.send`` would take it."""
    try:
        return not isinstance(data, memoryview) or data.c_contiguous
    except ValueError:  # released
        return False
