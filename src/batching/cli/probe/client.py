"""Client: the side of a probe that asks, sends its bursts, and has the server send its own."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from batching import Conn

from .bursts import FAST, Sending, bursts_of, pause_s
from .control import HELLO_SIZE, MAX_BURSTS, MAX_REPORTED, REPORT_SIZE, TOKEN, Kind, Message, Rounds
from .record import Direction, Record
from .shapes import Shape
from .stamp import Stamps
from .tally import Count, Report, Tally

__all__ = ["Client", "NoAnswerError", "Result"]

_FIRST_TRY_S: Final = 0.1
_LAST_TRY_S: Final = 1.0
_SETTLE_S: Final = 0.05  # for what is late, at least
_QUIET_S: Final = 0.2  # without a datagram: no more will come
_ALL_FOR: Final = 0.4  # of the time all shapes are tested, then those in doubt
_N_ROUNDS: Final = 2  # of all shapes
_MANY: Final = 12  # rounds of those in doubt: as many as make sure
_MAX_ROUNDS: Final = 256
_HEAVY: Final = 0.05  # of all datagrams harmed: go slower
_SLOWER: Final = 4.0
_REFUSED: Final = "nobody listens at this port: the host refuses it"


class NoAnswerError(Exception):
    """The server does not answer."""


@dataclass(slots=True)
class Result:
    """What a probe of a path has brought."""

    records: dict[Direction, list[Record]]
    rtt_s: float = 0.0
    server_max_segments: int = 0
    drops: dict[Direction, int] = field(default_factory=lambda: {"out": 0, "back": 0})
    """Packets that the receiver's socket had no room for."""
    errors: Counter[str] = field(default_factory=Counter)
    """Datagrams that this system would not send, by errno."""
    fallbacks: dict[str, int] = field(default_factory=dict)
    """Why this system has refused trains, by errno."""
    ignored: int = 0
    """Datagrams received that belong to nothing here."""
    gave_up: str = ""
    """Why it ended before its time."""


