"""The wake-up: a descriptor that is readable when sleepers ought to look up.

Rule: ``signal`` and ``drain`` are C all the way (``functools.partial`` over a built-in).
Python handles signals on entering a function of its own, so with these nothing can
raise between the note that the wake-up is signalled and its being so.
Neither blocks.  Not safe by itself: the caller's lock keeps signal and drain in turn.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol

__all__ = ["SocketPair", "Wakeup", "new_wakeup"]


class Wakeup(Protocol):
    """What a sleeper polls beside its socket."""

    signal: Callable[[], object]
    drain: Callable[[], object]

    def fileno(self) -> int: ...
    def close(self) -> None:
        """Close this process's descriptors; once or more often."""


class SocketPair:
    """Everywhere else: Windows can wait for sockets only."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self.signal: Callable[[], object] = functools.partial(self._writer.send, b"\0")
        self.drain: Callable[[], object] = functools.partial(self._reader.recv, 16)

    def fileno(self) -> int:
        return self._reader.fileno()

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self.close()


if sys.platform == "linux":

    class EventFd:
        """Linux's: one descriptor, a counter in the kernel."""

        def __init__(self) -> None:
            fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._fd = fd
            self.signal: Callable[[], object] = functools.partial(os.eventfd_write, fd, 1)
            self.drain: Callable[[], object] = functools.partial(os.eventfd_read, fd)

        def fileno(self) -> int:
            return self._fd

        def close(self) -> None:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

        def __del__(self) -> None:
            if hasattr(self, "_fd"):
                self.close()


def new_wakeup() -> Wakeup:
    """Return the cheapest wake-up of this system; OSError(EMFILE) without a descriptor."""
    if sys.platform == "linux":
        return EventFd()
    return SocketPair()
