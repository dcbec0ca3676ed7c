"""A cast: the processes of a comparison that were started together, and their share of its rounds.

Two processes of one and the same build differ by a tenth and more, by where their memory happens
to lie, and keep that for as long as they live: docs/benchmarks.md, What was tried.  So the rounds
are shared among several casts.  What none of them may forget: who fails in one is out for good.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Cast:
    rounds: range
    """Their numbers, which go on from cast to cast, so that the order alternates throughout."""

    def turns(self, names: list[str]) -> Iterator[tuple[str, bool]]:
        """Yield whose turn it is, and whether it counts: one round more, the first, warms up."""
        for number in range(self.rounds.start - 1, self.rounds.stop):
            for name in in_turn(names, number):
                yield name, number in self.rounds


def casts(rounds: int, n_casts: int) -> list[Cast]:
    """Share rounds among casts, as evenly as can be."""
    stops = [1 + rounds * number // n_casts for number in range(n_casts + 1)]
    return [Cast(range(start, stop)) for start, stop in pairwise(stops)]


def in_turn(names: list[str], number: int) -> list[str]:
    """Return the order of a round: every other one backwards, so that a drift cancels out."""
    return names if number % 2 else names[::-1]
