"""The MTU of the path to an address, and what a datagram above it is told.

Rule: what the kernel knows is asked of a socket that is connected to the address: of the
connection's own, or of one that lives as long as the call and is routed alike.  That of a
group may have another interface now than when the connection's own was connected.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Final

from ._address import Address, Sockaddr, parse_address
from ._errors import os_error
from ._kernel import (
    IP_MTU,
    IP_TOS,
    IPV6_MTU,
    IPV6_TCLASS,
    MAX_PAYLOAD_IPV4,
    MAX_PAYLOAD_IPV6,
    SOL_IP,
    SOL_IPV6,
)
from ._multicast_interface import copy_interface

__all__ = ["path_mtu", "why_too_large"]

_HEADERS_IPV4: Final = 20 + 8  # bytes: IPv4 without options, and UDP
_HEADERS_IPV6: Final = 40 + 8  # IPv6 without extension headers, and UDP
_SO_BINDTODEVICE: Final = 25  # include/uapi/asm-generic/socket.h
_SO_MARK: Final = 36  # likewise
_IP_UNICAST_IF: Final = 50  # include/uapi/linux/in.h
_IPV6_UNICAST_IF: Final = 76  # include/uapi/linux/in6.h
_IFNAMSIZ: Final = 16  # bytes, include/uapi/linux/if.h
# What routes a socket's packets besides their addresses, or lets them be sent; 0 is not set.
_ROUTING: Final = (
    (socket.SOL_SOCKET, _SO_MARK),
    (socket.SOL_SOCKET, socket.SO_BROADCAST),
    (SOL_IP, IP_TOS),
    (SOL_IP, _IP_UNICAST_IF),
    (SOL_IPV6, IPV6_TCLASS),
    (SOL_IPV6, _IPV6_UNICAST_IF),
)


def path_mtu(sock: socket.socket, address: Address) -> int:
    """Return the bytes that a packet to ``address`` may have, as the kernel knows now.

    Args:
        address: As received addresses are spelled.

    Raises:
        OSError: The kernel's refusal, for example ENETUNREACH.
    """
    target = _parse(sock, address)
    with contextlib.suppress(OSError):  # ENOTCONN
        if not target.is_group and sock.getpeername() == address:
            return _ask(sock, target)
    with socket.socket(sock.family, socket.SOCK_DGRAM, socket.IPPROTO_UDP) as asking:
        _route_alike(asking, sock, target)
        try:
            asking.connect(address)
        except OSError as error:
            raise os_error(error.errno or 0, f"from {sock.getsockname()} to {address}") from None
        return _ask(asking, target)


def why_too_large(sock: socket.socket, address: Address, n_bytes: int) -> str:
    """Return what EMSGSIZE means for a datagram of ``n_bytes``: the limit, if one is known."""
    is_ipv4 = _parse(sock, address).is_ipv4
    limit = MAX_PAYLOAD_IPV4 if is_ipv4 else MAX_PAYLOAD_IPV6
    text = f"{n_bytes} bytes of data"
    if n_bytes > limit:
        return f"{text}, UDP over {'IPv4' if is_ipv4 else 'IPv6'} takes {limit}"
    with contextlib.suppress(OSError):
        mtu = path_mtu(sock, address)
        limit = mtu - (_HEADERS_IPV4 if is_ipv4 else _HEADERS_IPV6)
        if n_bytes > limit:
            return f"{text}, the path to {address} takes {limit} (MTU {mtu})"
    return f"{text} to {address}"


def _ask(connected: socket.socket, target: Sockaddr) -> int:
    if target.is_ipv4:
        return connected.getsockopt(SOL_IP, IP_MTU)
    return connected.getsockopt(SOL_IPV6, IPV6_MTU)


def _parse(sock: socket.socket, address: Address) -> Sockaddr:
    return parse_address(address, int(sock.family), is_dual_stack=True)


def _route_alike(asking: socket.socket, sock: socket.socket, target: Sockaddr) -> None:
    """Let the kernel choose the way that packets of ``sock`` take."""
    is_ipv6 = sock.family == socket.AF_INET6
    for level, option in _ROUTING:
        if (is_ipv6 or level != SOL_IPV6) and (value := sock.getsockopt(level, option)):
            asking.setsockopt(level, option, value)
    if target.is_group:  # before the device, which refuses others
        copy_interface(sock, asking, is_ipv4=target.is_ipv4)
    if device := sock.getsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, _IFNAMSIZ):
        asking.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, device)
    if is_ipv6:
        only = sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        asking.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    host, _port, *scope = sock.getsockname()
    if host not in ("0.0.0.0", "::"):
        asking.bind((host, 0, *scope))
