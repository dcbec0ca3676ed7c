"""Addresses as users spell them, and what a sockaddr holds of them.

Rule 1: numeric hosts only; a name would have to be resolved, and that blocks.
Rule 2: what is no address tuple is a TypeError, what is one of the wrong content a
ValueError; the message states the value and the limit.
Rule 3: both back ends parse here whatever their own quick paths leave.
"""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

import socket
import struct
from typing import Any, Final, NamedTuple

from ._kernel import is_answer

Address = tuple[Any, ...]
"""``(host, port)`` for IPv4, ``(host, port, flowinfo, scope_id)`` for IPv6."""

MAPPED_PREFIX = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 2.5.5.2
# linux/in.h, linux/in6.h: family, host and scope, which is in this machine's order.  Port and
# flowinfo mean nothing where these serve: in memberships, and in what was heard of a router.
SOCKADDR_IN: Final = struct.Struct("=H2x4s")
SOCKADDR_IN6: Final = struct.Struct("=H2x4x16sI")
_WILDCARDS = {"": "0.0.0.0", "<broadcast>": "255.255.255.255"}  # as in the socket module


class Sockaddr(NamedTuple):
    """The fields of a sockaddr_in (4 bytes of host) or sockaddr_in6 (16), host order."""

    host: bytes
    port: int
    flowinfo: int = 0
    scope_id: int = 0

    def spell(self) -> Address:
        """Return the tuple that ``recvfrom`` gives for it."""
        if len(self.host) == 4:
            return socket.inet_ntop(socket.AF_INET, self.host), self.port
        host = socket.inet_ntop(socket.AF_INET6, self.host)
        return host, self.port, self.flowinfo, self.scope_id

    @property
    def is_ipv4(self) -> bool:
        """Tell whether datagrams to it travel as IPv4; a v4-mapped address's do."""
        return len(self.host) == 4 or self.host.startswith(MAPPED_PREFIX)

    @property
    def is_group(self) -> bool:
        """Tell whether it is one of multicast."""
        if not self.is_ipv4:
            return self.host[0] == 0xFF  # RFC 4291 2.7
        return 224 <= self.host[-4] < 240  # RFC 5771

    @property
    def is_no_source(self) -> bool:
        """Tell whether nothing is sent from it: it stands for several, or is a wildcard."""
        if self.is_group or not any(self.host[-4:] if self.is_ipv4 else self.host):
            return True
        return self.is_ipv4 and self.host[-4:] == b"\xff" * 4  # RFC 919

    @property
    def is_link_local(self) -> bool:
        """Tell whether it is one of IPv6 that means something on one link only (RFC 4007 6)."""
        if len(self.host) == 4:
            return False
        first, second = self.host[:2]
        if first == 0xFF:  # a group's, on a link or an interface
            return second & 0xF in (1, 2)
        return first == 0xFE and second & 0xC0 == 0x80


def parse_address(address: object, family: int, is_dual_stack: bool) -> Sockaddr:
    """Return what the sockaddr of ``address`` holds on a socket of ``family``.

    An IPv4 address on a dual-stack IPv6 socket becomes a v4-mapped one.

    Raises:
        TypeError: It is no ``(host: str, port: int[, flowinfo: int, scope_id: int])``.
        ValueError: A host that is not numeric or of the wrong family, a number out of
            range, an interface that does not exist.
    """
    host, port, *rest = _fields(address)
    _check_range("port", port, 0xFFFF)
    is_ipv6, packed, zone = _pack_host(host, family)
    if is_ipv6:
        flowinfo = rest[0] if rest else 0
        scope_id = rest[1] if len(rest) > 1 else 0
        _check_range("flowinfo", flowinfo, 0xFFFFF)  # 20 bits, RFC 8200 section 3
        _check_range("scope_id", scope_id, 0xFFFFFFFF)
        if family == socket.AF_INET:
            raise ValueError(f"IPv6 address {host!r} on an IPv4 socket")
        return Sockaddr(packed, port, flowinfo, zone or scope_id)
    if rest:
        raise ValueError(
            f"IPv4 address {host!r} in a tuple of {2 + len(rest)}, at most (host, port)"
        )
    if family == socket.AF_INET:
        return Sockaddr(packed, port)
    if not is_dual_stack:
        raise ValueError(f"IPv4 address {host!r} on a socket that is IPv6 only")
    return Sockaddr(MAPPED_PREFIX + packed, port)


def family_of(address: object) -> int:
    """Return AF_INET or AF_INET6 for an address, told by its host ('' is AF_INET)."""
    host, _port, *_rest = _fields(address)
    is_ipv6, _packed, _zone = _pack_host(host, socket.AF_UNSPEC)
    return socket.AF_INET6 if is_ipv6 else socket.AF_INET


def _fields(address: object) -> tuple[Any, ...]:
    """Return an address's fields, as plain ones: a subclass may answer as it likes."""
    if not isinstance(address, tuple):
        raise TypeError(f"an address must be a tuple (host, port), not {type(address).__name__}")
    fields = tuple(address)
    if not 2 <= len(fields) <= 4:
        raise TypeError(f"an address must be a tuple (host, port), not a tuple of {len(fields)}")
    host, *numbers = fields
    if not isinstance(host, str):
        raise TypeError(f"a host must be str, not {type(host).__name__}")
    for name, number in zip(("port", "flowinfo", "scope_id"), numbers, strict=False):
        if not isinstance(number, int):
            raise TypeError(f"{name} must be int, not {type(number).__name__}")
    return str.__str__(host), *(int.__int__(number) for number in numbers)


def _check_range(name: str, value: int, limit: int) -> None:
    if not 0 <= value <= limit:
        raise ValueError(f"{name} {value}, must be 0 to {limit}")


def _pack_host(host: str, family: int) -> tuple[bool, bytes, int]:
    """Return (is it IPv6, its bytes, its zone as an interface index or 0)."""
    if family == socket.AF_INET6 and host == "":
        return True, bytes(16), 0
    try:
        return False, socket.inet_pton(socket.AF_INET, _WILDCARDS.get(host, host)), 0
    except (OSError, ValueError) as error:  # ValueError: a NUL inside
        if not is_answer(error):
            raise
    numeric, percent, zone = host.partition("%")
    try:
        packed = socket.inet_pton(socket.AF_INET6, numeric)
    except (OSError, ValueError) as error:
        if not is_answer(error):
            raise
        raise ValueError(f"host {host!r} is not numeric: resolve it first") from None
    return True, packed, _zone_index(host, zone) if percent else 0


def _zone_index(host: str, zone: str) -> int:
    if zone.isascii() and zone.isdigit():
        _check_range("scope_id", int(zone[:11]), 0xFFFFFFFF)
        return int(zone)
    try:
        return socket.if_nametoindex(zone)
    except (OSError, ValueError) as error:
        if not is_answer(error):
            raise
        raise ValueError(f"host {host!r}: no interface is called {zone!r}") from None
