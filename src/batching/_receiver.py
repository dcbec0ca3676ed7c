"""Policy of receiving: what is waited for, what is told, what is counted.

Rule 1: what is pending in user space goes first; the kernel is asked only when nothing is.
Rule 2: no lock is held while waiting.  A reader that leaves datagrams behind, because it
wanted no more or because it failed, wakes the others: the kernel, which they poll, knows
nothing of those.
Rule 3: where errors of the network are collected (transport_errors), receiving raises none:
it empties the error queue and goes on.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from ._address import Address
from ._backend import Message, RecvSlots
from ._errors import os_error, shut_down, timed_out
from ._kernel import MSG_DONTWAIT, MSG_WAITFORONE, NETWORK_ERRORS, WOULD_BLOCK
from ._waiter import IDLE_S, POLLIN, Waiter, renew_after_fork
from .metrics import Counter, KernelCounter
from .segments import Segments

_LOG_EVERY_S: Final = 60.0
_T = TypeVar("_T")


class Receiver:
    """The receiving half of a Conn."""

    __slots__ = (
        "__weakref__",
        "_counter",
        "_descriptor",
        "_log_at",
        "_overflows",
        "_waiter",
        "drops",
        "slots",
    )

    def __init__(
        self,
        waiter: Waiter,
        slots: RecvSlots,
        counter: Counter | None = None,
        drops_before: int = 0,
    ) -> None:
        self.slots = slots
        self._waiter = waiter
        self._descriptor = waiter.descriptor
        self._counter = counter  # of SO_RXQ_OVFL deltas
        self._overflows = KernelCounter(drops_before)
        self.drops = KernelCounter(drops_before)  # the same, as SO_MEMINFO tells it when asked
        self._log_at = -math.inf
        renew_after_fork(self)

    def after_fork(self) -> None:
        """Make the locks new, in a forked child."""
        self.slots.after_fork()
        self._overflows.after_fork()
        self.drops.after_fork()

    def batch(self, limit: int) -> list[tuple[bytes, Address]]:
        """Return datagrams, one at least, ``limit`` at most (0: all that came)."""
        error = 0
        if self._counter is None and not self._waiter.is_timed:
            found = self.slots.fetch(self._descriptor, limit, True)
            if isinstance(found, list):  # what it is nearly always: asking for int costs more
                return found
            error = found
        return self._take(partial(self.slots.take, limit), error)

    def batch_at_once(self) -> list[tuple[bytes, Address]]:
        """Return what one attempt brings; nothing if it brings nothing, whatever the timeout."""
        found = self.slots.fetch(self._descriptor)
        if isinstance(found, list):
            return found
        if found in WOULD_BLOCK:
            self._waiter.is_shut_down()  # the caller polls: unread errors would not let it rest
        else:
            self._raise_for(found)
        return self.slots.take()  # what came beside a message that was lost

    def segments(self) -> list[Segments]:
        """Return trains, one at least."""
        error = 0
        if self._counter is None and not self._waiter.is_timed:
            found = self.slots.fetch_segments(self._descriptor, True)
            if isinstance(found, list):
                return found
            error = found
        return self._take(self.slots.take_segments, error)

    def into(self, msgs: Sequence[Message], flags: int) -> int:
        """Fill ``msgs`` from the front, one at least; return how many."""
        is_nonblocking = False
        if flags != 0:
            if flags & ~(MSG_DONTWAIT | MSG_WAITFORONE):
                raise ValueError(f"flags {flags:#x}, may be MSG_DONTWAIT and MSG_WAITFORONE")
            is_nonblocking = bool(flags & MSG_DONTWAIT)
        if len(msgs) == 0:
            return 0
        found = 0
        if self._counter is None and not self._waiter.is_timed:
            found = self.slots.fetch_into(self._descriptor, msgs, not is_nonblocking)
            if found > 0:
                return found
        return self._take(partial(self.slots.take_into, msgs), -found, msgs, is_nonblocking)

    def _take(
        self,
        take: Callable[[], _T],
        error: int,
        msgs: Sequence[Message] = (),
        is_nonblocking: bool = False,
    ) -> _T:
        """Wait, then take, until that brought something; ``error``: what an attempt already met."""
        try:
            while True:
                self._await_datagrams(msgs, is_nonblocking, error)
                if found := take():
                    return found
                error = 0
        finally:
            if self.slots.has_pending:
                self._descriptor.kick()

    def _await_datagrams(self, msgs: Sequence[Message], is_nonblocking: bool, error: int) -> None:
        """Return once datagrams are pending, or just were; ``msgs`` are checked before a wait.

        ``error``: what an attempt that was made already met.
        """
        waiter = self._waiter
        if waiter.is_timed and waiter.is_late(POLLIN):
            waiter.check_open()
            raise timed_out()
        pending = 0
        if not error:
            pending, error = self.slots.attempt(self._descriptor)
        if self._counter is not None:
            self._count_overflows(self._counter)
        if error or not pending:
            self._await_slowly(error, pending, msgs, is_nonblocking)

    def _await_slowly(
        self, error: int, pending: int, msgs: Sequence[Message], is_nonblocking: bool
    ) -> None:
        slots, waiter = self.slots, self._waiter
        started, is_idle, has_slept = waiter.clock(), False, False
        while not pending or error:
            self._raise_for(error)
            if pending:
                return
            if len(msgs):
                slots.check(msgs)
            if error in WOULD_BLOCK:
                if is_nonblocking:
                    waiter.drain_errors()
                    raise os_error(errno.EAGAIN)
                if has_slept and waiter.is_shut_down():
                    raise shut_down()
                if not is_idle and waiter.clock() - started >= IDLE_S:
                    is_idle = True
                    slots.shrink()
                at_most_s = math.inf if is_idle else IDLE_S
                if end := waiter.wait(POLLIN, started, slots.ticket, at_most_s):
                    raise os_error(errno.EAGAIN) if end == errno.EAGAIN else timed_out()
                has_slept = True
            pending, error = slots.attempt(self._descriptor)
        if self._counter is not None:
            self._count_overflows(self._counter)

    def _raise_for(self, error: int) -> None:
        if error == errno.EBADMSG:
            self._log_loss()
        elif error == errno.ESHUTDOWN:
            raise shut_down()
        elif error and error != errno.EINTR and error not in WOULD_BLOCK:
            if self._waiter.errors is None or error not in NETWORK_ERRORS:
                raise os_error(error)
            self._waiter.drain_errors()

    def _log_loss(self) -> None:
        now = self._waiter.clock()
        if now >= self._log_at + _LOG_EVERY_S:
            self._log_at = now
            import logging  # costs as much as all of this package, and is hardly ever needed

            logging.getLogger("batching").warning(
                "a message lost its segment size to MSG_CTRUNC and was not delivered, as it may"
                " have been several datagrams; Stats.recv_control_truncated counts them"
            )

    def _count_overflows(self, counter: Counter) -> None:
        seen = self.slots.overflows
        if seen not in (0, self._overflows.seen):  # 0: none has come yet
            counter.add(self._overflows.note(seen))
