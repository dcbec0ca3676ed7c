"""The error queue: what the network, and the kernel itself, said of datagrams that were sent.

Some facts (ip(7), linux/errqueue.h), and what they mean for us:

- With IP_RECVERR every ICMP error about a socket's datagrams is queued, and is the pending
  error of the socket besides: whichever call comes next fails with it, whomever it is for.
- As long as the queue has entries poll, select and epoll tell of an error.  So whoever meets
  one empties the queue: with MSG_ERRQUEUE, which never blocks and takes the pending error of
  an entry away with it.
- An entry's bytes come from the kernel, but a router wrote what is in them: nothing is read
  past the end, and what is not understood is told as it is.
"""

import contextlib
import errno as errnos
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from ._address import SOCKADDR_IN, SOCKADDR_IN6, Address, Sockaddr
from ._kernel import IP_RECVERR, IPV6_RECVERR, MSG_DONTWAIT, SOL_IP, SOL_IPV6, is_answer

__all__ = ["ErrorQueue", "TransportError", "queued_errors"]

MAX_WAITING: Final = 256  # errors that nobody has asked for; the oldest goes
_MAX_DRAINED: Final = 4096  # entries at one time: who sends them faster does not keep us here
_MSG_ERRQUEUE: Final = 0x2000  # include/linux/socket.h
_CONTROL_SIZE: Final = 512  # bytes, as each slot of receiving has; more than all options need
_EXTENDED_ERROR: Final = struct.Struct("=IBBBBII")  # linux/errqueue.h: sock_extended_err
_ORIGINS: Final = ("none", "local", "icmp", "icmp6", "timestamping", "zerocopy", "txtime")
_LEVELS: Final = frozenset(((SOL_IP, IP_RECVERR), (SOL_IPV6, IPV6_RECVERR)))


class TransportError(NamedTuple):
    """What became known of a datagram that was sent and did not arrive."""

    errno: int
    """ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ...: what the kernel makes of type and code."""
    origin: str
    """"icmp", "icmp6": a router, or the destination; "local": this machine.

    Others, of options that a program sets by itself: "timestamping", "zerocopy", "txtime",
    "none", or the number of one that is newer than this package.
    """
    type: int
    """Of the ICMP message; 0 for "local"."""
    code: int
    """Likewise."""
    mtu: int | None
    """Bytes that a packet on the path may have, with EMSGSIZE; else None."""
    addr: Address | None
    """Where the datagram was sent, as received addresses are spelled.  Of "local" errors over
    IPv4 the port is 0 unless the socket is connected.  None: the kernel does not tell."""
    offender: Address | None
    """Who sent the ICMP message, with port 0; None for "local"."""

    @property
    def is_from_network(self) -> bool:
        """Whether it was pending: the error of any call that came next."""
        return self.origin in ("icmp", "icmp6")


class ErrorQueue:
    """The errors of one Conn that wait for recv_transport_errors.  Safe from several threads."""

    __slots__ = ("__weakref__", "_errors", "_lock", "lost")

    def __init__(self) -> None:
        self.lost = 0  # errors that made room for newer ones
        self._errors: deque[TransportError] = deque()
        self._lock = threading.RLock()  # a signal's handler may send

    def drain(self, sock: socket.socket) -> set[int]:
        """Take what the kernel has; return the errnos that were pending, of the network's."""
        met: set[int] = set()
        for error in queued_errors(sock):
            if error.is_from_network:
                met.add(error.errno)
            self._note(error)
        return met

    def take(self) -> list[TransportError]:
        """Return what waits, the oldest first; it waits no more."""
        fresh: deque[TransportError] = deque()
        with self._lock:
            errors, self._errors = self._errors, fresh  # without a call: no handler in between
        return list(errors)

    def after_fork(self) -> None:
        """Make the lock new, in a forked child."""
        self._lock = threading.RLock()

    def _note(self, error: TransportError) -> None:
        with self._lock:
            # A datagram that this machine refuses is tried once more, and is one all the same.
            if error.origin == "local" and self._errors and self._errors[-1] == error:
                return
            self._errors.append(error)
            if len(self._errors) > MAX_WAITING:
                with contextlib.suppress(IndexError):  # a signal's handler has just taken them
                    self._errors.popleft()
                    self.lost += 1


def queued_errors(sock: socket.socket) -> Iterator[TransportError]:
    """Take entry by entry from a socket's error queue, until there is none."""
    for _ in range(_MAX_DRAINED):
        try:
            _, control, _, addr = sock.recvmsg(0, _CONTROL_SIZE, _MSG_ERRQUEUE | MSG_DONTWAIT)
        except OSError as error:
            if not is_answer(error):
                raise
            return  # EAGAIN: none is left
        for level, kind, data in control:
            if (level, kind) in _LEVELS and (found := parse_error(data, addr)):
                yield found


def parse_error(data: bytes, addr: Address | None) -> TransportError | None:
    """Return what a control message of IP_RECVERR or IPV6_RECVERR tells; None: it is cut."""
    if len(data) < _EXTENDED_ERROR.size:
        return None
    errno, origin, kind, code, _pad, info, _data = _EXTENDED_ERROR.unpack_from(data)
    return TransportError(
        errno,
        _ORIGINS[origin] if origin < len(_ORIGINS) else str(origin),
        kind,
        code,
        info if errno == errnos.EMSGSIZE and info else None,
        addr or None,
        _parse_offender(data[_EXTENDED_ERROR.size :]),
    )


def _parse_offender(data: bytes) -> Address | None:
    """Return the address in a sockaddr; None where there is none (AF_UNSPEC), or it is cut."""
    family = int.from_bytes(data[:2], sys.byteorder)
    if family == socket.AF_INET and len(data) >= SOCKADDR_IN.size:
        return Sockaddr(SOCKADDR_IN.unpack_from(data)[1], 0).spell()
    if family == socket.AF_INET6 and len(data) >= SOCKADDR_IN6.size:
        _, host, scope_id = SOCKADDR_IN6.unpack_from(data)
        return Sockaddr(host, 0, 0, scope_id).spell()
    return None
