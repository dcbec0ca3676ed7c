"""Signals during the calls of the main thread: some that do nothing, some that raise."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .reader import Reader, Received
from .sender import Sender

if TYPE_CHECKING:
    from .plan import Plan

T = TypeVar("T")
_EVERY_S: Final = 0.003


class Interrupted(Exception):
    """What the handler raises, as KeyboardInterrupt is raised."""


class Interrupter:
    """Handles SIGALRM in the main thread; raises in a call, and only there."""

    def __init__(self) -> None:
        self._is_armed = False
        self._window = (0.0, 0.0)  # of time.monotonic(): when the handler raises
        signal.signal(signal.SIGALRM, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        start, stop = self._window
        if self._is_armed and start <= time.monotonic() < stop:
            self._is_armed = False
            raise Interrupted

    def guard(self, call: Callable[[], T]) -> T:
        """Make a call that the handler may leave with Interrupted."""
        try:
            self._is_armed = True
            return call()
        finally:
            self._is_armed = False

    @contextlib.contextmanager
    def during(self, plan: Plan, side: int, main: Sender | Reader) -> Iterator[None]:
        """Let signals meet what the main thread does, as the plan says."""
        faults = plan.of_side(side, "signal", "interrupt")
        if not faults:
            yield
            return
        raising = [fault for fault in faults if fault.kind == "interrupt"]
        if raising:
            now = time.monotonic()
            self._window = (now + raising[0].start_s, now + raising[0].stop_s)
            if isinstance(main, Sender):
                main.transmitter.guard = self.guard
            else:
                self._guard_reader(main)
        signal.setitimer(signal.ITIMER_REAL, _EVERY_S, _EVERY_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._window = (0.0, 0.0)

    def _guard_reader(self, reader: Reader) -> None:
        receive = reader.receive

        def guarded(conn: Any, way: str) -> Received:
            return self.guard(lambda: receive(conn, way))

        reader.receive = guarded  # type: ignore[method-assign]
