"""Session: what the server of a probe keeps of one client that has shown its address.

Nothing is sent to it but answers, which are no longer than their requests, and bursts, which
all together are no longer than what it has sent itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from batching import Conn

from .bursts import Ends, Sending, bursts_of
from .control import Kind, Message, Rounds
from .shapes import Shape
from .stamp import Stamps
from .tally import Report, Tally

__all__ = ["Session"]


class Session:
    """One client's."""

    def __init__(self, conn: Conn, ends: Ends, token: bytes, shapes: list[Shape]) -> None:
        self.ends = ends
        self.token = token
        self.last_heard = time.monotonic()
        self.received = 0
        """Bytes that the client has sent."""
        self.n_received = 0
        """Datagrams of bursts from it."""
        self.sent = 0
        """Bytes of bursts for it."""
        self.sending: Sending | None = None
        self._conn = conn
        self._shapes = shapes
        self._stamps = Stamps(token)
        self._tally = Tally(self._stamps, shapes)
        self._asked: tuple[int, bytes] | None = None  # the last SEND, and its answer's body
        self._drops = conn.stats().recv_queue_drops
        self._singly = 0  # mask of shapes whose trains this system has refused

    def take_data(self, data: bytes) -> bool:
        """Take a datagram that is no control message; tell whether it is one of a burst."""
        if not self._tally.add(data):
            return False
        self.received += len(data)
        self.n_received += 1
        self.last_heard = time.monotonic()
        return True

    def step(self) -> None:
        """Send what is due."""
        if self.sending is not None:
            self.sending.step()
            for number in self.sending.singly:
                self._singly |= 1 << number
            if self.sending.is_done:
                self.sending = None

    def answer(self, message: Message) -> Message | None:
        """Return the answer to a request, None if it is none; every one may come twice."""
        handler = self._handlers.get(message.kind)
        if handler is None:
            return None
        self.last_heard = time.monotonic()
        try:
            kind, body = handler(self, message)
        except ValueError:
            return None
        return Message(kind, message.number, self.token, body)

    def _report(self, message: Message) -> tuple[Kind, bytes]:
        rounds = Rounds.unpack(message.body, len(self._shapes))
        drops = (self._conn.stats().recv_queue_drops - self._drops) & 0xFFFFFFFF
        report = Report(drops, self._singly, self._tally.counts(bursts_of(rounds)))
        return Kind.REPORTED, report.pack()

    def _send(self, message: Message) -> tuple[Kind, bytes]:
        if self._asked is not None and self._asked[0] == message.number:
            return Kind.SENDING, self._asked[1]
        rounds = self._affordable(Rounds.unpack(message.body, len(self._shapes)))
        if rounds.mask:
            self.sending = Sending(self._conn, self._stamps, self._shapes, rounds, self.ends)
        self._asked = message.number, rounds.pack()
        return Kind.SENDING, rounds.pack()

    def _affordable(self, rounds: Rounds) -> Rounds:
        """Return the rounds with as many of their shapes as the client has paid for."""
        shapes = rounds.shapes
        start = rounds.first % len(shapes)  # not always the same ones are left out
        mask = 0
        for number in shapes[start:] + shapes[:start]:
            price = 2 * rounds.n * self._shapes[number].nbytes
            if self.sent + price <= self.received:
                self.sent += price
                mask |= 1 << number
        return rounds._replace(mask=mask)

    def _end(self, message: Message) -> tuple[Kind, bytes]:
        self.sending = None
        return Kind.ENDED, b""

    _handlers: Final[dict[Kind, Callable[[Session, Message], tuple[Kind, bytes]]]] = {
        Kind.REPORT: _report,
        Kind.SEND: _send,
        Kind.END: _end,
    }