class Client:
    """A probe over a connected ``Conn``, which it does not close."""

    def __init__(self, conn: Conn, shapes: list[Shape]) -> None:
        self._conn, self._shapes = conn, shapes
        self._number = 0
        self._token = os.urandom(TOKEN)
        self._tally: Tally | None = None
        self._rounds: dict[Direction, int] = {"out": 0, "back": 0}
        self._rate = FAST
        self.result = Result(
            {
                "out": [Record("out", shape) for shape in shapes],
                "back": [Record("back", shape) for shape in shapes],
            }
        )

    def shake_hands(self, patience_s: float) -> None:
        """Become known to the server.

        Raises:
            NoAnswerError: Nobody answers, or the server is busy.
        """
        end = time.monotonic() + patience_s
        nonce = self._token
        cookie = self._ask(Kind.HELLO, b"", end, HELLO_SIZE)
        if len(cookie.body) != TOKEN:
            raise NoAnswerError("its answer is none of a probe's")
        self._token = cookie.body
        shapes = b"".join(shape.pack() for shape in self._shapes)
        ready = self._ask(Kind.START, nonce + shapes, end)
        if ready.kind is Kind.BUSY or len(ready.body) != 2:
            raise NoAnswerError("it has as many clients as it takes: try again later")
        (self.result.server_max_segments,) = struct.unpack("!H", ready.body)
        self._stamps = Stamps(self._token)
        self._tally = Tally(self._stamps, self._shapes)

    def run(self, duration_s: float) -> None:
        """Test the path in both directions, for so long at most but for what is under way."""
        start = time.monotonic()
        end = start + duration_s
        drops = self._conn.stats().recv_queue_drops
        try:
            while self._has_rounds() and (
                not self._rounds["back"] or time.monotonic() < start + _ALL_FOR * duration_s
            ):
                self._exchange("out", range(len(self._shapes)), _N_ROUNDS, end)
                self._exchange("back", range(len(self._shapes)), _N_ROUNDS, end)
                self._slow_down()
            while self._has_rounds() and time.monotonic() < end and self._look_closer(end):
                pass
            self._report(Rounds(max(0, self._rounds["out"] - 1), 1, 1), end)  # for its singly
        except NoAnswerError as error:
            self.result.gave_up = str(error)
        with contextlib.suppress(NoAnswerError):
            self._send(Message(Kind.END, 0, self._token))
        stats = self._conn.stats()
        self.result.drops["back"] = stats.recv_queue_drops - drops
        self.result.fallbacks = dict(stats.gso_fallbacks)
        self.result.ignored += self._tally.strange if self._tally else 0

    def _has_rounds(self) -> bool:
        return max(self._rounds.values()) + _MANY <= _MAX_ROUNDS

    def _look_closer(self, end: float) -> bool:
        """Send more rounds of the shapes in doubt; tell whether there were any."""
        doubts: dict[Direction, list[int]] = {
            direction: [n for n, record in enumerate(records) if record.is_suspect]
            for direction, records in self.result.records.items()
        }
        for direction, numbers in doubts.items():
            if numbers:
                n_rounds = self._n_rounds(numbers, end)
                if direction == "back":  # the server sends no more than it has got
                    self._exchange("out", numbers, n_rounds, end)
                self._exchange(direction, numbers, n_rounds, end)
        return any(doubts.values())

    def _n_rounds(self, numbers: list[int], end: float) -> int:
        """Return how many rounds of those shapes there is room and time for, one at least."""
        round_s = sum(2 * pause_s(self._shapes[number], self._rate) for number in numbers)
        n_in_time = int((end - time.monotonic()) / round_s)
        return max(1, min(_MANY, MAX_BURSTS // len(numbers), n_in_time))

    def _exchange(
        self, direction: Direction, numbers: range | list[int], n_rounds: int, end: float
    ) -> None:
        """Have rounds sent, and note what has become of them."""
        mask = sum(1 << number for number in numbers)
        rounds = Rounds(self._rounds[direction], n_rounds, mask)
        self._rounds[direction] += n_rounds
        if direction == "out":
            counts = self._send_out(rounds, end)
        else:
            rounds, counts = self._have_sent(rounds, end)
        pairs = iter(counts)
        for _ in range(rounds.n):
            for number in rounds.shapes:
                self.result.records[direction][number].rounds.append((next(pairs), next(pairs)))

    def _send_out(self, rounds: Rounds, end: float) -> list[Count]:
        sending = Sending(self._conn, self._stamps, self._shapes, rounds, rate=self._rate)
        while not sending.is_done:
            self._listen(time.monotonic() + sending.wait_s())
            sending.step()
        for number in sending.singly:
            self.result.records["out"][number].singly = True
        self.result.errors += sending.errors
        counts = self._reports(rounds, end)
        if any(count.harm for count in counts):  # perhaps it is only late
            self._listen(time.monotonic() + max(_SETTLE_S, 2 * self.result.rtt_s))
            counts = self._reports(rounds, end)
        return counts

    def _reports(self, rounds: Rounds, end: float) -> list[Count]:
        """Return what became of rounds, asked in parts that fit a message."""
        step = max(1, MAX_REPORTED // len(rounds.shapes))
        counts = []
        for first in range(rounds.first, rounds.first + rounds.n, step):
            n = min(step, rounds.first + rounds.n - first)
            counts += self._report(rounds._replace(first=first, n=n), end)
        return counts

    def _report(self, rounds: Rounds, end: float) -> list[Count]:
        answer = self._ask(Kind.REPORT, rounds.pack(), end, REPORT_SIZE)
        try:
            report = Report.unpack(answer.body, len(list(bursts_of(rounds))))
        except ValueError as error:
            raise NoAnswerError(str(error)) from None
        self.result.drops["out"] = report.drops
        for number, record in enumerate(self.result.records["back"]):
            record.singly = bool(report.singly >> number & 1)
        return report.counts

    def _have_sent(self, rounds: Rounds, end: float) -> tuple[Rounds, list[Count]]:
        limit = self.result.server_max_segments
        for number in rounds.shapes:
            if self._shapes[number].segments > limit:
                rounds = rounds._replace(mask=rounds.mask & ~(1 << number))
        if not rounds.mask:
            return rounds, []
        assert self._tally is not None
        n_before = self._tally.n_taken
        answer = self._ask(Kind.SEND, rounds.pack(), end)
        with contextlib.suppress(ValueError):  # nothing that it could afford
            granted = Rounds.unpack(answer.body, len(self._shapes))
            rounds = rounds._replace(mask=rounds.mask & granted.mask)
            bursts = list(bursts_of(rounds))
            n_sent = sum(self._shapes[burst.shape].segments for burst in bursts)
            self._listen_until(n_before + n_sent)
            return rounds, self._tally.counts(bursts)
        return rounds._replace(mask=0), []

    def _listen_until(self, n_expected: int) -> None:
        """Take what comes until it is as much as was to come, or nothing comes any more."""
        quiet_s = max(_QUIET_S, 4 * self.result.rtt_s)
        n_before = -1
        while n_before < self._n_taken() < n_expected:
            n_before = self._n_taken()
            self._listen(time.monotonic() + quiet_s, until=n_expected)

    def _slow_down(self) -> None:
        """Send slower from now on if much was harmed in the rounds of all shapes."""
        records = self.result.records["out"]
        harmed = sum(record.total(0).harm for record in records)
        if harmed > _HEAVY * sum(record.sent for record in records):
            self._rate = FAST / _SLOWER

    # Messages

    def _ask(self, kind: Kind, body: bytes, end: float, length: int = 0) -> Message:
        """Return the answer to a request, asked again until it comes.

        Raises:
            NoAnswerError: It does not come before ``end``, or soon if that is over.
        """
        self._number = (self._number + 1) & 0xFFFF
        request = Message(kind, self._number, self._token, body)
        end = max(end, time.monotonic() + _LAST_TRY_S)
        pause = max(_FIRST_TRY_S, 3 * self.result.rtt_s)
        while (now := time.monotonic()) < end:
            self._send(request, length)
            answer = self._listen(min(end, now + pause), request)
            if answer is not None:
                took = time.monotonic() - now  # since it was asked last
                self.result.rtt_s = min(took, self.result.rtt_s or took)
                return answer
            pause = min(2 * pause, _LAST_TRY_S)
        raise NoAnswerError("it does not answer")

    def _send(self, message: Message, length: int = 0) -> None:
        try:
            self._conn.write_to_udp_addr_port(message.pack(length), None)
        except ConnectionRefusedError:
            raise NoAnswerError(_REFUSED) from None
        except OSError as error:
            self.result.gave_up = f"this system does not send: {error.strerror}"
            raise NoAnswerError(self.result.gave_up) from None

    def _listen(
        self, deadline: float, request: Message | None = None, until: int = -1
    ) -> Message | None:
        """Take what comes; return at the time, with the answer, or with so many datagrams.

        Raises:
            NoAnswerError: The network says that nobody is there.
        """
        self._conn.set_read_deadline(deadline)
        answer = None
        try:
            while answer is None and (until < 0 or self._n_taken() < until):
                for data, _ in self._conn.recv_batch():
                    answer = self._take(data, request) or answer
        except TimeoutError:
            return None
        except ConnectionRefusedError:
            raise NoAnswerError(_REFUSED) from None
        except OSError as error:  # what else the network tells: it may pass
            self.result.errors[errno.errorcode.get(error.errno or 0, str(error))] += 1
        return answer

    def _take(self, data: bytes, request: Message | None) -> Message | None:
        message = Message.unpack(data)
        if message is None:
            if self._tally is None:
                self.result.ignored += 1
            else:
                self._tally.add(data)
            return None
        if (
            request is None
            or message.kind not in _ANSWERS[request.kind]
            or message.number != request.number
            or message.token != request.token
        ):
            self.result.ignored += 1
            return None
        return message

    def _n_taken(self) -> int:
        return self._tally.n_taken if self._tally else 0


_ANSWERS: Final[dict[Kind, tuple[Kind, ...]]] = {
    Kind.HELLO: (Kind.COOKIE,),
    Kind.START: (Kind.READY, Kind.BUSY),
    Kind.REPORT: (Kind.REPORTED,),
    Kind.SEND: (Kind.SENDING,),
}
