"""Lessons: what destinations taught about trains, and when to forget it.

Rule 1: a lesson is a limit of one Peer, which the planner obeys.
Rule 2: it is forgotten, whole, 30 s after the last time it was taught; 1 s after routes or
devices of this machine were seen to change, if that is sooner.  So it is tried again, and
a route that flaps costs each destination at most one trial a second.
Rule 3: what is remembered is bounded; the oldest goes first.
Rule 4: a signal's handler may come between any two statements, and may send, or raise.  So
a lesson is noted before it is drawn, and undone before its note goes; and what is walked
over is a copy.
"""

from __future__ import annotations

import errno
import math
import threading
from typing import Final

from ._backend import Peer
from ._kernel import GSO_REFUSED, MAX_SEGMENT_SIZE, MAX_SEGMENTS, SEGMENT_TOO_LARGE
from ._routes import RouteWatch, watch_routes
from ._waiter import Waiter, renew_after_fork

_FORGET_S: Final = 30.0
_FORGET_CHANGED_S: Final = 1.0
_LOOK_EVERY_S: Final = 0.1  # at what is due, and at the routes: a system call
_MAX_LEARNT: Final = 4096


def lesson_of(code: int, segment_size: int) -> tuple[int, int] | None:
    """Return how many datagrams, of how many bytes, a train may have after it met ``code``.

    None: that errno teaches nothing.
    """
    if code in GSO_REFUSED:
        return 1, MAX_SEGMENT_SIZE
    if code in SEGMENT_TOO_LARGE:
        return MAX_SEGMENTS, segment_size - 1
    return None


class Lessons:
    """What the destinations of one Conn taught.  Safe from several threads."""

    __slots__ = (
        "__weakref__",
        "_is_closed",
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
        self.learnt: dict[Peer, float] = {}  # when to forget what it taught
        self._waiter = waiter  # for its clock
        self._max_segments = max_segments
        self._watch: RouteWatch | None = None
        self._is_closed = False
        self._look_at = 0.0
        self._lock = threading.RLock()  # never held while waiting
        renew_after_fork(self)

    def learn(self, peer: Peer, code: int, segment_size: int) -> bool:
        """Draw the lesson of a train that met ``code`` though its datagrams go out.

        Return whether GSO was lost by it; most errnos teach nothing.
        """
        lesson = lesson_of(code, segment_size)
        if lesson is None:
            return False
        n, size = lesson
        with self._lock:
            if self._watch is None and not self._is_closed:
                self._watch = watch_routes()
            when = self._waiter.clock() + _FORGET_S
            self.learnt[peer] = when
            has_lost = n < 2 <= peer.max_segments
            is_news = has_lost or (n > 1 and size < peer.max_segment_size)
            peer.max_segments = min(peer.max_segments, n)
            peer.max_segment_size = min(peer.max_segment_size, size)
            self.learnt[peer] = when  # a handler may have forgotten it meanwhile
            if is_news:  # else another thread has learnt it meanwhile
                reason = errno.errorcode[code]
                self.fallbacks[reason] = self.fallbacks.get(reason, 0) + 1
            if len(self.learnt) > _MAX_LEARNT:
                self._forget(min(list(self.learnt.items()), key=lambda item: item[1])[0])
        return has_lost

    def forget(self) -> None:
        """Forget what is due."""
        now = self._waiter.clock()
        if now < self._look_at:
            return
        with self._lock:
            self._look_at = now + _LOOK_EVERY_S
            watch = self._watch
            has_changed = watch is not None and watch.has_changed()
            latest = now + _FORGET_CHANGED_S if has_changed else math.inf
            for peer, when in list(self.learnt.items()):
                if when <= now:
                    self._forget(peer)
                elif when > latest:
                    self.learnt[peer] = latest
            if not self.learnt:
                self._end_watch()

    def close(self) -> None:
        """Give the descriptor back, if one is held, and take none any more."""
        with self._lock:  # so that nobody is reading from a number that is given away
            self._is_closed = True
            self._end_watch()

    def after_fork(self) -> None:
        """In a forked child: a new lock, and a watch that is not shared with the parent."""
        self._lock = threading.RLock()
        if self._watch is not None:
            self._end_watch()
            self._watch = watch_routes()

    def _forget(self, peer: Peer) -> None:
        peer.max_segments = self._max_segments
        peer.max_segment_size = MAX_SEGMENT_SIZE
        self.learnt.pop(peer, None)

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.close()  # first: cut short here, a later call does it
            self._watch = None
