"""SendingTransport: the sending half of a transport that moves batches.

The first datagram of a turn leaves at once; those that follow leave together, at the end of
the turn or when there are many.  Nothing overtakes what waits.  What cannot wait (its
address is no numeric tuple) goes the plain way, after the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import time
import weakref
from _thread import get_ident
from asyncio import constants, selector_events
from typing import TYPE_CHECKING, Any, Final

from ._errors import SendBlocked, SendError, os_error
from ._open import share_socket
from ._transport_plain import HEADER, SENDS_EMPTY, PlainTransport, is_contiguous
from ._transport_socket import TransportSocket
from ._waiter import renew_after_fork

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._address import Address

    Item = tuple[bytes, Address | None]

_MAX_DEFERRED: Final = 512  # datagrams
_MAX_KNOWN: Final = 1024  # addresses
_MAX_FLUSHED: Final = 1024  # datagrams: a window
# What follows this soon is of the same turn, or of one so near that waiting for its end
# costs less than a system call.  To ask the loop would cost every turn a handle.
_SAME_TURN_NS: Final = 20_000
_NOBODY: Final = object()
_cpython: Final[Any] = selector_events
clock_ns: Final = time.perf_counter_ns
_running_loop: Final = asyncio._get_running_loop
# A transport that becomes garbage, with its protocol, must find its socket open in __del__:
# what else is in the cycle may have been finalized before.
_have_waiting: Final[set[Any]] = set()


class SendingTransport(PlainTransport):
    """Sends; has what both halves need."""

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
        self._is_peer_fixed = bool(self._extra["peername"])  # whatever address is given
        self._in_burst = False
        self._has_sent = False  # in this burst
        self._sent_at = 0  # time.perf_counter_ns()
        self._is_flush_due = False
        self._is_shown = False  # its repr is being made
        self._deferred: list[Item] = []
        self._known: dict[int, Any] = {}  # numeric addresses by their ids; they live here
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Leave to the parent, in a forked child, what waits."""
        self._deferred = []
        _have_waiting.discard(self._conn)

    def sendto(self, data: Any, addr: Any = None) -> None:
        waiting = self._deferred
        if (
            waiting  # and so nothing else is to be asked but who and where
            and (addr is waiting[-1][1] or self._known.get(id(addr), _NOBODY) is addr)
            and type(data) is bytes
            and data
            and get_ident() == self._loop._thread_id  # else nobody might flush soon
        ):
            waiting.append((data, addr))
            if len(waiting) >= _MAX_DEFERRED:
                self._flush()
        else:
            self._send(data, addr)

    def _send(self, data: Any, addr: Any) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"data argument must be a bytes-like object, not {type(data).__name__!r}"
            )
        if not SENDS_EMPTY and not data:
            return
        if self._address:
            if addr not in (None, self._address):
                raise ValueError(f"Invalid address: must be None or {self._address}")
            addr = self._address
        if self._conn_lost and self._address:
            self._note_lost()
            return
        if not self._buffer:
            if self._is_same_turn() and self._can_wait(data, addr):
                self._defer(data, addr)
                return
            if self._deferred:
                self._make_way()
        if not self._buffer and self._send_now(data, addr):
            return
        self._keep(bytes(data), addr)
        self._maybe_pause_protocol()

    def _make_way(self) -> None:
        """Send what waits, before what cannot."""
        if _running_loop() is self._runs_in or not self._runs_in.is_running():
            self._flush()  # else this is another thread, which must not

    def _note_lost(self) -> None:
        if self._conn_lost >= constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES:
            _cpython.logger.warning("socket.send() raised exception.")
        self._conn_lost += 1

    def get_write_buffer_size(self) -> int:
        """As CPython's; what waits is sent first: it would have left, or be in the buffer."""
        if not self._is_shown:
            self._flush_here()
        size: int = self._buffer_size
        return size

    def __repr__(self) -> str:
        self._is_shown = True  # to look at a transport sends nothing, and calls nobody
        try:
            text: str = super().__repr__()
        finally:
            self._is_shown = False
        return text

    def close(self) -> None:
        self._flush()
        super().close()

    def __del__(self) -> None:
        if self._conn is None:
            return
        if self._deferred and self._sock is not None:
            with contextlib.suppress(Exception):  # nobody is there to be told
                self._conn.send_batch(self._deferred)
        _have_waiting.discard(self._conn)
        try:
            super().__del__()  # warns, if it was not closed
        finally:
            self._conn.close()

    def _force_close(self, exc: BaseException | None) -> None:
        self._flush()  # without batches it would have left before
        if not self._conn_lost and not self._buffer:  # a batch of it may be on its way
            self._loop._remove_writer(self._sock_fd)
        super()._force_close(exc)

    def _is_same_turn(self) -> bool:
        """Tell whether a datagram has left in this turn; if not, one does now."""
        if self._closing:  # the end of the turn may come too late
            return False
        if self._deferred:
            return True
        if self._in_burst:
            has_sent, self._has_sent = self._has_sent, True
            return has_sent
        before, self._sent_at = self._sent_at, clock_ns()
        return self._sent_at - before < _SAME_TURN_NS

    def _can_wait(self, data: Any, addr: Any) -> bool:
        """Tell whether it may be sent at the end of the turn, by a batch."""
        loop = self._runs_in
        return (
            _running_loop() is loop  # else the end may be far,
            and not getattr(loop, "_stopping", False)  # and here it may be that of the loop
            and is_contiguous(data)
            and self._is_numeric(addr)
        )

    def _is_numeric(self, addr: Any) -> bool:
        """Tell whether a batch sends to it what ``socket.sendto`` would."""
        if self._conn_lost:
            return False
        if self._is_peer_fixed:
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
        _have_waiting.add(self._conn)
        self._deferred.append((data, None if self._is_peer_fixed else addr))
        if type(addr) is tuple and not self._is_peer_fixed:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known[id(addr)] = addr
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
        _have_waiting.discard(self._conn)
        errors, unsent = self._attempt(waiting, self._conn.send_batch, waiting)
        for item in unsent:
            self._keep(*item)
        if unsent:
            self._loop._add_writer(self._sock_fd, self._sendto_ready)
        self._tell(errors)
        if self._buffer:
            self._maybe_pause_protocol()

    def _attempt(
        self, batch: list[Item], send: Callable[..., object], *arguments: Any
    ) -> tuple[list[OSError], list[Item]]:
        """Send a batch by a call; return errors, and what found no room."""
        try:
            send(*arguments)
        except SendError as error:
            # In CPython's words, which know no limits.
            errors = [os_error(each.errno or 0) for _, each in sorted(error.errors.items())]
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
            if self._is_peer_fixed:
                self._sock.send(data)
            else:
                self._sock.sendto(data, addr)
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
        self._buffer_size += len(data) + HEADER

    def _sendto_ready(self) -> None:
        while self._buffer:
            window = itertools.islice(self._buffer, _MAX_FLUSHED)
            n = sum(1 for _ in itertools.takewhile(lambda item: self._is_numeric(item[1]), window))
            batch = [self._buffer.popleft() for _ in range(max(n, 1))]
            if self._is_peer_fixed:
                batch = [(data, None) for data, _ in batch]
            self._buffer_size -= sum(len(data) + HEADER for data, _ in batch)
            if n:
                errors, unsent = self._attempt(batch, self._conn.send_batch, batch)
            else:
                errors, unsent = self._attempt(batch, self._send_plainly, *batch[0])
            self._buffer.extendleft(reversed(unsent))
            self._buffer_size += sum(len(data) + HEADER for data, _ in unsent)
            self._tell(errors)
            if errors or self._conn_lost:
                return  # as CPython's own, which goes on in the next turn
            if unsent:
                break
        self._end_of_buffer()

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

    def _renew_soon(self) -> None:
        if self._loop is not self._runs_in:
            self._loop.call_soon(self._renew)

    def _renew(self) -> None:
        if not self._conn_lost:
            reader = None if self._paused or self._closing else self._read_ready
            writer = self._sendto_ready if self._buffer else None
            self._loop.renew(self._sock_fd, reader, writer)
