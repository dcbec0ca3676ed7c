"""The ledger: what became of each transmission, in memory that all processes share.

A cell has one writer, so it needs no lock; it outlives a process that is killed.  Only the
pages that a round uses are there, and they are given back between rounds.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

from .wire import N_FLOWS, Flow

CAPACITY: Final = 1 << 16  # transmissions a flow may have in a round

# States of a transmission.
UNKNOWN: Final = 1  # the call that sends it has not returned, and perhaps never will
SENT: Final = 2
SENT_IN_SILENCE: Final = 3  # while the network was made to lose without telling
REFUSED: Final = 4  # a SendError's errors
UNSENT: Final = 5  # a SendError's unsent

_PAGE: Final = mmap.PAGESIZE
_TOTALS: Final = ("used", "received", "empty_sent", "empty_unsure", "empty_received")
_IS_SENT: Final = bytes(state in (SENT, SENT_IN_SILENCE) for state in range(256))
_CELLS: Final = N_FLOWS * CAPACITY
_SIZE: Final = _PAGE * (1 + len(_TOTALS)) + 2 * _CELLS


class Ledger:
    """One round's transmissions; ``fd`` is a memfd that every process has."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._map = mmap.mmap(fd, _SIZE)
        view = memoryview(self._map)
        totals = [
            view[_PAGE * i : _PAGE * (i + 1)].cast("I")[:N_FLOWS]
            for i in range(1, len(_TOTALS) + 1)
        ]
        self.used, self.received = totals[:2]  # by flow: transmissions
        self.empty_sent, self.empty_unsure, self.empty_received = totals[2:]
        start = _PAGE * (1 + len(_TOTALS))
        self.states = view[start : start + _CELLS]
        self.marks = view[start + _CELLS :]

    @classmethod
    def new(cls) -> Ledger:
        fd = os.memfd_create("soak")
        os.ftruncate(fd, _SIZE)
        return cls(fd)

    @property
    def is_silent(self) -> bool:
        """Whether the network is made to lose without telling."""
        return self._map[0] != 0

    @is_silent.setter
    def is_silent(self, value: bool) -> None:
        self._map[0] = value

    def clear(self) -> None:
        """Begin a round: all is zero, and the memory given back."""
        self._map.madvise(mmap.MADV_REMOVE)

    def columns(self, flow: int) -> tuple[bytes, bytes]:
        """Return the states and the marks of all transmissions of a flow."""
        start = flow * CAPACITY
        end = start + self.used[flow]
        return bytes(self.states[start:end]), bytes(self.marks[start:end])

    def flows(self) -> list[Flow]:
        """Return those that have transmitted, or been used to send empty datagrams."""
        return [
            Flow.of(i)
            for i in range(N_FLOWS)
            if self.used[i] or self.empty_sent[i] or self.empty_unsure[i]
        ]

    def last_received(self, flow: int) -> int:
        """Return the highest tx that arrived, -1 for none."""
        _, marks = self.columns(flow)
        return len(marks.rstrip(b"\0")) - 1

    def in_flight(self) -> int:
        """Return how many were sent, as the calls have told, and have not arrived."""
        n = max(0, sum(self.empty_sent) - sum(self.empty_received))
        for flow in self.flows():
            states, marks = self.columns(flow.id)
            sent = int.from_bytes(states.translate(_IS_SENT))
            n += (sent & ~int.from_bytes(marks)).bit_count()
        return n

    def arrived(self) -> int:
        return sum(self.received) + sum(self.empty_received)
