"""DatagramTransport: CPython's own, to the letter, with batches underneath.

Rule 1 (receiving): a turn of the loop asks the kernel once.  After its first datagram the
burst goes on only while nothing else in the loop is ready to run; the rest waits, in
order, for the next turn, and the kernel is not asked before it is gone.
Rule 2 (sending): the first datagram of a turn leaves at once; those that follow leave
together, at the end of the turn or when there are many.  Nothing overtakes what waits.
What cannot wait (its address is no numeric tuple) goes the plain way, after the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import time
from asyncio import constants, selector_events
from asyncio.log import logger
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ._errors import SendError
from ._open import is_udp, share_socket

if TYPE_CHECKING:
    from ._address import Address

_SENDS_EMPTY: Final = sys.version_info >= (3, 13)  # before it, sendto(b"") does nothing
_HEADER: Final = 8 if _SENDS_EMPTY else 0  # bytes that a datagram adds to the write buffer's size
_MAX_DEFERRED: Final = 512  # datagrams
# What follows this soon is of the same turn, or of one so near that waiting for its end
# costs less than a system call.  To ask the loop would cost every turn a handle.
_SAME_TURN_NS: Final = 20_000


class DatagramTransport(selector_events._SelectorDatagramTransport):  # type: ignore[misc,name-defined]
    """A UDP socket in an event loop; see ``asyncio.DatagramTransport``."""

    _conn: Any = None  # a Conn; for __del__, should __init__ fail

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Address | None = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        self._ready: deque[asyncio.Handle] | None = getattr(loop, "_ready", None)
        self._burst: Iterator[tuple[bytes, Address]] | None = None  # what is left of it
        self._in_burst = False
        self._deferred: list[tuple[bytes, Address | None]] = []
        self._has_sent = False  # in this burst
        self._sent_at = 0  # time.perf_counter_ns()
        self._is_flush_due = False
        conn = share_socket(sock)
        try:
            super().__init__(loop, sock, protocol, address, waiter, extra)
        except BaseException:
            conn.give_up()
            raise
        self._conn = conn

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        super().set_protocol(protocol)
        # On the type: some protocols answer to any attribute.
        self._takes_batches = hasattr(type(protocol), "datagrams_received")

    # Receiving

    def _read_ready(self) -> None:
        if self._conn_lost or self._burst is not None:  # what is left goes on by itself
            return
        try:
            batch = self._conn.recv_batch()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            if self._conn.pending:  # the kernel knows nothing of it
                self._loop.call_soon(self._read_ready)
            self._protocol.error_received(exc)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as CPython's own
            self._fatal_error(exc, "Fatal read error on datagram transport")
            return
        self._burst = iter(batch)
        self._deliver()

    def _deliver(self) -> None:
        """Give the protocol one datagram, and more while nothing else is ready."""
        burst, ready = self._burst, self._ready
        if burst is None or self._closing:
            self._burst = None
            return
        is_over = False
        self._in_burst, self._has_sent = True, False
        try:
            if self._takes_batches:
                is_over = True
                self._protocol.datagrams_received(list(burst))
            else:
                for data, addr in burst:
                    self._protocol.datagram_received(data, addr)
                    if self._closing or ready is None or (ready and _is_another_ready(ready)):
                        break
                else:
                    is_over = True
        finally:
            self._in_burst = False
            if is_over or self._closing:
                self._burst = None
            else:
                self._loop.call_soon(self._deliver)
            self._flush()

    # Sending

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if not data and not _SENDS_EMPTY:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and self._address:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            if self._is_same_turn() and self._is_numeric(addr):
                self._defer(data, addr)
                return
            self._flush()
        if not self._buffer and self._send_now(data, addr):
            return
        self._keep(bytes(data), addr)
        self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        return self._buffer_size

    def close(self) -> None:
        self._flush()
        super().close()

    def _force_close(self, exc: BaseException | None) -> None:
        self._flush()  # without batches it would have left before
        super()._force_close(exc)

    def _is_same_turn(self) -> bool:
        """Tell whether a datagram has left in this turn; if not, one does now."""
        if self._deferred:
            return True
        if self._in_burst:
            has_sent, self._has_sent = self._has_sent, True
            return has_sent
        now = time.perf_counter_ns()
        is_same = now - self._sent_at < _SAME_TURN_NS
        self._sent_at = now
        return is_same

    def _is_numeric(self, addr: Any) -> bool:
        if self._conn_lost:
            return False
        if self._extra["peername"]:
            return True  # it goes there, whatever ``addr`` says
        try:
            self._conn._sender.peers.get(addr)
        except (TypeError, ValueError):
            return False
        return True

    def _defer(self, data: Any, addr: Any) -> None:
        # What waits must not change.
        self._deferred.append((bytes(data), None if self._extra["peername"] else addr))
        if len(self._deferred) >= _MAX_DEFERRED:
            self._flush()
        elif not self._in_burst and not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_flush_due = False
        self._flush()

    def _flush(self) -> None:
        """Send what waits for the end of the turn."""
        if self._deferred:
            waiting, self._deferred = self._deferred, []
            errors: list[OSError] = []
            self._send_batch(waiting, errors)
            self._tell(errors)
            self._maybe_pause_protocol()

    def _send_batch(self, waiting: list[Any], errors: list[OSError]) -> None:
        """Send; keep what has no room."""
        try:
            self._conn.send_batch(waiting)
        except SendError as error:
            errors += error.errors.values()
            if error.unsent:
                for index in error.unsent:
                    self._keep(*waiting[index])
                self._loop._add_writer(self._sock_fd, self._sendto_ready)

    def _send_now(self, data: Any, addr: Any) -> bool:
        """Send as a plain socket does; return False if it has no room."""
        try:
            if self._extra["peername"]:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)
        except (BlockingIOError, InterruptedError):
            self._loop._add_writer(self._sock_fd, self._sendto_ready)
            return False
        except OSError as exc:
            self._protocol.error_received(exc)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as CPython's own
            self._fatal_error(exc, "Fatal write error on datagram transport")
        return True

    def _keep(self, data: bytes, addr: Any) -> None:
        self._buffer.append((data, addr))
        self._buffer_size += len(data) + _HEADER

    def _sendto_ready(self) -> None:
        waiting = list(self._buffer)
        self._buffer.clear()
        self._buffer_size = 0
        errors: list[OSError] = []
        while waiting and not self._buffer:
            plain = (i for i, (_, addr) in enumerate(waiting) if not self._is_numeric(addr))
            n = next(plain, len(waiting))
            if n:
                batch, waiting = waiting[:n], waiting[n:]
                self._send_batch(batch, errors)
            elif self._send_now(*waiting[0]):
                del waiting[0]
            else:
                break
        for data, addr in waiting:
            self._keep(data, addr)
        self._tell(errors)
        self._maybe_resume_protocol()  # may append to buffer
        if not self._buffer:
            self._loop._remove_writer(self._sock_fd)
            if self._closing:
                self._call_connection_lost(None)

    def _tell(self, errors: list[OSError]) -> None:
        for exc in errors:
            try:
                self._protocol.error_received(exc)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as raised:  # noqa: BLE001 - the loop's handler is told
                self._loop.call_exception_handler(
                    {
                        "message": "Exception in callback error_received",
                        "exception": raised,
                        "transport": self,
                        "protocol": self._protocol,
                    }
                )

    # The end

    def _call_connection_lost(self, exc: BaseException | None) -> None:
        try:
            super()._call_connection_lost(exc)
        finally:
            self._conn.close()

    def __del__(self) -> None:
        if self._conn is not None:
            if self._deferred and self._sock is not None:
                with contextlib.suppress(Exception):
                    self._conn.send_batch(self._deferred)
            try:
                super().__del__()  # warns, if it was not closed
            finally:
                self._conn.close()


def make_transport(loop: Any, sock: socket.socket, *arguments: Any, **extra: Any) -> Any:
    """Return a transport for a datagram socket: CPython's own where it is not one of UDP."""
    kind: Any = selector_events
    kind = DatagramTransport if is_udp(sock) else kind._SelectorDatagramTransport
    return kind(loop, sock, *arguments, **extra)


def _is_another_ready(ready: deque[asyncio.Handle]) -> bool:
    """Tell whether anything but our own transports is about to run."""
    for handle in ready:
        callback = handle._callback  # type: ignore[attr-defined]
        if not isinstance(getattr(callback, "__self__", None), DatagramTransport):
            return True
    return False
