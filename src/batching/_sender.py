"""Policy of sending: the fallback ladder.

A message that fails is all or nothing, so the position in a plan is always exact.

Rule 1: EINTR, again.  EAGAIN, wait for writability.  ENOBUFS, up to three short waits,
then it counts as any other errno.
Rule 2: a train fails: its datagrams go out one by one, as a plain socket would send them.
If one of its full length goes out, GSO was at fault, and the errno says what the
destination is to be spared (_lessons); if all fail the same way it was not, and nothing is
remembered.
Rule 3: a single datagram fails: it is reported, and the rest goes on.
Rule 4: where errors of the network are collected (transport_errors), what fails may have met
the error of another datagram: the error queue is emptied and the same message tried again,
before rules 2 and 3.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from ._backend import WINDOW, Counters, Dispatcher, Peers, SendPlan
from ._errors import SendError, os_error, send_error
from ._kernel import NETWORK_ERRORS, ONLY_FROM_NETWORK, WOULD_BLOCK
from ._lessons import Lessons, lesson_of
from ._sender_outcome import Datagrams, Outcome, Outgoing, ToOne, Trains
from ._waiter import POLLOUT, Waiter
from .segments import Segments

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._address import Address

_T = TypeVar("_T")
_PAUSES_S: Final = (0.001, 0.002, 0.004)  # when the device's queue is full (ENOBUFS)
_MAX_TRIES: Final = 64  # other threads that send to the dead may get in between each time
_TRIES_UNPROVED: Final = 2  # without an error in the queue: another thread may have read it


class _Trial:
    """A train that failed and goes out singly: what that proves is yet to be seen."""

    __slots__ = ("end", "errno", "is_open", "peer", "segment_size", "teaches")

    def __init__(self, plan: SendPlan, code: int) -> None:
        self.errno = code
        self.peer = plan.peer()
        self.segment_size = plan.segment_size()
        lesson = lesson_of(code, self.segment_size)
        self.teaches = lesson is not None
        # Later trains that would meet the same are split too, on suspicion: one call can
        # then bring the proof and all the rest.
        least = 0
        if lesson is not None:
            least = 1 if lesson[0] < 2 else self.segment_size
        self.end = plan.position + plan.split(least)
        self.is_open = True

    def limit(self, position: int) -> int:
        """Return how many messages to try: of its own only, while others may meet the same."""
        return WINDOW if self.teaches else self.end - position

    def is_proved(self, position: int) -> bool:
        """Tell, once, whether what went out from ``position`` on shows that GSO was at fault.

        The last datagram does not: it may be shorter, and says nothing of the others then.
        """
        return self.is_open and position < self.end - 1


class _Tries:
    """How often the message at a position met what may have been another's error."""

    __slots__ = ("_n", "_position", "_waiter")

    def __init__(self, waiter: Waiter) -> None:
        self._waiter = waiter
        self.start(-1)

    def start(self, position: int) -> None:
        """Begin with a message that was not tried yet."""
        self._position, self._n = position, 0

    def is_worth_another(self, position: int, code: int) -> bool:
        """Empty the error queue; tell whether the message that met ``code`` is to be tried again.

        An errno that this machine gives too is another's if it was in the queue.
        """
        if self._waiter.errors is None or code not in NETWORK_ERRORS:
            return False
        if position != self._position:
            self.start(position)
        self._n += 1
        met = self._waiter.drain_errors()
        if self._n > _MAX_TRIES:
            return False
        return code in ONLY_FROM_NETWORK or code in met or self._n <= _TRIES_UNPROVED


