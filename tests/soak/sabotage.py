"""Defects of our own making, to show that the soak notices such: --sabotage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from batching import Conn

from .plan import Plan
from .wire import HEADER

KINDS: Final = ("lose", "double", "swap", "corrupt")
_EVERY: Final = 2  # calls that it can be done to
_Pairs = list[tuple[Any, Any]]


def sabotaged(conn: Conn, plan: Plan, side: int) -> Conn:
    """Return ``conn``; where the run wants it, behind something that does a little harm."""
    if plan.options.sabotage and side == 0:
        return cast("Conn", _Saboteur(conn, plan.options.sabotage))
    return conn


class _Saboteur:
    """A Conn whose send_batch does not do what it says, now and then."""

    def __init__(self, conn: Conn, kind: str) -> None:
        self._conn = conn
        self._harm = {"lose": _lose, "double": _double, "swap": _swap, "corrupt": _corrupt}[kind]
        self._n_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def send_batch(self, datagrams: Iterable[tuple[Any, Any]]) -> int:
        pairs = list(datagrams)
        harmed = self._harm([pair for pair in pairs if pair[0]])
        self._n_calls += harmed is not None
        is_due = harmed is not None and self._n_calls % _EVERY == 0
        self._conn.send_batch(harmed if harmed and is_due else pairs)
        return len(pairs)


# Each takes datagrams that are not empty, and returns None where it can do no harm.


def _lose(pairs: _Pairs) -> _Pairs | None:
    return pairs[1:] if len(pairs) > 1 else None


def _double(pairs: _Pairs) -> _Pairs | None:
    return [pairs[0], *pairs] if pairs else None


def _swap(pairs: _Pairs) -> _Pairs | None:
    if len(pairs) < 2 or pairs[0][1] != pairs[1][1]:
        return None
    return [pairs[1], pairs[0], *pairs[2:]]


def _corrupt(pairs: _Pairs) -> _Pairs | None:
    if not pairs:
        return None
    data = bytearray(pairs[0][0])
    data[HEADER - 1 if len(data) <= HEADER else -1] ^= 0x10
    return [(data, pairs[0][1]), *pairs[1:]]
