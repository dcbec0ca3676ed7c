"""Counters: what one connection did, counted where it happens.

Rule: whoever counts takes ``_lock``, and calls nothing while holding it.  Python handles
signals at calls, so a handler neither finds the lock taken by its own thread nor comes
between what was done and its being counted.
"""

from __future__ import annotations

import threading
from typing import final

__all__ = ["Counters"]


@final
class Counters:
    """What one Conn did; written by the other classes, any thread, only ever growing."""

    __slots__ = (
        "__weakref__",
        "_lock",
        "recv_bytes",
        "recv_calls",
        "recv_control_truncated",
        "recv_datagrams",
        "recv_messages",
        "recv_trains",
        "recv_truncated",
        "send_bytes",
        "send_calls",
        "send_datagrams",
        "send_errors",
        "send_messages",
        "send_trains",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.recv_calls = 0
        self.recv_messages = 0
        self.recv_trains = 0
        self.recv_datagrams = 0
        self.recv_bytes = 0
        self.recv_truncated = 0
        self.recv_control_truncated = 0
        self.send_calls = 0
        self.send_messages = 0
        self.send_trains = 0
        self.send_datagrams = 0
        self.send_bytes = 0
        self.send_errors = 0

    def _after_fork(self) -> None:
        """Make the lock new, in a forked child: a thread that is gone may hold it."""
        self._lock = threading.Lock()
