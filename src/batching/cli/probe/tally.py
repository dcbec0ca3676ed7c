"""Tally: what arrived of the latest bursts, by round, shape and way."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from .shapes import Shape
from .stamp import Burst, Stamps

__all__ = ["Count", "Report", "Tally"]

_MOST: Final = 255  # what a count is at most as it travels
_MAX_BURSTS: Final = 256  # kept, whatever comes: those of one exchange are fewer
_FORM: Final = struct.Struct("!BBBB")
_REPORT: Final = struct.Struct("!IQ")


class Count(NamedTuple):
    """What became of the datagrams of one burst."""

    lost: int = 0
    damaged: int = 0
    """Cut, merged or of other content."""
    doubled: int = 0
    swapped: int = 0
    """Came after one that was sent later."""

    @property
    def harm(self) -> int:
        """How many datagrams something is wrong with."""
        return sum(self)

    def plus(self, other: Count) -> Count:
        """Return the sum."""
        return Count(*(a + b for a, b in zip(self, other, strict=True)))

    def pack(self) -> bytes:
        """Return it as it travels."""
        return _FORM.pack(*(min(n, _MOST) for n in self))

    @classmethod
    def unpack(cls, data: bytes) -> list[Count]:
        """Return those that were packed, one behind the other."""
        return [cls(*fields) for fields in _FORM.iter_unpack(data)]


class _Arrivals:
    """What has come of one burst."""

    __slots__ = ("damaged", "doubled", "last", "seen", "swapped")

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.damaged: set[int] = set()
        self.doubled = 0
        self.swapped = 0
        self.last = -1

    def add(self, index: int, *, is_whole: bool) -> None:
        if not is_whole:
            self.damaged.add(index)
            return
        if index in self.seen:
            self.doubled += 1
            return
        self.seen.add(index)
        self.swapped += index < self.last
        self.last = max(self.last, index)

    def count(self, segments: int) -> Count:
        damaged = len(self.damaged - self.seen)
        extra = len(self.damaged & self.seen)  # a piece more than there ought to be
        lost = segments - len(self.seen) - damaged
        return Count(lost, damaged + extra, self.doubled, self.swapped)


class Report(NamedTuple):
    """What a server tells of the rounds that it has received, and of itself so far."""

    drops: int
    """Packets that its socket had no room for."""
    singly: int
    """Mask of the shapes whose trains its system has refused."""
    counts: list[Count]
    """In the order of the rounds' bursts."""

    def pack(self) -> bytes:
        """Return it as it travels."""
        return _REPORT.pack(self.drops, self.singly) + b"".join(one.pack() for one in self.counts)

    @classmethod
    def unpack(cls, body: bytes, n_counts: int) -> Report:
        """Return what the network claims to be a report of so many bursts.

        Raises:
            ValueError: It is none.
        """
        if len(body) != _REPORT.size + n_counts * _FORM.size:
            raise ValueError(f"{len(body)} bytes are no report of {n_counts} bursts")
        drops, singly = _REPORT.unpack_from(body)
        return cls(drops, singly, Count.unpack(body[_REPORT.size :]))


class Tally:
    """What has come of the bursts of a session; the oldest are forgotten."""

    def __init__(self, stamps: Stamps, shapes: Sequence[Shape]) -> None:
        self._stamps = stamps
        self._shapes = shapes
        self._bursts: dict[int, _Arrivals] = {}
        self.n_taken = 0
        """Datagrams of bursts."""
        self.strange = 0
        """Datagrams that belong to no burst."""

    def add(self, data: bytes) -> bool:
        """Take what was received; tell whether it belongs here."""
        place = self._stamps.place(data)
        if place is not None:
            code, index, is_whole = place
            burst = Burst.of(code)
            shapes = self._shapes
            if burst.shape < len(shapes) and index < shapes[burst.shape].segments:
                self._arrivals(code).add(index, is_whole=is_whole)
                self.n_taken += 1
                return True
        self.strange += 1
        return False

    def _arrivals(self, code: int) -> _Arrivals:
        found = self._bursts.get(code)
        if found is None:
            if len(self._bursts) >= _MAX_BURSTS:
                del self._bursts[next(iter(self._bursts))]  # the oldest
            found = self._bursts[code] = _Arrivals()
        return found

    def counts(self, bursts: Iterable[Burst]) -> list[Count]:
        """Return what became of those bursts, all of which were sent."""
        nothing = _Arrivals()
        return [
            self._bursts.get(burst.code, nothing).count(self._shapes[burst.shape].segments)
            for burst in bursts
        ]
