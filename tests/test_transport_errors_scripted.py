"""The ladder where errors of the network are collected, under scripted answers of the kernel.

What the kernel here would not do in the order wanted: errors that another thread has read,
errors without an end, and those that this machine gives too.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from batching._errqueue import ErrorQueue
from batching._kernel import NETWORK_ERRORS
from batching._waiter import Waiter
from fake_core import Rule, Scene, scene

PENDING = sorted(NETWORK_ERRORS)
OURS_TOO = [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EACCES]


@contextlib.contextmanager
def collecting(
    backend: Any, *script: tuple[int, int], rule: Rule | None = None, hides: bool = True
) -> Iterator[Scene]:
    with scene(backend, *script, rule=rule, hides=hides) as on:
        on.waiter.collect_errors()
        yield on


def trains(on: Scene) -> list[tuple[bytes, Any]]:
    return [(bytes(100), to) for to in (on.a, on.b) for _ in range(10)]


@pytest.mark.parametrize("hides", [True, False], ids=["hidden", "told"])
@pytest.mark.parametrize("taken", [0, 1])
@pytest.mark.parametrize("code", PENDING)
def test_another_sends_error_costs_a_train_nothing_and_teaches_nothing(
    backend: Any, code: int, taken: int, hides: bool
) -> None:
    with collecting(backend, (taken, code), hides=hides) as on:
        assert on.send(trains(on)) is None
        assert len(on.kernel.refused) == 1
        assert on.learnt(on.a) is on.learnt(on.b) is None
        assert on.conn.stats().gso_fallbacks == {}
        assert on.conn.stats().send_errors == 0


@pytest.mark.parametrize("code", PENDING)
def test_another_sends_error_costs_a_single_datagram_nothing(backend: Any, code: int) -> None:
    with collecting(backend, (0, code), (0, code)) as on:
        assert on.send([(b"a", on.a), (b"b", on.b), (b"c", on.c)]) is None
        assert on.conn.write_to_udp_addr_port(b"d", on.a) == 1


def test_refusals_in_a_row_that_other_threads_have_read_cost_nothing(backend: Any) -> None:
    with collecting(backend, *[(0, errno.ECONNREFUSED)] * 30) as on:
        assert on.send([(b"a", on.a)]) is None


@pytest.mark.parametrize("code", OURS_TOO)
def test_an_error_of_this_machine_is_told_after_the_third_attempt(backend: Any, code: int) -> None:
    with collecting(backend, rule=lambda to, _size: code if to == on.b else 0) as on:
        error = on.send([(b"a", on.a), (b"b", on.b), (b"c", on.c)])
        assert error is not None
        assert {i: each.errno for i, each in error.errors.items()} == {1: code}
        assert len(on.kernel.refused) == 3


def test_an_error_in_the_queue_is_reason_to_go_on(backend: Any) -> None:
    met = [{errno.EHOSTUNREACH}] * 20
    with (
        collecting(backend, *[(0, errno.EHOSTUNREACH)] * 20) as on,
        mock.patch.object(ErrorQueue, "drain", side_effect=lambda _: met.pop() if met else set()),
    ):
        assert on.send([(b"a", on.a)]) is None


def test_one_of_another_kind_is_none(backend: Any) -> None:
    with (
        collecting(backend, rule=lambda _to, _size: errno.EHOSTUNREACH) as on,
        mock.patch.object(ErrorQueue, "drain", return_value={errno.ECONNREFUSED}),
    ):
        assert on.send([(b"a", on.a)]) is not None
        assert len(on.kernel.refused) == 3


def test_a_refusal_without_an_end_is_told_in_the_end(backend: Any) -> None:
    with collecting(backend, rule=lambda to, _size: on.b == to and errno.ECONNREFUSED) as on:
        error = on.send([(b"a", on.a), (b"b", on.b), (b"c", on.c)])
        assert error is not None
        assert list(error.errors) == [1]
        assert len(on.kernel.refused) < 100


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EPERM])
def test_what_is_never_anothers_is_not_tried_again(backend: Any, code: int) -> None:
    with collecting(backend, rule=lambda to, size: code if size and to == on.b else 0) as on:
        assert on.send(trains(on)) is None
        assert len(on.kernel.refused) == 1
        assert on.learnt(on.b) == (1, 65535)


def test_the_datagrams_of_a_train_that_is_split_have_their_tries_each(backend: Any) -> None:
    script = [(0, errno.EHOSTUNREACH)] * 3 + [(0, errno.EHOSTUNREACH)] * 2
    with collecting(backend, *script) as on:
        assert on.send([(bytes(100), on.a)] * 10) is None


def test_waiting_for_a_full_device_goes_its_own_way(backend: Any) -> None:
    with collecting(backend, rule=lambda _to, _size: errno.ENOBUFS) as on:
        error = on.send([(b"a", on.a)])
        assert error is not None
        assert error.errors[0].errno == errno.ENOBUFS
        assert len(on.kernel.refused) == 4


@pytest.mark.parametrize("timeout", [0, None])
def test_close_before_unread_errors_are_looked_for_ends_the_call_as_any_other(
    backend: Any, timeout: float | None
) -> None:
    # Whoever waits a second time, or must not, looks; in another thread somebody closes then.
    with scene(backend, (1, errno.EAGAIN), (0, errno.EAGAIN), timeout=timeout) as on:
        look = Waiter.is_shut_down

        def close_first(waiter: Waiter) -> bool:
            on.descriptor.close()
            return look(waiter)

        with mock.patch.object(Waiter, "is_shut_down", close_first):
            error = on.send([(b"a", on.a), (b"b", on.b), (b"c", on.c)])
        assert error is not None
        assert (error.errno, error.sent, error.unsent) == (errno.EBADF, 1, [1, 2])
