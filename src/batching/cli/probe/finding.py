"""Finding: one row of what ``batching probe`` tells."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

__all__ = ["Finding", "State", "checked", "worst"]

State = Literal["ok", "unknown", "slow", "broken"]
_STATES: Final[tuple[State, ...]] = ("ok", "unknown", "slow", "broken")  # from good to bad


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to change."""

    name: str
    state: State
    found: str
    change: str = ""
    """One line; empty where there is nothing to change."""
    facts: dict[str, object] = field(default_factory=dict)
    """The numbers behind ``found``, as JSON takes them."""


def worst(findings: Iterable[Finding]) -> State:
    """Return the worst state of all, "ok" without any."""
    return max((finding.state for finding in findings), key=_STATES.index, default="ok")


def checked(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """Return what a check finds; where it cannot be made, that it cannot and why.

    AttributeError and ImportError are what a system says that has no such thing.
    """
    try:
        return check()
    except (OSError, ValueError, AttributeError, ImportError) as error:
        return [Finding(name, "unknown", f"it cannot be told here: {error}")]
