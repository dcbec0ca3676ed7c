"""Waiter: timeouts, deadlines, tickets, and what wakes whom."""

from __future__ import annotations

import errno
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from batching import _waiter
from batching._waiter import IDLE_S, POLLIN, POLLOUT, Waiter
from fake_core import Clock, FakeDescriptor, bound

START = 1000.0


@pytest.fixture
def waiter(backend: Any) -> Iterator[Any]:
    clock = Clock()
    with mock.patch.object(
        _waiter, "Descriptor", lambda sock: FakeDescriptor(backend.Descriptor(sock), clock)
    ):
        made = Waiter(bound(), clock)
    yield made
    made.descriptor.close()


def wait(waiter: Any, **kwargs: Any) -> tuple[int, list[tuple[int, float]]]:
    """Return what a wait returned, and the sleeps that it was."""
    waiter.descriptor.waits.clear()
    result = waiter.wait(POLLIN, START, waiter.descriptor.ticket, **kwargs)
    return result, waiter.descriptor.waits


@pytest.mark.parametrize(
    ("timeout", "deadline", "now", "expected"),
    [
        pytest.param(None, None, 0, (0, [(POLLIN, -1.0)]), id="for ever"),
        pytest.param(0.0, None, 0, (errno.EAGAIN, []), id="non-blocking"),
        pytest.param(5.0, None, 2, (0, [(POLLIN, 3.0)]), id="rest of the timeout"),
        pytest.param(5.0, None, 5, (errno.ETIMEDOUT, []), id="timeout is up"),
        pytest.param(math.inf, None, 5, (0, [(POLLIN, -1.0)]), id="timeout without end"),
        pytest.param(None, START + 4, 1, (0, [(POLLIN, 3.0)]), id="deadline"),
        pytest.param(None, START + 4, 4, (errno.ETIMEDOUT, []), id="deadline reached"),
        pytest.param(None, -math.inf, 0, (errno.ETIMEDOUT, []), id="deadline long ago"),
        pytest.param(None, math.inf, 0, (0, [(POLLIN, -1.0)]), id="deadline without end"),
        pytest.param(2.0, START + 4, 1, (0, [(POLLIN, 1.0)]), id="timeout is earlier"),
        pytest.param(8.0, START + 4, 1, (0, [(POLLIN, 3.0)]), id="deadline is earlier"),
        pytest.param(0.0, START - 1, 0, (errno.EAGAIN, []), id="non-blocking wins"),
    ],
)
def test_earlier_of_timeout_and_deadline_ends_the_wait(
    waiter: Any, timeout: Any, deadline: Any, now: float, expected: Any
) -> None:
    waiter.set_timeout(timeout)
    waiter.set_deadline(deadline, POLLIN)
    waiter.clock.now = START + now
    assert wait(waiter) == expected


def test_wait_may_be_bounded_without_being_the_end(waiter: Any) -> None:
    assert wait(waiter, at_most_s=1.0) == (0, [(POLLIN, 1.0)])
    waiter.set_timeout(0.25)
    assert wait(waiter, at_most_s=1.0) == (0, [(POLLIN, 0.25)])


def test_deadlines_are_each_directions_own(waiter: Any) -> None:
    waiter.set_deadline(START, POLLIN)
    assert (waiter.is_late(POLLIN), waiter.is_late(POLLOUT)) == (True, False)
    waiter.set_deadline(START + 1, POLLIN, POLLOUT)
    assert not waiter.is_late(POLLIN)
    waiter.clock.now += 1
    assert (waiter.is_late(POLLIN), waiter.is_late(POLLOUT)) == (True, True)
    waiter.set_timeout(0)
    assert not waiter.is_late(POLLIN)
    waiter.set_timeout(None)
    waiter.set_deadline(None, POLLIN)
    assert not waiter.is_late(POLLIN)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda w: w.set_timeout(5), id="timeout"),
        pytest.param(lambda w: w.set_timeout(None), id="no timeout"),
        pytest.param(lambda w: w.set_deadline(START + 9, POLLIN), id="deadline"),
        pytest.param(lambda w: w.set_deadline(None, POLLOUT), id="no deadline"),
    ],
)
def test_every_change_of_time_makes_tickets_old(waiter: Any, change: Any) -> None:
    ticket = waiter.descriptor.ticket
    change(waiter)
    assert waiter.descriptor.ticket != ticket
    assert waiter.wait(POLLIN, START, ticket) == 0
    assert waiter.descriptor.waits == []


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, -math.inf])
def test_timeout_that_is_none_is_refused_and_nothing_changes(waiter: Any, timeout: float) -> None:
    waiter.set_timeout(7)
    ticket = waiter.descriptor.ticket
    with pytest.raises(ValueError, match=r"timeout .*, must be 0 or more, or None"):
        waiter.set_timeout(timeout)
    assert (waiter.timeout, waiter.descriptor.ticket) == (7.0, ticket)


