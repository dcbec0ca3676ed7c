"""Lessons: what destinations taught about trains, and when to forget it.

Rule 1: a lesson is a limit of one Peer, which the planner obeys.
Rule 2: it is forgotten, whole, 30 s after the last time it was taught; 1 s after routes or
devices of this machine were seen to change, if that is sooner.  So it is tried again, and
a route that flaps costs each destination at most one trial a second.
Rule 3: what is remembered is bounded; the oldest goes first.
"""

from __future__ import annotations

import errno
import threading
from typing import Final

from ._backend import Peer
from ._kernel import GSO_REFUSED, SEGMENT_TOO_LARGE
from ._routes import RouteWatch, watch_routes
from ._waiter import Waiter, renew_after_fork

_FORGET_S: Final = 30.0
_FORGET_CHANGED_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1  # at the routes: a system call
_MAX_LEARNT: Final = 4096
_ANY_SEGMENT_SIZE: Final = 65535


def least_refused(code: int, segment_size: int) -> int:
    """Return from which segment size on a destination may refuse trains, by one that met ``code``.

    0: that errno says nothing of other trains.
    """
    if code in GSO_REFUSED:
        return 1
    return segment_size if code in SEGMENT_TOO_LARGE else 0


class Lessons:
    """What the destinations of one Conn taught.  Safe from several threads."""

    __slots__ = (
        "__weakref__",
        "_lock",
        "_look_at",
        "_max_segments",
        "_waiter",
        "_watch",
        "fallbacks",
        "learnt",
    )

    def __init__(self, waiter: Waiter, max_segments: int) -> None:
        self.fallbacks: dict[str, int] = {}  # errno's name: destinations that fell back for it
        self.learnt: dict[Peer, float] = {}  # when to forget what it taught, soonest first
        self._waiter = waiter  # for its clock
        self._max_segments = max_segments
        self._watch: RouteWatch | None = None
        self._look_at = 0.0
        self._lock = threading.RLock()  # a signal handler may send
        renew_after_fork(self)

    def learn(self, peer: Peer, code: int, segment_size: int) -> bool:
        """Draw the lesson of a train that met ``code`` though its datagrams go out.

        Return whether GSO was lost by it; most errnos teach nothing.
        """
        has_lost = False
        with self._lock:
            if code in GSO_REFUSED:
                is_news = has_lost = peer.max_segments > 1
                peer.max_segments = 1
            elif code in SEGMENT_TOO_LARGE:
                is_news = segment_size <= peer.max_segment_size
                peer.max_segment_size = min(peer.max_segment_size, segment_size - 1)
            else:
                return False
            if is_news:  # else another thread has learnt it meanwhile
                reason = errno.errorcode[code]
                self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1
            if not self.learnt:
                self._watch = watch_routes()
            self.learnt.pop(peer, None)  # to the end: the order is that of time
            self.learnt[peer] = self._waiter.clock() + _FORGET_S
        return has_lost

    def forget(self) -> None:
        """Forget what is due."""
        now = self._waiter.clock()
        with self._lock:
            if now >= self._look_at:
                self._look_at = now + _LOOK_EVERY_S
                if self._watch is not None and self._watch.has_changed():
                    self._hasten(now + _FORGET_CHANGED_S)
            while self.learnt:
                peer, when = next(iter(self.learnt.items()))
                if when > now and len(self.learnt) <= _MAX_LEARNT:
                    return
                self.learnt.pop(peer, None)
                peer.max_segments = self._max_segments
                peer.max_segment_size = _ANY_SEGMENT_SIZE
            self.close()

    def close(self) -> None:
        """Give the descriptor back, if one is held; harmless to what was learnt."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.close()

    def after_fork(self) -> None:
        """In a forked child: a new lock, and a watch that is not shared with the parent."""
        self._lock = threading.RLock()
        if self._watch is not None:
            self.close()
            self._watch = watch_routes()

    def _hasten(self, limit: float) -> None:
        for peer, when in self.learnt.items():
            self.learnt[peer] = min(when, limit)  # which keeps the order
