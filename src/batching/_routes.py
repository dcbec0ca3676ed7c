"""RouteWatch: whether this machine's routes or devices have changed.

The kernel tells it by rtnetlink (man 7 rtnetlink), without a privilege.  It is asked only
while a destination is spared something, so it costs a healthy connection nothing.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

__all__ = ["RouteWatch", "watch_routes"]

# include/uapi/linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE.
# A device's MTU and its offloads are told as a change of the link.
_GROUPS: Final = 0x1 | 0x40 | 0x400
_ROOM: Final = 4096  # bytes: what matters is that there was a change, not how many
_MAX_READ: Final = 64  # at one time; what is left tells the next one who asks


class RouteWatch:
    """A netlink socket in the network namespace of the thread that makes it.

    Raises:
        OSError: No descriptor is left, or the sandbox forbids it.
        AttributeError: There is no netlink: not Linux.
    """

    __slots__ = ("_sock",)

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
            self._sock.bind((0, _GROUPS))
        except BaseException:
            self._sock.close()
            raise

    def has_changed(self) -> bool:
        """Tell whether anything changed since it was made, or last asked."""
        has_changed = False
        try:
            for _ in range(_MAX_READ):
                self._sock.recv(1)  # the rest of the message goes too
                has_changed = True
        except OSError as error:
            return has_changed or error.errno == errno.ENOBUFS  # more than it had room for
        return has_changed

    def close(self) -> None:
        """Give the descriptor back."""
        self._sock.close()


def watch_routes() -> RouteWatch | None:
    """Return a new watch, or None where there is none to be had."""
    try:
        return RouteWatch()
    except (OSError, AttributeError):
        return None
