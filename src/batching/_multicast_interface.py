"""The interface by which what a socket sends to groups leaves: set, and copied to another socket.

Rule: of IPv4 the kernel tells by what address it was chosen, and not its index (IP_MULTICAST_IF
in net/ipv4/ip_sockglue.c, Linux 6.18); so an index that is set is noted here.  Of a socket
that had one before it came to this package it is not known.
"""

from __future__ import annotations

import socket
import struct
from typing import Final
from weakref import WeakKeyDictionary

from ._kernel import IS_LINUX, SOL_IP, SOL_IPV6

__all__ = ["copy_interface", "note_option", "set_interface"]

_MREQN: Final = struct.Struct("@4s4si")  # include/uapi/linux/in.h: group, address, index
_indices: Final[WeakKeyDictionary[socket.socket, int]] = WeakKeyDictionary()


def set_interface(sock: socket.socket, index: int) -> None:
    """Let what is sent to groups leave there, of both families; elsewhere than on Linux of IPv6."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(SOL_IPV6, socket.IPV6_MULTICAST_IF, index)
    if IS_LINUX:
        _set_ipv4(sock, bytes(4), index)


def note_option(sock: socket.socket, level: int, option: int, value: int | bytes) -> None:
    """Heed an option that the user has set by hand."""
    if (level, option) == (SOL_IP, socket.IP_MULTICAST_IF):
        data = b"" if isinstance(value, int) else bytes(value)  # an int is an address
        _indices[sock] = _MREQN.unpack_from(data)[2] if len(data) >= _MREQN.size else 0


def copy_interface(sock: socket.socket, to: socket.socket, *, is_ipv4: bool) -> None:
    """Let what ``to`` sends to groups of that family leave as that of ``sock`` does; on Linux.

    Raises:
        OSError: The kernel's refusal, for example ENODEV for one that is gone.
    """
    if is_ipv4:
        address = sock.getsockopt(SOL_IP, socket.IP_MULTICAST_IF, 4)
        _set_ipv4(to, address, _indices.get(sock, 0))
    else:
        index = sock.getsockopt(SOL_IPV6, socket.IPV6_MULTICAST_IF)
        to.setsockopt(SOL_IPV6, socket.IPV6_MULTICAST_IF, index)


def _set_ipv4(sock: socket.socket, address: bytes, index: int) -> None:
    sock.setsockopt(SOL_IP, socket.IP_MULTICAST_IF, _MREQN.pack(bytes(4), address, index))
    _indices[sock] = index
