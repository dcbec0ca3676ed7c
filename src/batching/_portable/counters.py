"""Counters: what one connection did, counted where it happens.

Rule: whoever counts takes ``_lock``, and calls nothing while holding it.  Python handles
signals at calls and at the ends of loops, so a handler neither finds the lock taken by its own
thread nor comes between what was done and its being counted.  So a histogram is one number,
64 bits a bucket, to which ``tally`` of many sizes is added in one step.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any, Final, final

from .._stats import BOUNDS

__all__ = ["Counters"]

_LANE: Final = 64  # bits
_MASK: Final = 2**_LANE - 1


def tally(sizes: Iterable[int]) -> int:
    """Return a histogram of ``sizes``, which are 1 or more."""
    last = len(BOUNDS)
    return sum(1 << _LANE * min((size - 1).bit_length(), last) for size in sizes)


def _unfold(histogram: int) -> list[int]:
    return [histogram >> _LANE * place & _MASK for place in range(len(BOUNDS) + 1)]


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
        "recv_datagrams_per_message",
        "recv_messages_per_call",
        "recv_truncated",
        "send_bytes",
        "send_calls",
        "send_datagrams",
        "send_datagrams_per_message",
        "send_errors",
        "send_messages_per_call",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.recv_calls = 0
        self.recv_datagrams = 0
        self.recv_bytes = 0
        self.recv_truncated = 0
        self.recv_control_truncated = 0
        self.recv_datagrams_per_message = 0
        self.recv_messages_per_call = 0
        self.send_calls = 0
        self.send_datagrams = 0
        self.send_bytes = 0
        self.send_errors = 0
        self.send_datagrams_per_message = 0
        self.send_messages_per_call = 0

    def snapshot(self) -> dict[str, Any]:
        """Return all of it as it is at one moment; of histograms, a list."""
        seen = Counters()  # made before: the collector may run in here, and with it anything
        with self._lock:
            seen.recv_calls = self.recv_calls
            seen.recv_datagrams = self.recv_datagrams
            seen.recv_bytes = self.recv_bytes
            seen.recv_truncated = self.recv_truncated
            seen.recv_control_truncated = self.recv_control_truncated
            seen.recv_datagrams_per_message = self.recv_datagrams_per_message
            seen.recv_messages_per_call = self.recv_messages_per_call
            seen.send_calls = self.send_calls
            seen.send_datagrams = self.send_datagrams
            seen.send_bytes = self.send_bytes
            seen.send_errors = self.send_errors
            seen.send_datagrams_per_message = self.send_datagrams_per_message
            seen.send_messages_per_call = self.send_messages_per_call
        numbers = {name: getattr(seen, name) for name in self.__slots__ if name[0] != "_"}
        return numbers | {name: _unfold(numbers[name]) for name in numbers if "_per_" in name}

    def _after_fork(self) -> None:
        """Make the lock new, in a forked child: a thread that is gone may hold it."""
        self._lock = threading.Lock()
