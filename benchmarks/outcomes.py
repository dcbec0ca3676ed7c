"""What a comparison found, against its goal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from statistics import median
from typing import Any


@dataclass(slots=True)
class Outcome:
    """One goal: what was measured in each round, and what it should be."""

    name: str
    values: list[float]
    """One a round: a ratio of two runs that followed one another, or an amount in ``unit``."""
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    less_is_better: bool = False
    """Of ratios without a goal; one that has a goal tells by itself."""
    detail: dict[str, float] = field(default_factory=dict)
    """Medians of what the ratio was made from; keys tell the unit."""

    @property
    def median(self) -> float:
        return median(self.values)

    @property
    def goal(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the goal; None where there is none."""
        if self.at_least is not None:
            return self.median >= self.at_least
        return self.median <= self.at_most if self.at_most is not None else None

    @property
    def is_behind(self) -> bool:
        """Say whether it is a ratio in which another is ahead, whatever the goal."""
        if self.unit or " / " not in self.name:
            return False
        is_time = self.less_is_better or self.at_most is not None
        return self.median > 1 if is_time else self.median < 1

    @property
    def spread(self) -> str:
        """The lowest and the highest; nothing where there is one."""
        if len(self.values) == 1:
            return ""
        return f"{short(min(self.values))} to {short(max(self.values))}"

    def __str__(self) -> str:
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        spread = f"({self.spread})" if self.spread else ""
        line = (
            f"  {self.name:<66} {short(self.median):>7} {self.unit:<4} {spread:<20}"
            f" {self.goal:<9} {verdict}"
        ).rstrip()
        if self.detail:
            line += "\n      " + ", ".join(f"{k} {short(v)}" for k, v in self.detail.items())
        return line

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Outcome:
        """Return what ``as_dict`` was made from."""
        return cls(**{each.name: content[each.name] for each in fields(cls)})

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "median": self.median, "goal": self.goal, "met": self.met}


def short(value: float) -> str:
    """Return a number with as many digits as say something."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
