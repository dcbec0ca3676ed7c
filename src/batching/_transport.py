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
import contextvars
import itertools
import socket
import sys
import time
import weakref
from asyncio import constants, selector_events
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from ._errors import SendBlocked, SendError
from ._open import is_udp, share_socket
from ._transport_plain import PlainTransport, is_contiguous
from ._transport_socket import TransportSocket

if TYPE_CHECKING:
    from ._address import Address

    Item = tuple[bytes, Address | None]

_SENDS_EMPTY: Final = sys.version_info >= (3, 13)  # before it, sendto(b"") does nothing
_HEADER: Final = 8 if _SENDS_EMPTY else 0  # bytes that a datagram adds to the write buffer's size
_MAX_DEFERRED: Final = 512  # datagrams
_MAX_FLUSHED: Final = 1024  # datagrams: a window
# What follows this soon is of the same turn, or of one so near that waiting for its end
# costs less than a system call.  To ask the loop would cost every turn a handle.
_SAME_TURN_NS: Final = 20_000
_cpython: Final[Any] = selector_events
_running_loop: Final = asyncio._get_running_loop


class DatagramTransport(PlainTransport):
    """A UDP socket in an event loop; see ``asyncio.DatagramTransport``."""

    _conn: Any = None  # a Conn; for __del__, should __init__ fail
    _context: contextvars.Context | None = None  # that of the reader

    def __init__(
        self,
        loop: Any,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Address | None = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        conn = share_socket(sock)
        try:
            super().__init__(loop, sock, protocol, address, waiter, extra)
        except BaseException:
            conn._descriptor.release()
            raise
        self._conn = conn
        self._extra["socket"] = TransportSocket(sock, weakref.WeakMethod(self._flush_here))
        self._runs_in = getattr(loop, "wrapped", loop)
        self._is_ipv6 = sock.family == socket.AF_INET6
        self._ready: deque[asyncio.Handle] | None = getattr(loop, "_ready", None)
        self._burst: Iterator[tuple[bytes, Address]] | None = None  # what is left of it
        self._in_burst = False
        self._is_going_on = False  # a handle for it waits in the loop
        self._deferred: list[Item] = []
        self._has_sent = False  # in this burst
        self._sent_at = 0  # time.perf_counter_ns()
        self._is_flush_due = False

    # Receiving

    def _add_reader(self, fd: int, callback: Any, *arguments: Any) -> None:
        if self.is_reading():
            handle = self._loop._add_reader(fd, callback, *arguments)
            self._context = getattr(handle, "_context", None)

    def resume_reading(self) -> None:
        super().resume_reading()
        if not self._closing and (self._burst is not None or self._conn.pending):
            self._go_on_soon()

    def _read_ready(self) -> None:
        if self._conn_lost or self._burst is not None:  # what is left goes on by itself
            return
        try:
            batch = self._conn.recv_batch()
        except (BlockingIOError, InterruptedError):
            self._renew_soon()
            return
        except OSError as exc:
            if self._conn.pending:  # the kernel knows nothing of it
                self._go_on_soon()
            self._renew_soon()
            self._protocol.error_received(exc)
            return
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as CPython's own
            self._fatal_error(exc, "Fatal read error on datagram transport")
            return
        self._burst = iter(batch)
        self._deliver(self._burst)

    def _renew_soon(self) -> None:
        if self._loop is not self._runs_in:
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        if not self._conn_lost:
            reader = None if self._paused or self._closing else self._read_ready
            writer = self._sendto_ready if self._buffer else None
            self._loop.renew(self._sock_fd, reader, writer)

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

    def _deliver(self, burst: Iterator[tuple[bytes, Address]]) -> None:
        """Give the protocol one datagram, and more while nothing else is ready."""
        ready = self._ready
        is_over = False
        self._in_burst, self._has_sent = True, False
        try:
            if self._takes_batches:
                is_over = True
                self._protocol.datagrams_received(list(burst))
            else:
                for data, addr in burst:
                    self._protocol.datagram_received(data, addr)
                    if self._closing or self._paused or self._takes_batches:
                        break
                    if ready is None or (ready and _is_another_ready(ready)):
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

    # Sending

    def sendto(self, data: Any, addr: Any = None) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if not _SENDS_EMPTY and not data:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and self._address:
            if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
                _cpython.logger.warning("socket.send() raised exception.")
            self._conn_lost += 1
            return
        if not self._buffer:
            if _running_loop() is self._runs_in:
                if self._is_same_turn() and is_contiguous(data) and self._is_numeric(addr):
                    self._defer(data, addr)
                    return
                self._flush()
            elif not self._runs_in.is_running():  # else another thread, which must not flush
                self._flush()
        if not self._buffer and self._send_now(data, addr):
            return
        self._keep(bytes(data), addr)
        self._maybe_pause_protocol()

    def get_write_buffer_size(self) -> int:
        self._flush_here()  # without batches it would have left, or be in the buffer
        size: int = self._buffer_size
        return size

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
        """Tell whether a batch sends to it what ``socket.sendto`` would."""
        if self._conn_lost:
            return False
        if self._extra["peername"]:  # it goes there, whatever ``addr`` says
            return True
        try:
            self._conn._sender.peers.get(addr)
        except (TypeError, ValueError):
            return False
        # A socket of IPv6 refuses IPv4's spelling, and heeds the scope in the tuple only;
        # the empty host is another name of one that may wait, too.
        host = addr[0]
        return ":" in host and "%" not in host if self._is_ipv6 else bool(host)

    def _defer(self, data: Any, addr: Any) -> None:
        # What waits must not change.
        data = data if type(data) is bytes else bytes(memoryview(data))
        self._deferred.append((data, None if self._extra["peername"] else addr))
        if len(self._deferred) >= _MAX_DEFERRED:
            self._flush()
        elif not self._in_burst and not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_flush_due = False
        self._flush()

    def _flush_here(self) -> None:
        if _running_loop() is self._runs_in:
            self._flush()

    def _flush(self) -> None:
        """Send what waits for the end of the turn."""
        if not self._deferred:
            return
        waiting, self._deferred = self._deferred, []
        errors, unsent = self._send_batch(waiting)
        for item in unsent:
            self._keep(*item)
        if unsent:
            self._loop._add_writer(self._sock_fd, self._sendto_ready)
        self._tell(errors)
        if self._buffer:
            self._maybe_pause_protocol()

    def _send_batch(self, batch: list[Item]) -> tuple[list[OSError], list[Item]]:
        """Send; return errors, and what found no room.  The first's address tells the way."""
        try:
            if self._is_numeric(batch[0][1]):
                self._conn.send_batch(batch)
            else:
                self._send_plainly(*batch[0])
        except SendError as error:
            errors = [error.errors[index] for index in sorted(error.errors)]
            if isinstance(error, SendBlocked):
                return errors, [batch[index] for index in error.unsent]
            return errors or [error], []
        except (BlockingIOError, InterruptedError):
            return [], batch
        except OSError as exc:
            return [exc], []
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001 - as CPython's own
            self._fatal_error(exc, "Fatal write error on datagram transport")
        return [], []

    def _send_now(self, data: Any, addr: Any) -> bool:
        """Send as a plain socket does; return False if it has no room."""
        try:
            self._send_plainly(data, addr)
        except (BlockingIOError, InterruptedError):
            self._loop._add_writer(self._sock_fd, self._sendto_ready)
            return False
        except OSError as exc:
            self._renew_soon()
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
        while self._buffer:
            window = itertools.islice(self._buffer, _MAX_FLUSHED)
            n = sum(1 for _ in itertools.takewhile(lambda item: self._is_numeric(item[1]), window))
            batch = [self._buffer.popleft() for _ in range(max(n, 1))]
            if self._extra["peername"]:
                batch = [(data, None) for data, _ in batch]
            self._buffer_size -= sum(len(data) + _HEADER for data, _ in batch)
            errors, unsent = self._send_batch(batch)
            self._buffer.extendleft(reversed(unsent))
            self._buffer_size += sum(len(data) + _HEADER for data, _ in unsent)
            self._tell(errors)
            if errors or self._conn_lost:
                return  # as CPython's own, which goes on in the next turn
            if unsent:
                break
        self._maybe_resume_protocol()  # may append to buffer
        if not self._buffer:
            self._loop._remove_writer(self._sock_fd)
            if self._closing:
                self._call_connection_lost(None)

    def _tell(self, errors: list[OSError]) -> None:
        if errors:
            self._renew_soon()
        for exc in errors:
            if self._conn_lost:  # aborted by what it was told
                return
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
    for handle in ready:
        callback = handle._callback  # type: ignore[attr-defined]
        if getattr(callback, "__func__", None) not in _OWN:
            return True
    return False
