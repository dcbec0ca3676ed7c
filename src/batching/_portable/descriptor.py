"""Descriptor: a socket that stays open while somebody is inside, and how sleepers wake.

Some facts, and what they mean for us:

- Closing a descriptor that another thread polls does not wake it, and its number may
  be given to somebody else at once.  Hence the *hold*: who is inside refers to it, and so
  does the descriptor until it is closed; with the last reference the socket is closed.
- Python handles signals where it calls, enters a function, jumps back, and while it
  waits for a lock; the handler may raise, and what it raises keeps every frame on its way,
  with all their variables.  Hence leaving is the loss of a reference, which is no call,
  and the socket is closed by C alone (a weak reference's callback).  No frame but the one
  that clears it has the hold in a variable.
- A wake-up that is drained by the first who wakes is missed by the second.  Hence the
  *ticket*: a kick makes every ticket old, and the wake-up is drained by the last of the
  sleepers that hold an old one.  Who falls asleep meanwhile wakes at once and goes round
  again.  Draining that was interrupted is made good by the next who leaves.
- A forked child shares the wake-up with its parent and has none of its threads.  Hence
  a new one, and nobody inside, before a child touches either.

The lock is reentrant: a signal handler may well close or kick.  Where references are not
counted (not CPython) the socket is closed when the collector comes by: late, never early.
"""

from __future__ import annotations

import errno
import functools
import operator
import os
import select
import socket
import threading
import weakref
from collections.abc import Callable
from typing import Final, final

from .._errors import os_error
from .wakeup import Wakeup, new_wakeup

__all__ = ["Descriptor"]

POLLIN: Final[int] = getattr(select, "POLLIN", 1)
_POLLOUT: Final[int] = getattr(select, "POLLOUT", 4)
_LONGEST_SLEEP_S: Final = 1_000_000.0  # poll takes an int of milliseconds: 24 days
_IGNORE: Final[Callable[..., object]] = "".format  # takes anything, does nothing, in C


class _Hold:
    """What everybody inside refers to."""

    __slots__ = ("__weakref__",)


class _Closing(weakref.ref[_Hold]):
    """Closes the socket when the last reference to the hold is gone."""

    __slots__ = ("close",)

    close: Callable[[], object]

    def __new__(cls, hold: _Hold, sock: socket.socket) -> _Closing:
        closing = super().__new__(cls, hold, operator.methodcaller("close"))
        closing.close = functools.partial(socket.SocketType.close, sock)
        return closing


