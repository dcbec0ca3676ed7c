"""When a call must end, and how it sleeps until then.

Rule 1: a timeout runs from a call's first wait, a deadline is a point in time; the
earlier wins, and a timeout of 0 (non-blocking) wins over both.
Rule 2: a passed deadline ends a call even if it need not wait; a changed one applies to
calls that already wait, so every change wakes them.
Rule 3: what a call found before it takes a ticket may be out of date once it sleeps;
so it takes the ticket first, attempts, and sleeps on that ticket (Descriptor.wait).
"""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol

from ._backend import Descriptor
from ._errors import os_error
from ._errqueue import ErrorQueue, queued_errors

POLLIN: Final = 0x1  # include/uapi/asm-generic/poll.h, and everywhere else
POLLOUT: Final = 0x4
IDLE_S: Final = 1.0  # after this long without a datagram, all slabs but one are given back


class Waiter:
    """One connection's descriptor, timeout and deadlines, shared by both directions."""

    __slots__ = ("clock", "deadlines", "descriptor", "errors", "is_timed", "timeout")

    def __init__(self, sock: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        """Take ownership of ``sock`` with its timeout; OSError(EMFILE) without a wake-up."""
        self.timeout = sock.gettimeout()
        self.deadlines: dict[int, float | None] = {POLLIN: None, POLLOUT: None}
        self.is_timed = False  # has had a deadline: calls look at the clock
        self.errors: ErrorQueue | None = None  # those of the network, if they are collected
        self.clock = clock
        self.descriptor = Descriptor(sock)
        self._tell_patience()
        renew_after_fork(self.descriptor)

    def set_timeout(self, timeout_s: float | None) -> None:
        """Set what ``socket.settimeout`` sets.

        Raises:
            TypeError, ValueError: It is no number; negative or NaN.
            OSError: EBADF: closed.
        """
        if timeout_s is not None:
            timeout_s = _seconds("timeout", timeout_s)
            if not timeout_s >= 0:
                raise ValueError(f"timeout {timeout_s}, must be 0 or more, or None")
        self.check_open()
        self.timeout = timeout_s
        self._tell_patience()
        self.descriptor.kick()

    def set_deadline(self, deadline: float | None, *directions: int) -> None:
        """Set the deadline (``time.monotonic()`` seconds; None: never) of directions."""
        if deadline is not None:
            deadline = _seconds("deadline", deadline)
            if math.isnan(deadline):
                raise ValueError("deadline nan, must be a number or None")
        self.check_open()
        for direction in directions:
            self.deadlines[direction] = deadline
        self.is_timed = True
        self._tell_patience()
        self.descriptor.kick()

    def _tell_patience(self) -> None:
        # Without a time to heed, a receiving attempt may sleep until it is idle.
        is_patient = self.timeout is None and not self.is_timed
        self.descriptor.patience_s = IDLE_S if is_patient else 0.0

    def check_open(self) -> None:
        """Raise OSError(EBADF) when closed."""
        if self.descriptor.closed:
            raise os_error(errno.EBADF)

    def is_late(self, direction: int) -> bool:
        """Tell whether the deadline has passed; a non-blocking connection heeds none."""
        deadline = self.deadlines[direction]
        return deadline is not None and self.timeout != 0 and self.clock() >= deadline

    def wait(self, direction: int, started: float, ticket: int, at_most_s: float = math.inf) -> int:
        """Sleep until it is worth another attempt; return 0, EAGAIN or ETIMEDOUT.

        EAGAIN: non-blocking.  ETIMEDOUT: the time is up.
        """
        left_s = self._left(direction, started)
        if left_s <= 0:
            self.drain_errors()  # who polls by himself would be told of them for ever
            return errno.EAGAIN if self.timeout == 0 else errno.ETIMEDOUT
        left_s = min(left_s, at_most_s)
        self.descriptor.wait(direction, left_s if left_s < math.inf else -1.0, ticket)
        return 0

    def is_shut_down(self) -> bool:
        """After a wait that brought nothing: end what would keep poll firing for ever.

        That is an error queue.  Where nobody reads it (IP_RECVERR of a socket taken over) its
        entries are dropped.  And a socket that was shut down for reading, which is told.
        """
        if not hasattr(select, "POLLRDHUP"):  # Linux
            return False
        poller = select.poll()
        with self.descriptor as sock:
            poller.register(sock.fileno(), select.POLLRDHUP)
            events = sum(found for _, found in poller.poll(0))
            if events & select.POLLERR:
                if self.errors is None:
                    for _ in queued_errors(sock):
                        pass
                else:
                    self.errors.drain(sock)
        return bool(events & select.POLLRDHUP)

    def collect_errors(self) -> None:
        """Keep what the error queue tells, from now on, for who asks for it."""
        self.errors = ErrorQueue()
        renew_after_fork(self.errors)

    def drain_errors(self) -> set[int]:
        """Empty the error queue, where it is collected; return the network's errnos in it."""
        if self.errors is None:
            return set()
        try:
            with self.descriptor as sock:
                return self.errors.drain(sock)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            return set()  # closed meanwhile

    def pause(self, direction: int, started: float, pause_s: float) -> bool:
        """Sleep ``pause_s`` (less if closed); False, at once, if that passes the end."""
        if self._left(direction, started) < pause_s:
            return False
        descriptor = self.descriptor
        end, left_s = self.clock() + pause_s, pause_s
        # Signals, and kicks that are meant for others, end a wait early.
        while left_s > 0 and not descriptor.closed:
            descriptor.wait(0, left_s, descriptor.ticket)
            left_s = min(end - self.clock(), self._left(direction, started))
        return True

    def _left(self, direction: int, started: float) -> float:
        timeout, deadline = self.timeout, self.deadlines[direction]
        if timeout == 0:
            return 0.0
        end = math.inf if timeout is None else started + timeout
        if deadline is not None:
            end = min(end, deadline)
        return end - self.clock() if end < math.inf else end


def _seconds(name: str, value: float) -> float:
    if not isinstance(value, int | float):  # not "5", which float() would take
        raise TypeError(f"{name} must be a number or None, not {type(value).__name__}")
    return float(value)


class _Renewable(Protocol):
    def after_fork(self) -> None: ...


_renewables: weakref.WeakSet[_Renewable] = weakref.WeakSet()


def renew_after_fork(thing: _Renewable) -> None:
    """Call ``thing.after_fork()`` in every child forked while it lives.

    The parent's threads are not there to leave or to unlock, and a wake-up would be
    shared with it.
    """
    _renewables.add(thing)


def _after_fork_in_child() -> None:
    for thing in list(_renewables):
        thing.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
