"""Multicast: membership in groups, and how what is sent to them leaves.

On Linux by the options of RFC 3678, which are one for both families, know interfaces by
index, and take groups of IPv4 on an IPv6 socket too; elsewhere by those that the socket module
has, without a choice of sources, and of IPv4's interface.
"""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

import socket
import struct
from typing import Final, NamedTuple

from ._address import MAPPED_PREFIX, SOCKADDR_IN, SOCKADDR_IN6, Sockaddr, parse_address
from ._checks import check_number
from ._kernel import (
    IS_LINUX,
    MCAST_JOIN_GROUP,
    MCAST_JOIN_SOURCE_GROUP,
    MCAST_LEAVE_GROUP,
    MCAST_LEAVE_SOURCE_GROUP,
    SOL_IP,
    SOL_IPV6,
)
from ._multicast_interface import set_interface
from .packetconn import is_dual_stack

__all__ = ["Membership", "set_sending"]

# include/uapi/linux/in.h: struct group_req and group_source_req; a sockaddr_storage has 128
# bytes, and begins where a long may.
_GROUP: Final = struct.Struct("@I0L128s")
_GROUP_AND_SOURCE: Final = struct.Struct("@I0L128s128s")
_MREQ: Final = struct.Struct("@4s4s")
_MREQ6: Final = struct.Struct("@16sI")


class Membership(NamedTuple):
    """A group as one interface knows it: everything from there, or what one source sends."""

    host: bytes
    """4 or 16 bytes."""
    interface: int
    """An index; 0: the system's choice."""
    source: bytes = b""

    @classmethod
    def of(
        cls,
        sock: socket.socket,
        group: str,
        interface: int | str | None,
        source: str | None,
    ) -> "Membership":
        """Check what the user gave.

        Raises:
            TypeError: A host or an interface that is none.
            ValueError: It is no group; an unknown interface; a family that does not fit.
        """
        address = _parse("group", group, sock)
        if not address.is_group:
            raise ValueError(f"{group!r} is no multicast group (224.0.0.0/4 or ff00::/8)")
        index = address.scope_id if interface is None else index_of(interface)
        made = cls(_plain(address), index)
        if source is None:
            return made
        sender = _parse("source", source, sock)
        if sender.is_no_source or sender.is_ipv4 != address.is_ipv4:
            raise ValueError(f"source {source!r} can be none of group {group!r}")
        return made._replace(source=_plain(sender))

    def join(self, sock: socket.socket) -> None:
        """Begin to receive it."""
        self._ask(sock, "JOIN", MCAST_JOIN_SOURCE_GROUP if self.source else MCAST_JOIN_GROUP)

    def leave(self, sock: socket.socket) -> None:
        """End it."""
        self._ask(sock, "LEAVE", MCAST_LEAVE_SOURCE_GROUP if self.source else MCAST_LEAVE_GROUP)

    def _ask(self, sock: socket.socket, verb: str, option: int) -> None:
        if IS_LINUX:
            level = SOL_IP if len(self.host) == 4 else SOL_IPV6
            sock.setsockopt(level, option, self._request())
            return
        if self.source:
            raise ValueError("source: needs Linux")
        if len(self.host) == 16:
            data = _MREQ6.pack(self.host, self.interface)
            sock.setsockopt(SOL_IPV6, getattr(socket, f"IPV6_{verb}_GROUP"), data)
            return
        if self.interface:
            raise ValueError("interface: of a group of IPv4 it needs Linux")
        kind = socket.IP_ADD_MEMBERSHIP if verb == "JOIN" else socket.IP_DROP_MEMBERSHIP
        sock.setsockopt(SOL_IP, kind, _MREQ.pack(self.host, bytes(4)))

    def _request(self) -> bytes:
        if self.source:
            group, source = self._sockaddr(self.host), self._sockaddr(self.source)
            return _GROUP_AND_SOURCE.pack(self.interface, group, source)
        return _GROUP.pack(self.interface, self._sockaddr(self.host))

    def _sockaddr(self, host: bytes) -> bytes:
        if len(host) == 4:
            return SOCKADDR_IN.pack(socket.AF_INET, host)
        return SOCKADDR_IN6.pack(socket.AF_INET6, host, self.interface)


def set_sending(
    sock: socket.socket, *, loop: bool | None, ttl: int | None, interface: int | str | None
) -> None:
    """Set how what is sent to groups leaves; None: as it is.

    Raises:
        TypeError, ValueError: ``ttl`` is no int from 0 to 255; an unknown interface.
    """
    if ttl is not None:
        check_number("ttl", ttl, 0, 255)
    index = None if interface is None else index_of(interface)
    if index is not None and not IS_LINUX and sock.family == socket.AF_INET:
        raise ValueError("interface: of IPv4 it needs Linux")
    # All was checked: what is set, is set as a whole.
    if index is not None:
        set_interface(sock, index)
    if sock.family == socket.AF_INET6:
        for option, value in (
            (socket.IPV6_MULTICAST_HOPS, ttl),
            (socket.IPV6_MULTICAST_LOOP, loop),
        ):
            if value is not None:
                sock.setsockopt(SOL_IPV6, option, value)
    if IS_LINUX or sock.family == socket.AF_INET:
        if ttl is not None:
            sock.setsockopt(SOL_IP, socket.IP_MULTICAST_TTL, ttl)
        if loop is not None:
            sock.setsockopt(SOL_IP, socket.IP_MULTICAST_LOOP, loop)


def index_of(interface: int | str) -> int:
    """Return the index of an interface that exists.

    Raises:
        TypeError: It is neither an index nor a name.
        ValueError: There is none of it here.
    """
    if not isinstance(interface, int | str):
        raise TypeError(f"interface must be int or str, not {type(interface).__name__}")
    try:
        if isinstance(interface, str):
            return socket.if_nametoindex(interface)
        socket.if_indextoname(interface)
    except (OSError, OverflowError, ValueError):
        raise ValueError(f"there is no interface {interface!r}") from None
    return int(interface)


def _parse(what: str, host: str, sock: socket.socket) -> Sockaddr:
    if not isinstance(host, str):
        raise TypeError(f"{what} must be str, a numeric host, not {type(host).__name__}")
    return parse_address((host, 0), int(sock.family), is_dual_stack(sock))


def _plain(address: Sockaddr) -> bytes:
    return address.host.removeprefix(MAPPED_PREFIX) if address.is_ipv4 else address.host
