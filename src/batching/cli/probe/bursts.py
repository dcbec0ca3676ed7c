"""Bursts: the rounds of an exchange, sent one burst after the other, in both ways.

Either side sends so.  Between bursts there is a pause, by the bytes that were sent, so
that it is the bursts that are tested and not how much a path carries in a second.
"""

from __future__ import annotations

import errno
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from batching import Conn, Segments, SendError

from .control import Rounds
from .shapes import WAYS, Shape
from .stamp import Burst, Stamps

__all__ = ["FAST", "Ends", "Sending", "bursts_of", "pause_s"]

FAST: Final = 100e6  # bits a second, on average
_PAUSE_S: Final = 0.001  # after each burst, besides


def bursts_of(rounds: Rounds) -> Iterator[Burst]:
    """Yield the bursts of rounds in the order in which their counts are told."""
    for number in range(rounds.first, rounds.first + rounds.n):
        for shape in rounds.shapes:
            for way in range(len(WAYS)):
                yield Burst(number, shape, way)


def pause_s(shape: Shape, rate: float) -> float:
    """Return the seconds that a burst has for itself, at so many bits a second."""
    return _PAUSE_S + 8 * shape.nbytes / rate


class Ends(NamedTuple):
    """Where to send to, and the address to send from; None is what the socket has."""

    peer: tuple[Any, ...] | None
    local: tuple[Any, ...] | None

    def train(self, data: bytes, segment_size: int) -> Segments:
        """Return datagrams that go that way."""
        return Segments(data, segment_size, self.peer, local_addr=self.local)


class Sending:
    """Rounds on their way out: ``step`` sends a burst whenever one is due."""

    def __init__(
        self,
        conn: Conn,
        stamps: Stamps,
        shapes: Sequence[Shape],
        rounds: Rounds,
        to: Ends | None = None,
        rate: float = FAST,
    ) -> None:
        self._conn, self._stamps, self._shapes = conn, stamps, shapes
        self._to, self._rate = to or Ends(None, None), rate
        self._due = time.monotonic()
        self._bursts = [
            # Who goes first may find a queue empty: each way does every other round.
            burst._replace(way=burst.way ^ burst.round & 1)
            for burst in bursts_of(rounds)
        ]
        self._bursts.reverse()
        self.singly: set[int] = set()
        """Shapes whose trains this system has refused, so that they went out one by one."""
        self.errors: Counter[str] = Counter()
        """Datagrams that could not be sent, by errno."""

    @property
    def is_done(self) -> bool:
        """Tell whether all is sent."""
        return not self._bursts

    def wait_s(self) -> float:
        """Return the seconds until the next burst is due."""
        return max(0.0, self._due - time.monotonic())

    def step(self) -> None:
        """Send a burst if one is due."""
        if self._bursts and self.wait_s() == 0:
            burst = self._bursts.pop()
            shape = self._shapes[burst.shape]
            datagrams = self._stamps.datagrams(burst, shape)
            try:
                if WAYS[burst.way] == "plain":
                    self._send_singly(datagrams)
                else:
                    self._send_train(burst.shape, shape, b"".join(datagrams))
            finally:
                self._due = time.monotonic() + pause_s(shape, self._rate)

    def _send_singly(self, datagrams: list[bytes]) -> None:
        for data in datagrams:
            self._send(data, len(data))

    def _send_train(self, number: int, shape: Shape, data: bytes) -> None:
        before = self._conn.stats().send_trains
        self._send(data, shape.size)
        if self._conn.stats().send_trains != before + 1:
            self.singly.add(number)

    def _send(self, data: bytes, segment_size: int) -> None:
        try:
            self._conn.send_segments([self._to.train(data, segment_size)])
        except SendError as error:
            self._note(error)

    def _note(self, error: OSError) -> None:
        self.errors[errno.errorcode.get(error.errno or 0, str(error))] += 1
