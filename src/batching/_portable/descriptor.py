"""Descriptor: a socket that stays open while somebody is inside, and how sleepers wake.

Some facts, and what they mean for us:

- Closing a descriptor that another thread polls does not wake it, and its number may
  be given to somebody else at once.  Hence close() only refuses, and who leaves last,
  or close() itself when nobody is inside, closes.
- A wake-up that is drained by the first who wakes is missed by the second.  Hence the
  *ticket*: a kick makes every ticket old, and the wake-up is drained by the last of the
  sleepers that hold an old one.  Who falls asleep meanwhile wakes at once and goes round
  again.
- Python handles signals where it calls, enters a function, jumps back, and while it
  waits for a lock; the handler may raise.  Hence leaving is one operation in C, without
  a lock (``pop``, ``discard``), and what comes after it is made good by the next who leaves
  or closes, should it not be reached.  What Python does not let us mend: a handler that
  raises on entry to our __exit__ leaves somebody inside for good, and the socket is
  then closed by its finalizer.
- A forked child shares the wake-up with its parent and has none of its threads.  Hence
  a new one, and nobody inside, before a child touches either.

The lock is reentrant: a signal handler may well close or kick.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from typing import Final, final

from .._errors import os_error
from .wakeup import Wakeup, new_wakeup

__all__ = ["Descriptor"]

_POLLIN: Final[int] = getattr(select, "POLLIN", 1)
_POLLOUT: Final[int] = getattr(select, "POLLOUT", 4)
_LONGEST_SLEEP_S: Final = 1_000_000.0  # poll takes an int of milliseconds: 24 days


@final
class Descriptor:
    """A socket's descriptor that stays open until the last call on it has left.

    Entering (``with descriptor as sock:``) raises OSError(EBADF) once it was closed.
    Safe from several threads, and from signal handlers.
    """

    __slots__ = (
        "__weakref__",
        "_calls",
        "_inside",
        "_is_signalled",
        "_lock",
        "_pid",
        "_sleepers",
        "_sock",
        "_timeout_s",
        "_wakeup",
        "closed",
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
        self._sock: socket.socket | None = sock  # None once it was given back
        self._lock = threading.RLock()
        self._pid = os.getpid()
        # Who is inside, by the three ways in.  Added to under the lock only.
        self._inside: list[None] = []
        self._calls: set[object] = set()
        self._sleepers: dict[object, int] = {}  # to their tickets
        self._is_signalled = False
        self.ticket = 0
        self.closed = False

    def __enter__(self) -> socket.socket:
        is_inside = False
        try:
            with self._lock:
                sock = self._sock
                if self.closed or sock is None:
                    raise os_error(errno.EBADF)
                self._inside += (None,)
                is_inside = True
            return sock
        except BaseException:
            if is_inside:
                self.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        del self._inside[-1:]  # of none, too: who was inside when the process forked
        if self.closed:
            self._settle()

    def _enter(self, call: object) -> socket.socket:
        """Enter as ``call``, which leaves by ``finally: _calls.discard(call)``, then _settle().

        That has no gap at all for a signal handler, so the attempts do it; it is no
        ``with`` of its own, because a function of Python's on the way out is the gap.
        """
        with self._lock:
            sock = self._sock
            if self.closed or sock is None:
                raise os_error(errno.EBADF)
            self._calls.add(call)
        return sock

    def fileno(self) -> int:
        """Return the descriptor's number, -1 once closed."""
        sock = self._sock
        return -1 if self.closed or sock is None else sock.fileno()

    def wait(self, events: int, timeout_s: float, ticket: int) -> None:
        """Sleep until ``events`` (poll's flags) or an error, a kick, close, the time.

        A signal wakes it only when its handler raises or kicks (PEP 475).  A negative
        ``timeout_s`` has no end.  Returns at once when ``ticket`` is old or it is closed.
        """
        self._own()
        sleeper = object()
        try:
            with self._lock:
                sock = self._sock
                if self.closed or sock is None or ticket != self.ticket:
                    return
                self._sleepers[sleeper] = ticket
            _sleep(sock, self._wakeup, events, timeout_s)
        finally:
            self._sleepers.pop(sleeper, None)
            if self.closed or self._is_signalled:
                self._settle()

    def kick(self) -> None:
        """Wake all who wait."""
        self._own()
        with self._lock:
            self.ticket += 1
            if self._sleepers and not self.closed and not self._is_signalled:
                self._is_signalled = True
                self._wakeup.signal()

    def close(self) -> None:
        """Refuse further calls, wake who waits; the socket is closed by who leaves last."""
        self._own()
        with self._lock:
            if not self.closed:
                self.closed = True
                self._wakeup.signal()  # for good: nobody drains what is closed
            self._settle()

    def release(self) -> socket.socket:
        """Give the socket back, unclosed and with its timeout, to undo __init__.

        Nobody may be inside but sleepers, who wake.  The descriptor is closed then;
        OSError(EBADF) if it was.
        """
        with self._lock:
            sock = self._sock
            if self.closed or sock is None:
                raise os_error(errno.EBADF)
            sock.settimeout(self._timeout_s)
            self.closed = True
            self._sock = None
            self._wakeup.signal()
            self._settle()
            return sock

    def after_fork(self) -> None:
        """Forget, in a forked child, the parent's threads and the wake-up shared with it."""
        self._lock = threading.RLock()  # a thread that is gone may hold the old one
        self._pid = os.getpid()
        self._inside = []
        self._calls = set()
        self._sleepers = {}
        self._is_signalled = False
        self._wakeup.close()  # ours of the two; its room is the new one's
        if not self.closed:
            self._wakeup = new_wakeup()
        self._settle()  # who was to close it, in the parent, is not here to do it

    def _own(self) -> None:
        """In a child that nobody told of the fork, tell it."""
        if os.getpid() != self._pid:
            self.after_fork()

    def _settle(self) -> None:
        """Do what is left to the last: drain the wake-up, or close.  Safe to do again."""
        self._own()
        with self._lock:
            if self.closed:
                if not (self._inside or self._calls or self._sleepers):
                    if self._sock is not None:
                        self._sock.close()
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
        poller.register(sock.fileno(), events)
        poller.register(wakeup.fileno(), _POLLIN)
        poller.poll(None if timeout is None else timeout * 1000)  # rounded up
        return
    select.select(
        [sock.fileno(), wakeup.fileno()] if events & _POLLIN else [wakeup.fileno()],
        [sock.fileno()] if events & _POLLOUT else [],
        [sock.fileno()],
        timeout,
    )
