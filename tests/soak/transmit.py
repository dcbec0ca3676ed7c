"""One call of sending, in any of the ways, and what it says of each datagram: into the ledger.

Rule 1: a transmission is UNKNOWN from before the call until the call has told of it.  So
what a signal, a fork or a death leaves behind is right without anybody tidying up.
Rule 2: nothing here takes a lock; a forked child may send too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from batching import Conn, Segments, SendBlocked, SendError, SendTimeout, UDPGSODisabledError

from .ledger import CAPACITY, REFUSED, SENT, SENT_IN_SILENCE, UNKNOWN, UNSENT, Ledger
from .wire import build

Address = tuple[object, ...]
_SINGLES: Final = 16  # single sends of one call to transmit


class ViolationError(Exception):
    """Something happened that must not; it ends the run."""


class Item(NamedTuple):
    """A datagram on its way out; ``tx`` -1: an empty one, of which there is only a number."""

    flow: int
    tx: int
    data: bytes
    to: Address | None


class Outcome(NamedTuple):
    """What a call told: errno names by index, and the indices that it did not try."""

    failed: dict[int, str]
    unsent: list[int]


class Transmitter:
    """Sends items over a Conn and keeps the ledger; of one thread."""

    def __init__(self, ledger: Ledger, round_number: int, choose: random.Random) -> None:
        self.ledger = ledger
        self.guard: Callable[[Callable[[], Outcome]], Outcome] = lambda call: call()
        self.errors: dict[str, int] = {}  # errno's name: datagrams, or what the call said
        self._round = round_number
        self._choose = choose

    def item(self, flow: int, seq: int, content: bytes, to: Address | None) -> Item | None:
        """Make the next transmission of a flow; None when the flow has no more."""
        tx = self.ledger.used[flow]
        if tx == CAPACITY:
            return None
        self.ledger.used[flow] = tx + 1
        return Item(flow, tx, build(self._round, flow, tx, seq, content), to)

    def send(self, conn: Conn, way: str, items: list[Item]) -> None:
        """Send ``items``, in order for each destination.

        What was not sent is in the ledger, and nothing is raised for it.

        Raises:
            ViolationError: The call contradicts itself.
        """
        if way == "segments":
            self._account(items, lambda: _send_trains(conn, items, self._choose))
        elif way == "to":
            for part in _parts(items, conn.batch_size):
                self._account(part, lambda part=part: self._send_to(conn, part))  # type: ignore[misc]
        elif way == "single":
            for item in items[:_SINGLES]:
                self._account([item], lambda item=item: _send_single(conn, item))  # type: ignore[misc]
            if items[_SINGLES:]:
                self._account(items[_SINGLES:], lambda: self._send_batch(conn, items[_SINGLES:]))
        else:
            self._account(items, lambda: self._send_batch(conn, items))

    def _account(self, items: list[Item], call: Callable[[], Outcome]) -> None:
        ledger, states = self.ledger, self.ledger.states
        was_silent = ledger.is_silent
        for item in items:
            if item.tx < 0:
                ledger.empty_unsure[item.flow] += 1
            else:
                states[item.flow * CAPACITY + item.tx] = UNKNOWN
        try:
            failed, unsent = self.guard(call)
        except OSError as error:  # before anything was sent
            self._count(error, len(items))
            failed, unsent = dict.fromkeys(range(len(items)), "all"), []
        sent = SENT_IN_SILENCE if was_silent or ledger.is_silent else SENT
        told = dict.fromkeys(failed, REFUSED) | dict.fromkeys(unsent, UNSENT)
        for index, item in enumerate(items):
            state = told.get(index, sent)
            if item.tx >= 0:
                states[item.flow * CAPACITY + item.tx] = state
            elif state != SENT_IN_SILENCE:
                ledger.empty_unsure[item.flow] -= 1
                ledger.empty_sent[item.flow] += state == SENT

    def _send_batch(self, conn: Conn, items: list[Item]) -> Outcome:
        pairs = [(self._dress(item.data), item.to) for item in items]
        try:
            n = conn.send_batch(pairs)
        except SendError as error:
            return self._told(error, len(items))
        _check(n == len(items), f"send_batch of {len(items)} says {n}")
        return Outcome({}, [])

    def _send_to(self, conn: Conn, items: list[Item]) -> Outcome:
        offset = self._choose.choice((0, 0, 8))
        buffers = [bytes(offset) + item.data for item in items]
        try:
            conn.write_batch_to(buffers, items[0].to, offset=offset)
        except SendError as error:
            return self._told(error, len(items))
        except UDPGSODisabledError as error:
            self._count(error, 0)
            if isinstance(error.retry_err, SendError):
                return self._told(error.retry_err, len(items))
            _check(error.retry_err is None, f"retry_err {error.retry_err!r}")
        return Outcome({}, [])

    def _told(self, error: SendError, n: int) -> Outcome:
        for each in error.errors.values():
            self._count(each, 1)
        if error.unsent:
            self._count(error, len(error.unsent))
        return Outcome(*_tell(error, n))

    def _count(self, error: OSError, n: int) -> None:
        name = type(error).__name__ if isinstance(error, SendBlocked | SendTimeout) else ""
        name = name or f"errno {error.errno}"
        self.errors[name] = self.errors.get(name, 0) + max(n, 1)

    def _dress(self, data: bytes) -> bytes | bytearray | memoryview:
        kind = self._choose.randrange(8)
        return bytearray(data) if kind == 0 else memoryview(data) if kind == 1 else data


def _tell(error: SendError, n: int) -> tuple[dict[int, str], list[int]]:
    """Return what a SendError about ``n`` datagrams says, checked for sense."""
    told = {*error.errors, *error.unsent}
    _check(
        len(told) == len(error.errors) + len(error.unsent)
        and error.sent == n - len(told)
        and told <= set(range(n)),
        f"a SendError that does not add up: {error.sent} sent of {n},"
        f" errors {sorted(error.errors)[:20]}, unsent {error.unsent[:20]}",
    )
    return {index: str(each.errno) for index, each in error.errors.items()}, list(error.unsent)


def _send_single(conn: Conn, item: Item) -> Outcome:
    try:
        n = conn.write_to_udp_addr_port(item.data, item.to)
    except (BlockingIOError, TimeoutError):
        return Outcome({}, [0])
    except OSError as error:
        return Outcome({0: str(error.errno)}, [])
    _check(n == len(item.data), f"write_to_udp_addr_port of {len(item.data)} bytes says {n}")
    return Outcome({}, [])


def _send_trains(conn: Conn, items: list[Item], choose: random.Random) -> Outcome:
    trains = list(_trains(items, choose))
    starts, start = [], 0
    for train in trains:
        starts.append(start)
        start += len(train)
    override = items[0].to if len({item.to for item in items}) == 1 else None
    segments = [
        Segments(
            b"".join(item.data for item in train),
            len(train[0].data),
            None if override else train[0].to,
        )
        for train in trains
    ]
    try:
        n = conn.send_segments(segments, to=override)
    except SendError as error:
        return _told_of_trains(error, trains, starts)
    _check(n == len(items), f"send_segments of {len(items)} datagrams says {n}")
    return Outcome({}, [])


def _told_of_trains(error: SendError, trains: list[list[Item]], starts: list[int]) -> Outcome:
    failed: dict[int, str] = {}
    unsent: list[int] = []
    for index, each in error.errors.items():
        start, n = starts[index], len(trains[index])
        if isinstance(each, SendError):
            part_failed, part_unsent = _tell(each, n)
            failed.update((start + i, code) for i, code in part_failed.items())
            unsent += [start + i for i in part_unsent]
        else:
            failed.update((start + i, str(each.errno)) for i in range(n))
    for index in error.unsent:
        unsent += range(starts[index], starts[index] + len(trains[index]))
    total = sum(map(len, trains))
    _check(
        error.sent == total - len(failed) - len(unsent),
        f"send_segments of {total} datagrams: {error.sent} sent, but {len(failed)} failed"
        f" and {len(unsent)} not tried",
    )
    return Outcome(failed, unsent)


def _trains(items: list[Item], choose: random.Random) -> Iterable[list[Item]]:
    """Group neighbours that may share a train, which is cut at any length."""
    train: list[Item] = []
    longest = choose.choice((3, 70, 200))
    for item in items:
        if train and (
            item.to != train[0].to
            or len(item.data) > len(train[0].data)
            or len(train[-1].data) < len(train[0].data)
            or not item.data
            or not train[0].data
            or len(train) == longest
        ):
            yield train
            train = []
        train.append(item)
    if train:
        yield train


def _parts(items: list[Item], longest: int) -> Iterable[list[Item]]:
    """Group items by destination, in parts that write_batch_to takes."""
    by_destination: dict[int, list[Item]] = {}
    for item in items:  # not by address: one may be spelled in two ways
        by_destination.setdefault(item.flow, []).append(item)
    for group in by_destination.values():
        for start in range(0, len(group), longest):
            yield group[start : start + longest]


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise ViolationError(what)