@final
class Descriptor:
    """A socket's descriptor that stays open until the last call on it has left.

    Entering (``with descriptor as sock:``) raises OSError(EBADF) once it was closed.
    Safe from several threads, and from signal handlers.
    """

    __slots__ = (
        "__weakref__",
        "_closing",
        "_hold",
        "_is_signalled",
        "_lock",
        "_pid",
        "_sleepers",
        "_sock",
        "_timeout_s",
        "_wakeup",
        "patience_s",
        "ticket",
    )

    def __init__(self, sock: socket.socket) -> None:
        """Take ownership of ``sock`` and make it non-blocking; OSError(EMFILE) without a wake-up.

        When it raises, ``sock`` is the caller's as before.
        """
        self._wakeup: Wakeup = new_wakeup()
        try:
            self._timeout_s = sock.gettimeout()
            sock.setblocking(False)
        except BaseException:
            self._wakeup.close()
            raise
        self._sock = sock
        self._hold: _Hold | None = _Hold()  # None once closed
        self._closing: _Closing | None = _Closing(self._hold, sock)  # None once given back
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._sleepers: dict[object, int] = {}  # to their tickets
        self._is_signalled = False
        self.ticket = 0
        self.patience_s = 0.0

    def __enter__(self) -> socket.socket:
        if self._hold is None:
            raise os_error(errno.EBADF)
        return self._sock

    @property
    def __exit__(self) -> Callable[..., object]:  # noqa: PLE0302 - a property
        """A callable that has the hold.

        ``with`` asks for it before it enters, and drops it when it has left by whichever way.
        """
        return functools.partial(_IGNORE, self._hold)

    @property
    def closed(self) -> bool:
        """Tell whether it refuses calls."""
        return self._hold is None

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
        return -1 if self._hold is None else self._sock.fileno()

    def wait(self, events: int, timeout_s: float, ticket: int) -> None:
        """Sleep until ``events`` (poll's flags) or an error, a kick, close, the time.

        A signal wakes it only when its handler raises or kicks (PEP 475).  A negative
        ``timeout_s`` has no end.  Returns at once when ``ticket`` is old or it is closed.
        """
        self._own()
        sleeper = object()
        hold = None
        try:
            with self._lock:
                hold = self._hold
                if hold is None or ticket != self.ticket:
                    return
                self._sleepers[sleeper] = ticket
            _sleep(self._sock, self._wakeup, events, timeout_s)
        finally:
            hold = None
            self._sleepers.pop(sleeper, None)
            if self.closed or self._is_signalled:
                self._settle()

    def kick(self) -> None:
        """Wake all who wait."""
        self._own()
        with self._lock:
            self.ticket += 1
            if self._sleepers and self._hold is not None and not self._is_signalled:
                self._is_signalled = True
                self._wakeup.signal()

    def close(self) -> None:
        """Refuse further calls, wake who waits; the socket is closed by who leaves last."""
        self._own()
        with self._lock:
            if self._hold is not None:
                self._hold = None
                self._wakeup.signal()  # for good: nobody drains what is closed
            self._settle()

    def release(self) -> socket.socket:
        """Give the socket back, unclosed and with its timeout, to undo __init__.

        Nobody may be inside but sleepers, who wake.  The descriptor is closed then;
        OSError(EBADF) if it was.
        """
        with self._lock:
            if self._hold is None:
                raise os_error(errno.EBADF)
            self._sock.settimeout(self._timeout_s)
            self._closing = None  # a weak reference that is gone calls nobody
            self._hold = None
            self._wakeup.signal()
            self._settle()
            return self._sock

    def after_fork(self) -> None:
        """Forget, in a forked child, the parent's threads and the wake-up shared with it."""
        self._lock = threading.RLock()  # a thread that is gone may hold the old one
        self._pid = os.getpid()
        self._sleepers = {}
        self._is_signalled = False
        self._wakeup.close()  # ours of the two; its room is the new one's
        if self._hold is not None:
            self._wakeup = new_wakeup()
            hold = _Hold()  # the parent's threads have the old one for ever
            self._closing = _Closing(hold, self._sock)
            self._hold = hold
        elif self._closing is not None:
            self._closing.close()  # who was to do it, in the parent, is not here

    def _own(self) -> None:
        """In a child that nobody told of the fork, tell it."""
        if os.getpid() != self._pid:
            self.after_fork()

    def _settle(self) -> None:
        """Do what is left to the last sleeper: drain the wake-up, or close it."""
        self._own()
        with self._lock:
            if self._hold is None:
                if not self._sleepers:
                    self._wakeup.close()
                return
            is_stale = any(ticket != self.ticket for ticket in list(self._sleepers.values()))
            if self._is_signalled and not is_stale:
                self._is_signalled = False
                self._wakeup.drain()


def _sleep(sock: socket.socket, wakeup: Wakeup, events: int, timeout_s: float) -> None:
    timeout = None if timeout_s < 0 else min(timeout_s, _LONGEST_SLEEP_S)
    if hasattr(select, "poll"):
        poller = select.poll()
        if events:  # for none, poll would still end for an error of the socket
            poller.register(sock.fileno(), events)
        poller.register(wakeup.fileno(), POLLIN)
        poller.poll(None if timeout is None else timeout * 1000)  # rounded up
        return
    select.select(
        [sock.fileno(), wakeup.fileno()] if events & POLLIN else [wakeup.fileno()],
        [sock.fileno()] if events & _POLLOUT else [],
        [sock.fileno()] if events else [],
        timeout,
    )
