"""Dispatcher: the plans of a Conn, and the first attempt of each of its sending calls.

Plans are given back, not thrown away, so that both back ends can be held to the same: who has
one lets go of what it holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, final

from .._address import Address
from .counters import Counters
from .descriptor import Descriptor
from .peers import Peers
from .segments import Segments
from .send import WINDOW, SendPlan

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Dispatcher"]

_NOT_TRIED: Final = -1
_Done = int | tuple[SendPlan, list[Any], int]


@final
class Dispatcher:
    """Makes the first attempt of a sending call, with a plan that no other call has."""

    __slots__ = ("_counters", "_descriptor", "_peers", "_spare")

    def __init__(self, descriptor: Descriptor, peers: Peers, counters: Counters) -> None:
        self._descriptor = descriptor
        self._peers = peers
        self._counters = counters
        self._spare: deque[SendPlan] = deque()

    def take(self) -> SendPlan:
        """Return a plan for the caller alone, empty."""
        try:
            return self._spare.pop()
        except IndexError:
            return SendPlan(self._peers, self._counters)

    def give(self, plan: SendPlan) -> None:
        """Take a plan back, and let go of what it holds."""
        plan.release()
        self._spare.append(plan)

    def send(
        self, datagrams: Iterable[tuple[Buffer, Address | None]], holds_back: bool = False
    ) -> _Done:
        """Send pairs of (data, address)."""
        items = list(datagrams)
        if holds_back or len(items) > WINDOW:
            return self.take(), items, _NOT_TRIED
        return self._dispatch(items, lambda plan: plan.load(items))

    def send_to(
        self,
        buffers: Sequence[Buffer],
        address: object,
        offset: int = 0,
        header: bytes | None = None,
        holds_back: bool = False,
    ) -> _Done:
        """Send buffers, WINDOW at most, to one address."""
        items = list(buffers)
        if holds_back:
            return self.take(), items, _NOT_TRIED
        return self._dispatch(items, lambda plan: plan.load_to(items, address, offset, header))

    def send_segments(
        self, segments: Iterable[Segments], to: object = None, holds_back: bool = False
    ) -> _Done:
        """Send trains; ``to`` overrides their addresses."""
        if isinstance(segments, Segments):  # iterable too, but of datagrams
            raise TypeError("segments must be an iterable of Segments, not one: [segments]")
        items = list(segments)
        peer = None if to is None else self._peers.get(to)
        if holds_back or len(items) > WINDOW:
            return self.take(), items, _NOT_TRIED
        return self._dispatch(items, lambda plan: plan.load_segments(items, 0, peer))

    def _dispatch(self, items: list[Any], load: Callable[[SendPlan], object]) -> _Done:
        plan = self.take()
        try:
            load(plan)
            _, failure = plan.attempt(self._descriptor)
            if failure or plan.left:
                return plan, items, failure
            sent = plan.datagrams_sent
        except BaseException:  # a signal handler's too
            self.give(plan)
            raise
        self.give(plan)
        return sent
