"""PacketConn, what a plain and a batched connection share, and UDPConn, the plain one."""

from __future__ import annotations

import contextlib
import errno
import socket
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, runtime_checkable

from ._address import Address, parse_address
from ._errors import os_error, shut_down, timed_out
from ._waiter import POLLIN, POLLOUT, Waiter

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["PacketConn", "UDPConn", "listen_udp"]

_T = TypeVar("_T")
FAMILIES = {"udp4": socket.AF_INET, "udp6": socket.AF_INET6}


@runtime_checkable
class PacketConn(Protocol):
    """A connection of datagrams, plain (``UDPConn``) or batched (``Conn``)."""

    def write_to_udp_addr_port(self, data: Buffer, addr: Address | None) -> int:
        """Send one datagram; return its length in bytes."""

    def read_from_udp_addr_port(self, buffer: Buffer) -> tuple[int, Address]:
        """Receive one datagram into ``buffer``; return its length and its sender."""

    def local_addr(self) -> Address:
        """Return the address that the socket is bound to."""

    def set_deadline(self, deadline: float | None) -> None:
        """Set when calls end (``time.monotonic()`` seconds; None: never), those that wait too."""

    def set_read_deadline(self, deadline: float | None) -> None:
        """Set it for receiving only."""

    def set_write_deadline(self, deadline: float | None) -> None:
        """Set it for sending only."""

    def close(self) -> None:
        """Close it; every later call, and each that waits, raises OSError(EBADF)."""


class SocketConn(PacketConn):
    """What plain and batched connections do alike: time, closing, state."""

    _waiter: Waiter | None = None  # until __init__ is through; see __del__

    def local_addr(self) -> Address:
        """Return the address that the socket is bound to."""
        with self._open_waiter.descriptor as sock:
            address: Address = sock.getsockname()
            return address

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
        return self._open_waiter.descriptor.fileno()

    def settimeout(self, timeout_s: float | None) -> None:
        """Set the timeout in seconds as ``socket.settimeout`` does; None: wait without end.

        0 (non-blocking) wins over deadlines.  Calls that wait already heed it too.

        Raises:
            TypeError, ValueError: It is no number; negative or NaN.
            OSError: EBADF: closed.
        """
        self._open_waiter.set_timeout(timeout_s)

    def gettimeout(self) -> float | None:
        """Return the timeout in seconds, 0 for non-blocking, None for none."""
        return self._open_waiter.timeout

    def setblocking(self, flag: bool) -> None:
        """Set a timeout of None or 0, as ``socket.setblocking`` does."""
        self.settimeout(None if flag else 0.0)

    def set_deadline(self, deadline: float | None) -> None:
        """Set when calls end (``time.monotonic()`` seconds; None: never), those that wait too."""
        self._open_waiter.set_deadline(deadline, POLLIN, POLLOUT)

    def set_read_deadline(self, deadline: float | None) -> None:
        """Set it for receiving only."""
        self._open_waiter.set_deadline(deadline, POLLIN)

    def set_write_deadline(self, deadline: float | None) -> None:
        """Set it for sending only."""
        self._open_waiter.set_deadline(deadline, POLLOUT)

    def close(self) -> None:
        """Close it; every later call, and each that waits, raises OSError(EBADF)."""
        self._open_waiter.descriptor.close()

    def take_deadlines(self, other: SocketConn) -> None:
        """Take over the deadlines of a connection that this one replaces."""
        deadlines = other._open_waiter.deadlines
        self.set_read_deadline(deadlines[POLLIN])
        self.set_write_deadline(deadlines[POLLOUT])

    def give_up(self) -> int:
        """Close this object but not its socket, whose descriptor's number is returned."""
        return self._open_waiter.descriptor.release().detach()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<batching.{type(self).__name__} {self._state()}>"

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle or copy a {type(self).__name__}")

    def __del__(self) -> None:
        if self._waiter is not None and not self._waiter.descriptor.closed:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def _state(self) -> str:
        try:
            with self._open_waiter.descriptor as sock:
                state = str(sock.getsockname())
                with contextlib.suppress(OSError):  # ENOTCONN
                    state += f" -> {sock.getpeername()}"
                return state
        except OSError:
            return "closed"

    @property
    def _open_waiter(self) -> Waiter:
        assert self._waiter is not None
        return self._waiter


class UDPConn(SocketConn):
    """A plain connection: one datagram a call.

    Safe from several threads; ``close`` wakes who waits.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of a UDP socket, with its timeout."""
        self._family = int(sock.family)
        self._is_dual_stack = is_dual_stack(sock)
        self._waiter = Waiter(sock)

    def write_to_udp_addr_port(self, data: Buffer, addr: Address | None) -> int:
        """Send one datagram; return its length in bytes.

        Raises:
            TypeError, ValueError: ``addr`` is not a numeric address of the socket's family.
            BlockingIOError: Non-blocking, and the socket has no room.
            TimeoutError: The time is up.
            OSError: The kernel's refusal, EDESTADDRREQ for None on an unconnected socket;
                EBADF: closed.
        """
        if addr is None:
            return self._call(POLLOUT, lambda sock: sock.send(data))
        target = parse_address(addr, self._family, self._is_dual_stack).spell()
        return self._call(POLLOUT, lambda sock: sock.sendto(data, target))

    def read_from_udp_addr_port(self, buffer: Buffer) -> tuple[int, Address]:
        """Receive one datagram into a writable ``buffer``; return its length and sender.

        Waits for it.  What does not fit is cut off, as ``socket.recvfrom_into`` does.

        Raises:
            TypeError: ``buffer`` is not a writable buffer.
            BlockingIOError: Non-blocking, and nothing is there.
            TimeoutError: The time is up.
            OSError: The kernel's refusal; EBADF: closed.
        """
        return self._call(POLLIN, lambda sock: sock.recvfrom_into(buffer))

    def _call(self, direction: int, operation: Callable[[socket.socket], _T]) -> _T:
        waiter = self._open_waiter
        started = waiter.clock()
        if waiter.is_late(direction):
            waiter.check_open()
            raise timed_out()
        has_slept = False
        while True:
            ticket = waiter.descriptor.ticket
            try:
                with waiter.descriptor as sock:
                    return operation(sock)
            except BlockingIOError:
                if has_slept and waiter.is_shut_down() and direction == POLLIN:
                    raise shut_down() from None
                end = waiter.wait(direction, started, ticket)
            if end:
                raise os_error(end) if end == errno.EAGAIN else timed_out()
            has_slept = True


def is_dual_stack(sock: socket.socket) -> bool:
    """Tell whether a socket is of IPv6 and takes IPv4 too, as v4-mapped addresses."""
    if sock.family != socket.AF_INET6:
        return False
    return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def listen_udp(network: str, addr: Address) -> UDPConn:
    """Return a plain connection bound to ``addr``; "udp6" is IPv6 only.

    Raises:
        TypeError: ``addr`` is not an address tuple.
        ValueError: ``network`` is not "udp4" or "udp6"; the address is not numeric or
            not of that family.
        OSError: The kernel's refusal.
    """
    if network not in FAMILIES:
        raise ValueError(f"network {network!r}, must be 'udp4' or 'udp6'")
    family = FAMILIES[network]
    target = parse_address(addr, family, is_dual_stack=False).spell()
    sock = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(target)
        return UDPConn(sock)
    except BaseException:
        sock.close()
        raise
