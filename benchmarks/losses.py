"""Where a peer is ahead: every ratio of ours to another's that is on the wrong side of 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from contenders import OURS
from contest import Row, Table
from goals import CLOCKS, CPU, P50, QUEUED, RATE, ratios

KEYS = {
    "send": (RATE,),
    "receive": (CPU, QUEUED),
    "echo": (CPU,),
    "forward": (CPU,),
    "pair": (RATE,),
    "ping": (P50,),
}
"""What is judged of each role."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Who is ahead of one way of ours, at one piece of work."""

    work: str
    mine: str
    clock: str
    ahead: dict[str, float]
    """The median ratio to each, the worst first."""


def losses(table: Table) -> Iterator[Loss]:
    for mine in table.rows:
        if mine.peer != OURS or mine.failure:
            continue
        for key in KEYS[table.work.role]:
            ahead = {
                theirs.contender: ratio
                for theirs in table.rows
                if theirs.peer != OURS and (ratio := _behind(mine, theirs, key))
            }
            if ahead:
                worst_first = sorted(ahead.items(), key=lambda pair: abs(1 - pair[1]), reverse=True)
                yield Loss(table.work.name, mine.contender, CLOCKS[key], dict(worst_first))


def _behind(mine: Row, theirs: Row, key: str) -> float | None:
    """Return the median ratio if the other is ahead."""
    if theirs.failure or not (mine.has(key) and theirs.has(key)):
        return None
    ratio = median(ratios(mine, theirs, key))
    is_behind = ratio < 1 if key == RATE else ratio > 1
    return ratio if is_behind else None
