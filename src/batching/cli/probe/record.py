"""Record: what became of one shape in one direction, round for round, in both ways."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from .shapes import Shape
from .tally import Count

__all__ = ["Direction", "Record"]

Direction = Literal["out", "back"]

# A sequential test (Wald, 1945) of rounds in which the two ways differ: that the train is the
# one with more harm in 9 of 10, against in half of them, as where a path treats both alike.
_WORSE: Final = math.log(0.9 / 0.5)
_BETTER: Final = math.log(0.1 / 0.5)
_SURE: Final = math.log(1000)  # at most one in 1000 is so by chance: 12 rounds that agree


@dataclass(slots=True)
class Record:
    """The rounds of a shape."""

    direction: Direction
    shape: Shape
    rounds: list[tuple[Count, Count]] = field(default_factory=list)
    """Of each, what became of the datagrams one by one, and in a train."""
    singly: bool = False
    """The sending system has refused the train, so that it went out one by one as well."""

    def total(self, way: int) -> Count:
        """Return the sum over all rounds, of way 0 (plain) or 1 (train)."""
        total = Count()
        for counts in self.rounds:
            total = total.plus(counts[way])
        return total

    @property
    def sent(self) -> int:
        """Datagrams that were sent each way."""
        return len(self.rounds) * self.shape.segments

    @property
    def is_tested(self) -> bool:
        """Tell whether trains of this shape were sent as trains."""
        return bool(self.rounds) and not self.singly

    @property
    def odds(self) -> float:
        """How much more likely it is, as a logarithm, that the train is what is harmed."""
        worse = sum(train.harm > plain.harm for plain, train in self.rounds)
        better = sum(train.harm < plain.harm for plain, train in self.rounds)
        return worse * _WORSE + better * _BETTER

    @property
    def is_sure(self) -> bool:
        """Tell whether it is beyond doubt that trains suffer more."""
        return self.is_tested and self.odds >= _SURE

    @property
    def is_suspect(self) -> bool:
        """Tell whether more rounds are needed to know."""
        return self.is_tested and 0 < self.odds < _SURE

    @property
    def harms_trains_only(self) -> bool:
        """Tell whether trains suffer beyond doubt, and twice as much at least."""
        return self.is_sure and self.total(1).harm >= 2 * self.total(0).harm
