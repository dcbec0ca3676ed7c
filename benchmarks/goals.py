"""The goals: how far ahead of whom we shall be, work by work, and whether we are.

A ratio is made within a round.  Of rates, more is better; of CPU time a datagram, less is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from contenders import COPYING, OURS
from contest import Row, Table
from outcomes import Outcome
from work import Work

RATE, CPU, QUEUED, P50 = "wall ns", "cpu ns", "queued cpu ns", "p50"
CLOCKS = {RATE: "rate", CPU: "CPU", QUEUED: "CPU, queue filled", P50: "p50"}


@dataclass(frozen=True, slots=True)
class Goal:
    """Of rates, how many times another's; of time, how much of another's."""

    work: Work
    mine: str
    theirs: str
    key: str
    bound: float | None = None
    """None: what is to be seen beside a goal."""

    @property
    def name(self) -> str:
        return f"{self.work.name}: {self.mine} / {self.theirs}, {CLOCKS[self.key]}"


def _sending() -> Iterator[Goal]:
    for size in ("1400", "64"):
        work, small = Work("send", size), size == "64"
        yield from (
            Goal(work, "send_batch", "Go batching", RATE, 1.3),
            Goal(work, "C, 128", "Go batching", RATE),  # how far the one above could come
            Goal(work, "send_segments", "quinn-udp", RATE, 1.5 if small else 1.0),
            Goal(work, "C, train", "quinn-udp", RATE),  # likewise
            Goal(work, "write_batch_to", "C, 64", RATE, 1.2 if small else 0.95),
            Goal(work, "write_batch_to", "C, 128", RATE, 0.95),
            Goal(Work("send", size, 32), "write_batch_to", "C, 128", RATE, 0.95),
            Goal(work, "send_batch", "C, 64", RATE, 1.0 if small else 0.9),
            Goal(work, "send_segments", "C, train", RATE, 0.95),
        )
        yield Goal(Work("send", size, destinations=2), "send_batch", "C, 128", RATE, 0.9)
    yield Goal(Work("send", destinations=1000), "send_batch", "socket", RATE, 3.0)


def _receiving() -> Iterator[Goal]:
    for size in ("1400", "64"):
        work, small = Work("receive", size), size == "64"
        for key in (CPU, QUEUED):
            yield from (
                Goal(work, "recv_segments", "quinn-udp", key, 1.1),
                Goal(work, "read_batch", "Go batching", key, 0.75),
                Goal(work, COPYING, "Go batching", key),  # how low the one above could come
                Goal(work, "recv_batch", "Go batching", key, 1.0),
                Goal(work, "recv_batch", "by hand", key, 0.4 if small else 0.5),
                Goal(work, "recv_segments", "C", key, 1.1),
                Goal(work, "read_batch", "C", key, 1.5),
                Goal(work, "recv_batch", "C", key, 2.1 if small else 1.9),
            )

        yield Goal(Work("receive", size, segments=1), "recv_batch", "socket", QUEUED, 1.15)


def _forwarding() -> Iterator[Goal]:
    for size in ("1400", "64"):
        yield Goal(Work("forward", size), "recv_segments, send_segments", "C", CPU, 1.15)


GOALS = (*_sending(), *_receiving(), *_forwarding())
LEAST_ARRIVED = 0.9


def judge(table: Table) -> Iterator[Outcome]:
    """Yield what became of the goals of a piece of work, where both that they compare did it."""
    for goal in GOALS:
        if goal.work == table.work:
            mine, theirs = table.row(goal.mine), table.row(goal.theirs)
            if mine and theirs:
                yield _outcome(goal, mine, theirs)
    if table.work == Work("receive"):
        yield from _arrivals(table)


def _arrivals(table: Table) -> Iterator[Outcome]:
    for row in table.rows:
        if row.peer == OURS and not row.failure:
            shares = [sample["received"] / sample["sent"] for sample in row.samples]
            name = f"{table.work.name}: {row.contender}, received of sent"
            yield Outcome(name, shares, at_least=LEAST_ARRIVED)


def ratios(mine: Row, theirs: Row, key: str) -> list[float]:
    """Return, round by round, how many times another's rate is ours, or how much of its time."""
    pairs = zip(mine.samples, theirs.samples, strict=True)
    if key == RATE:
        return [b[key] / a[key] for a, b in pairs]
    return [a[key] / b[key] for a, b in pairs]


def _outcome(goal: Goal, mine: Row, theirs: Row) -> Outcome:
    is_rate = goal.key == RATE
    beside = {"CPU ratio": median(ratios(mine, theirs, CPU))} if is_rate else {}
    keys = dict.fromkeys((goal.key, RATE, CPU))
    return Outcome(
        goal.name,
        ratios(mine, theirs, goal.key),
        at_least=goal.bound if is_rate else None,
        at_most=None if is_rate else goal.bound,
        less_is_better=not is_rate,
        detail={
            **beside,
            **{key: mine.median(key) for key in keys},
            **{f"other's {key}": theirs.median(key) for key in keys},
        },
    )
