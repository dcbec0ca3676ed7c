"""The route to a host: by which device, from which address, with which MTU."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from dataclasses import dataclass
from typing import Any, Final

from ..._kernel import IS_LINUX

__all__ = ["HEADERS", "Route", "find_route"]

HEADERS: Final = {socket.AF_INET: 20 + 8, socket.AF_INET6: 40 + 8}  # bytes of IP and UDP
_MTU: Final = {  # level, option: include/uapi/linux/in.h and in6.h
    socket.AF_INET: (socket.IPPROTO_IP, 14),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 24),
}
_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr, include/uapi/linux/netlink.h
_RTMSG: Final = struct.Struct("=BBBBBBBBI")  # include/uapi/linux/rtnetlink.h
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_NLM_F_REQUEST: Final = 1
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_PATIENCE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """How a datagram leaves for a destination."""

    source: str
    device: str
    """Empty where the system does not tell."""
    mtu: int | None
    """Bytes of an IP packet; None where the system does not tell."""


def find_route(family: int, address: tuple[Any, ...]) -> Route:
    """Return the route to a numeric address.

    Raises:
        OSError: There is none.
    """
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)  # sends nothing
        source = sock.getsockname()[0]
        mtu = None
        if IS_LINUX:
            with contextlib.suppress(OSError):
                mtu = sock.getsockopt(*_MTU[socket.AddressFamily(family)])
    device = ""
    with contextlib.suppress(OSError, AttributeError):
        device = _ask_device(family, address)
    return Route(source, device, mtu)


def _ask_device(family: int, address: tuple[Any, ...]) -> str:
    host = socket.inet_pton(family, address[0].partition("%")[0])
    body = _RTMSG.pack(family, 8 * len(host), 0, 0, 0, 0, 0, 0, 0)
    body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(host), _RTA_DST) + host
    if len(address) == 4 and address[3]:
        body += _ATTRIBUTE.pack(8, _RTA_OIF) + struct.pack("=I", address[3])
    header = _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.sendto(header + body, (0, 0))
        answer = sock.recv(8192)
    index = _outgoing(answer)
    return socket.if_indextoname(index) if index else ""


def _outgoing(answer: bytes) -> int:
    """Return the index of the device in an answer of rtnetlink, 0 where it names none."""
    if len(answer) < _HEADER.size + _RTMSG.size:
        return 0
    length, kind, *_ = _HEADER.unpack_from(answer)
    if kind != _RTM_NEWROUTE:
        return 0
    place, end = _HEADER.size + _RTMSG.size, min(length, len(answer))
    while place + 8 <= end:
        size, name = _ATTRIBUTE.unpack_from(answer, place)
        if name == _RTA_OIF:
            return int.from_bytes(answer[place + 4 : place + 8], sys.byteorder)
        place += max(4, size + 3 & ~3)
    return 0