class Sender:
    """The sending half of a Conn.  Calls of several threads do not wait for each other."""

    __slots__ = (
        "_descriptor",
        "_dispatcher",
        "_learnt",
        "_waiter",
        "lessons",
        "peers",
    )

    def __init__(self, waiter: Waiter, peers: Peers, counters: Counters, max_segments: int) -> None:
        self.peers = peers
        self.lessons = Lessons(waiter, max_segments)
        self._waiter = waiter
        self._descriptor = waiter.descriptor
        self._dispatcher = Dispatcher(waiter.descriptor, peers, counters)
        self._learnt = self.lessons.learnt  # at hand: every call asks whether there is anything

    def send(self, datagrams: Iterable[tuple[Buffer, Address | None]]) -> int:
        """Send pairs of (data, address); return how many datagrams."""
        if self._learnt:
            self.lessons.forget()  # what is due, before it is planned by
        is_late = False
        if self._waiter.is_timed:
            datagrams, is_late = self._made(datagrams)
        done = self._dispatcher.send(datagrams, is_late)
        if isinstance(done, int):
            return done
        plan, items, error = done
        return self._bring_to_end(plan, Datagrams(items), error)

    def send_segments(self, segments: Iterable[Segments], to: Address | None) -> int:
        """Send trains; return how many datagrams."""
        if self._learnt:
            self.lessons.forget()
        is_late = False
        if self._waiter.is_timed and not isinstance(segments, Segments):  # one: it is refused
            segments, is_late = self._made(segments)
        done = self._dispatcher.send_segments(segments, to, is_late)
        if isinstance(done, int):
            return done
        plan, items, error = done
        return self._bring_to_end(plan, Trains(items, to), error)

    def send_to(
        self, buffers: Sequence[Buffer], address: object, offset: int, header: bytes | None
    ) -> tuple[int, SendError | None] | None:
        """Send buffers, WINDOW at most, to one address.

        Returns:
            Only if the destination went from GSO to none on the way: the errno that
            said so, and what sending without GSO met.
        """
        if self._learnt:
            self.lessons.forget()
        is_late = False
        if self._waiter.is_timed:
            buffers, is_late = self._made(buffers)
        done = self._dispatcher.send_to(buffers, address, offset, header, is_late)
        if isinstance(done, int):
            return None
        plan, items, error = done
        disabled: list[int] = []
        try:
            self._bring_to_end(plan, ToOne(items, address, offset, header), error, disabled)
        except SendError as failure:
            if not disabled or failure.errno in (errno.EAGAIN, errno.ETIMEDOUT, errno.EBADF):
                raise
            return disabled[0], failure
        return (disabled[0], None) if disabled else None

    def close(self) -> None:
        """Give back what is held beside memory."""
        self.lessons.close()

    def _made(self, items: Iterable[_T]) -> tuple[list[_T], bool]:
        """Return items, and whether it is too late for them: a generator takes its time."""
        return list(items), self._waiter.is_late(POLLOUT)

    def _bring_to_end(
        self, first: SendPlan, outgoing: Outgoing, error: int, disabled: list[int] | None = None
    ) -> int:
        """Send what the first attempt left, and give its plan back; return how many datagrams.

        ``error``: what that attempt met, or -1 if there was none: nothing is loaded then.
        """
        plans = [first]
        try:
            if error < 0:
                # All of them are loaded, thus checked, before the first system call.
                for start in range(0, len(outgoing.items) or 1, WINDOW):
                    if start:
                        plans.append(self._dispatcher.take())
                    outgoing.load(plans[-1], start, self.peers)
            return self._finish(plans, outgoing, disabled, max(error, 0))
        finally:
            self._dispatcher.give(first)
            for plan in plans[1:]:  # rare, and not worth keeping
                plan.release()

    def _finish(
        self, plans: list[SendPlan], outgoing: Outgoing, disabled: list[int] | None, error: int
    ) -> int:
        """Bring loaded plans to their end; return how many datagrams went out.

        Or raise what the call has to tell.  An attempt at the first plan may have been made;
        ``error`` is what it met.
        """
        if self._descriptor.closed and not any(plan.position for plan in plans):
            raise os_error(errno.EBADF)
        started = self._waiter.clock()
        end = errno.ETIMEDOUT if self._waiter.is_late(POLLOUT) else 0
        has_failed = False
        for plan in plans:
            if not end:
                if self._learnt and plan is not plans[0]:
                    plan.recut()  # by what an earlier window taught
                failed, end = self._run(plan, started, disabled, error)
                has_failed = has_failed or failed
                error = 0
        # sendmmsg may have met an error of the network without telling.
        self._waiter.drain_errors()
        sent = sum(plan.datagrams_sent for plan in plans)
        if has_failed or end:
            rows = [row for plan in plans for row in plan.report()]
            outcome = Outcome(outgoing, self._descriptor, self.peers)
            errors, unsent = outcome.gather(rows, end)
            raise send_error(end, sent, errors, unsent)
        return sent

    def _run(
        self, plan: SendPlan, started: float, disabled: list[int] | None, known: int
    ) -> tuple[bool, int]:
        """Return (has any datagram failed, errno that ended it early or 0).

        ``known``: what the attempt before met.  It may have been the pending error of
        another datagram, which the kernel tells only once.
        """
        has_failed, n_pauses, n_waits = False, 0, 0
        trial: _Trial | None = None
        tries = _Tries(self._waiter)
        while plan.left:
            ticket = self._descriptor.ticket
            sent, error = 0, known
            if not known:
                limit = trial.limit(plan.position) if trial else WINDOW
                sent, error = plan.attempt(self._descriptor, limit)
            known = 0
            if sent:
                n_pauses = 0
                if trial and trial.is_proved(plan.position - sent):
                    self._conclude(trial, disabled)
                    plan.recut()
            if error in WOULD_BLOCK:
                if end := self._await_room(started, ticket, n_waits):
                    return has_failed, end
                n_waits += 1
            elif error == errno.EBADF:
                return has_failed, error
            elif error == errno.ENOBUFS and self._may_pause(trial, started, n_pauses):
                n_pauses += 1
            elif (
                error and error != errno.EINTR and not tries.is_worth_another(plan.position, error)
            ):
                if plan.segment_size():
                    trial = _Trial(plan, error)
                    tries.start(plan.position)
                else:
                    plan.skip(error)
                    has_failed = True
            if trial and plan.position >= trial.end:
                trial = None
        return has_failed, 0

    def _conclude(self, trial: _Trial, disabled: list[int] | None) -> None:
        trial.is_open = False
        has_lost_gso = self.lessons.learn(trial.peer, trial.errno, trial.segment_size)
        if has_lost_gso and disabled is not None:
            disabled.append(trial.errno)

    def _await_room(self, started: float, ticket: int, n_waits: int) -> int:
        if n_waits or self._waiter.timeout == 0:
            try:
                self._waiter.is_shut_down()  # no matter for sending, but unread errors are
            except OSError as error:
                if error.errno != errno.EBADF:
                    raise
                return errno.EBADF  # closed meanwhile: what was sent is to be told
        return self._waiter.wait(POLLOUT, started, ticket)

    def _may_pause(self, trial: _Trial | None, started: float, n_pauses: int) -> bool:
        if n_pauses == len(_PAUSES_S) or (trial and trial.errno == errno.ENOBUFS):
            return False
        return self._waiter.pause(POLLOUT, started, _PAUSES_S[n_pauses])