def test_deadline_that_is_no_number_is_refused(waiter: Any) -> None:
    with pytest.raises(ValueError, match="deadline nan"):
        waiter.set_deadline(math.nan, POLLIN)
    for unfit in ("soon", [], object()):
        with pytest.raises((TypeError, ValueError)):
            waiter.set_deadline(unfit, POLLIN)
        with pytest.raises((TypeError, ValueError)):
            waiter.set_timeout(unfit)
    assert waiter.deadlines == {POLLIN: None, POLLOUT: None}


def test_time_of_a_closed_connection_cannot_be_set(waiter: Any) -> None:
    waiter.descriptor.close()
    for call in (
        lambda: waiter.set_timeout(1),
        lambda: waiter.set_deadline(None, POLLIN),
        waiter.check_open,
    ):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            call()
        assert caught.value.errno == errno.EBADF
    assert waiter.timeout is None


@pytest.mark.parametrize(
    ("timeout", "deadline", "is_made"),
    [
        pytest.param(None, None, True, id="blocking"),
        pytest.param(0.0, None, False, id="non-blocking"),
        pytest.param(0.002, None, True, id="ends with the time"),
        pytest.param(0.0019, None, False, id="passes the timeout"),
        pytest.param(None, START + 0.001, False, id="passes the deadline"),
    ],
)
def test_pause_is_made_only_when_it_ends_in_time(
    waiter: Any, timeout: Any, deadline: Any, is_made: bool
) -> None:
    waiter.set_timeout(timeout)
    waiter.set_deadline(deadline, POLLOUT)
    started = 0.0 if timeout == 0.002 else START
    waiter.clock.now = started  # so that the sum is exact
    assert waiter.pause(POLLOUT, started, 0.002) == is_made
    assert waiter.descriptor.waits == ([(0, 0.002)] if is_made else [])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs setitimer")
def test_pause_is_not_cut_short_by_signals(backend: Any) -> None:
    with mock.patch.object(_waiter, "Descriptor", backend.Descriptor):
        waiter = Waiter(bound())
    handled: list[int] = []
    kept = signal.signal(signal.SIGALRM, lambda number, _: handled.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        started = waiter.clock()
        assert waiter.pause(POLLOUT, started, 0.05)
        assert waiter.clock() - started >= 0.05
        assert handled
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, kept)
        waiter.descriptor.close()


def test_pause_is_not_cut_short_by_kicks_or_an_error_of_the_socket(backend: Any) -> None:
    sock = bound()
    with bound() as other:
        sock.connect(other.getsockname())
    sock.send(b"to a closed port")  # ECONNREFUSED is pending, and poll says POLLERR
    with mock.patch.object(_waiter, "Descriptor", backend.Descriptor):
        waiter = Waiter(sock)
    kicks = [threading.Timer(0.005 * i, waiter.descriptor.kick) for i in range(1, 5)]
    for kick in kicks:
        kick.start()
    started, used = waiter.clock(), time.thread_time()
    assert waiter.pause(POLLOUT, started, 0.05)
    assert waiter.clock() - started >= 0.05
    assert time.thread_time() - used < 0.02  # it slept
    for kick in kicks:
        kick.join()
    waiter.descriptor.close()


def test_timeout_of_the_socket_is_taken_over(backend: Any) -> None:
    for timeout in (None, 0.0, 2.5):
        sock = bound()
        sock.settimeout(timeout)
        with mock.patch.object(_waiter, "Descriptor", backend.Descriptor):
            waiter = Waiter(sock)
        assert waiter.timeout == timeout
        assert sock.gettimeout() == 0.0
        waiter.descriptor.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_only_what_still_lives_is_renewed_after_a_fork() -> None:
    class Thing:
        def __init__(self) -> None:
            self.n = 0

        def after_fork(self) -> None:
            self.n += 1

    living, dead = Thing(), Thing()
    with mock.patch.object(_waiter, "_renewables", type(_waiter._renewables)()):
        _waiter.renew_after_fork(living)
        _waiter.renew_after_fork(dead)
        del dead
        _waiter._after_fork_in_child()
        assert len(_waiter._renewables) == 1
    assert living.n == 1


def test_what_a_sleeping_attempt_heeds_is_told_before_the_kick(waiter: Any) -> None:
    told: list[float] = [waiter.descriptor.patience_s]
    waiter.descriptor.kick = lambda: told.append(waiter.descriptor.patience_s)
    for timeout in (0.0, None, 2.5, None):
        waiter.set_timeout(timeout)
    waiter.set_deadline(START + 1, POLLIN)
    waiter.set_timeout(None)  # a deadline was set: from now on attempts only sleep by the clock
    assert told == [IDLE_S, 0, IDLE_S, 0, IDLE_S, 0, 0]
