"""The fallback ladder over time: forgetting, several windows, whole trains, write_batch_to."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from batching import Segments, SendBlocked, SendError, SendTimeout, UDPGSODisabledError, _lessons
from batching._waiter import POLLOUT
from fake_core import Scene, scene
from seam_rig import needs_gso

pytestmark = needs_gso

NO_GSO = (1, 65535)


def no_trains(_address: Any, segment_size: int) -> int:
    return errno.EIO if segment_size else 0


def all_errnos(error: SendError) -> dict[int, int | None]:
    return {index: e.errno for index, e in error.errors.items()}


# What was learnt, and forgetting it


def test_destination_that_takes_no_gso_is_spared_it_for_thirty_seconds(backend: Any) -> None:
    with scene(backend, rule=no_trains) as on:
        items = [(b"data", on.a)] * 3
        for seconds, n_refused in ((0, 1), (15, 1), (14.9, 1)):
            on.clock.now += seconds
            assert on.send(items) is None
            assert len(on.kernel.refused) == n_refused
        on.clock.now += 0.2
        on.send(items)  # it is forgotten once this one was planned, or before
        on.send(items)
        assert len(on.kernel.refused) == 2
        assert on.conn.stats().gso_fallbacks == {"EIO": 2}


def test_what_is_forgotten_is_forgotten_whole(backend: Any) -> None:
    with scene(backend, (0, errno.EMSGSIZE)) as on:
        on.send([(bytes(100), on.a)] * 3)
        on.clock.now += 10
        on.kernel.script.append((0, errno.EPERM))
        on.send([(bytes(50), on.a)] * 3)
        assert on.learnt(on.a) == (1, 99)
        assert on.conn.stats().gso_fallbacks == {"EMSGSIZE": 1, "EPERM": 1}
        on.clock.now += 29  # from when it last learnt
        on.send([(b"", on.b)])
        assert on.learnt(on.a) == (1, 99)
        on.clock.now += 1
        on.send([(b"", on.b)])
        assert on.learnt(on.a) is None


def test_forgetting_one_destination_leaves_the_younger_ones(backend: Any) -> None:
    with scene(backend, rule=no_trains) as on:
        for to in on.all:
            on.send([(b"data", to)] * 2)
            on.clock.now += 12
        on.send([(b"", on.a)])
        assert [on.learnt(to) for to in on.all] == [None, NO_GSO, NO_GSO]


def test_what_is_remembered_is_bounded_and_the_oldest_goes(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_lessons, "_MAX_LEARNT", 2)
    with scene(backend, rule=no_trains) as on:
        for to in on.all:
            on.send([(b"data", to)] * 2)
        on.send([(b"", on.a)])
        assert [on.learnt(to) for to in on.all] == [None, NO_GSO, NO_GSO]


# Lists of several windows


def test_list_of_several_windows_goes_out_whole_and_in_order(backend: Any) -> None:
    n = backend.WINDOW + 500
    with scene(backend) as on:
        items = [(bytes([i % 7]), on.all[i % 3]) for i in range(n)]
        assert on.send(items) is None
        assert on.kernel.items() == list(range(n))


def test_later_windows_heed_what_an_earlier_one_taught(backend: Any) -> None:
    with scene(backend) as on:
        on.kernel.rule = lambda to, size: no_trains(to, size) if to == on.a else 0
        between = [(b"data", on.b)] * (backend.WINDOW - 2)
        assert on.send([(b"data", on.a)] * 2 + between + [(b"data", on.a)] * 2) is None
        assert len(on.kernel.refused) == 1
        assert on.conn.stats().gso_fallbacks == {"EIO": 1}


def test_failure_in_a_later_window_has_the_index_of_the_whole_list(backend: Any) -> None:
    first, second = backend.WINDOW + 200, backend.WINDOW + 400
    with scene(backend) as on:
        on.kernel.rule = lambda to, _: errno.EPERM if to == on.c else 0
        items = [(b"data", on.a)] * (backend.WINDOW + 500)
        items[first] = items[second] = (b"data", on.c)
        error = on.send(items)
        assert error
        assert all_errnos(error) == {first: errno.EPERM, second: errno.EPERM}
        assert error.sent == len(items) - 2


def test_block_in_a_later_window_leaves_the_rest_of_all_unsent(backend: Any) -> None:
    n = backend.WINDOW + 2000
    with scene(backend, (backend.WINDOW // 64, 0), (3, errno.EAGAIN), timeout=0.0) as on:
        items = [(b"data", on.a)] * n
        error = on.send(items)
        assert isinstance(error, SendBlocked)
        assert error.sent == backend.WINDOW + 3 * 64
        assert error.unsent == list(range(error.sent, n))
        assert on.send([items[i] for i in error.unsent]) is None
        assert len(on.kernel.taken) == n


# Trains whole: send_segments


def segments_error(on: Scene, *trains: Segments) -> SendError:
    with pytest.raises(SendError) as caught:
        on.conn.send_segments(trains)
    return caught.value


def test_train_that_failed_and_went_out_singly_is_no_error(backend: Any) -> None:
    with scene(backend, rule=no_trains) as on:
        assert on.conn.send_segments([Segments(bytes(25), 10, on.a)] * 2) == 6
        assert on.kernel.order(on.a) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
        assert len(on.kernel.refused) == 1


def test_train_of_which_a_part_failed_has_an_error_of_its_own(backend: Any) -> None:
    with scene(backend, (2, errno.EIO), (1, errno.EPERM), (0, errno.EPROTO), hides=False) as on:
        whole, part = Segments(bytes(20), 10, on.b), Segments(bytes(45), 10, on.a)
        error = segments_error(on, whole, part, whole)
        assert (error.sent, error.unsent, list(error.errors)) == (2 + 3 + 2, [], [1])
        nested = error.errors[1]
        assert isinstance(nested, SendError)
        assert (nested.sent, nested.unsent, nested.errno) == (3, [], errno.EPERM)
        # b comes first, by its first train, and with it the other to b.
        assert on.kernel.order(on.b) == [(0, 0), (0, 1), (2, 0), (2, 1)]


def test_train_that_failed_whole_in_one_way_has_a_plain_error(backend: Any) -> None:
    with scene(backend, rule=lambda _to, _size: errno.EHOSTUNREACH) as on:
        error = segments_error(on, Segments(bytes(20), 10, on.a), Segments(b"x", 1, on.b))
        assert [type(e) for e in error.errors.values()] == [OSError] * 2
        assert all_errnos(error) == {0: errno.EHOSTUNREACH, 1: errno.EHOSTUNREACH}
        assert error.sent == 0


@pytest.mark.parametrize(
    ("timeout", "kind"), [(0.0, SendBlocked), (1.0, SendTimeout)], ids=["blocked", "time is up"]
)
def test_train_of_which_the_rest_was_not_tried_tells_which(
    backend: Any, timeout: float, kind: type[SendError]
) -> None:
    script = (0, errno.EIO), (2, errno.EPERM), (1, errno.EAGAIN), (0, errno.EAGAIN)
    with scene(backend, *script, hides=False, timeout=timeout) as on:
        on.descriptor.on_wait.append(lambda: setattr(on.clock, "now", on.clock.now + 2))
        error = segments_error(on, Segments(bytes(60), 10, on.a), Segments(bytes(60), 10, on.b))
        assert type(error) is kind
        assert (error.sent, error.unsent, list(error.errors)) == (3, [1], [0])
        nested = error.errors[0]
        assert type(nested) is kind
        assert (nested.sent, nested.unsent, list(nested.errors)) == (3, [4, 5], [2])


def test_train_that_failed_in_part_is_not_called_blocked_when_none_of_it_is_left(
    backend: Any,
) -> None:
    script = (0, errno.EIO), (1, errno.EPERM), (0, errno.EAGAIN)
    with scene(backend, *script, hides=False, timeout=0.0) as on:
        error = segments_error(on, Segments(bytes(20), 10, on.a), Segments(b"x", 1, on.b))
        assert (type(error), error.unsent) == (SendBlocked, [1])
        nested = error.errors[0]
        assert isinstance(nested, SendError)
        assert (type(nested), nested.errno, nested.unsent) == (SendError, errno.EPERM, [])


def test_trains_cut_for_the_kernel_are_reported_as_one(backend: Any) -> None:
    with scene(backend, (1, errno.EAGAIN), timeout=0.0, hides=False) as on:
        error = segments_error(on, Segments(bytes(200), 1, on.a))
        nested = error.errors[0]
        assert isinstance(nested, SendBlocked)
        assert (nested.sent, nested.unsent) == (64, list(range(64, 200)))


# write_batch_to


def disabled_by(on: Scene, n: int = 3) -> UDPGSODisabledError:
    with pytest.raises(UDPGSODisabledError) as caught:
        on.conn.write_batch_to([b"data"] * n, on.a)
    assert caught.value.__cause__ is caught.value.retry_err
    assert caught.value.on_laddr == on.conn.local_addr()
    return caught.value


@pytest.mark.parametrize("code", [errno.EIO, errno.EINVAL, errno.EPERM], ids=errno.errorcode.get)
def test_going_without_gso_is_told_once(backend: Any, code: int) -> None:
    with scene(backend, rule=lambda _, size: code if size else 0) as on:
        error = disabled_by(on)
        assert (error.errno, error.retry_err) == (code, None)
        on.conn.write_batch_to([b"data"] * 3, on.a)
        assert len(on.kernel.taken) == 6
        on.clock.now += 31
        on.conn.write_batch_to([b"data"], on.a)  # until then it is not yet forgotten
        assert disabled_by(on).errno == code


@pytest.mark.parametrize(
    "code", [errno.EMSGSIZE, errno.ECONNREFUSED, errno.ENETUNREACH], ids=errno.errorcode.get
)
def test_other_errnos_of_a_train_tell_nothing_of_gso(backend: Any, code: int) -> None:
    with scene(backend, (0, code)) as on:
        on.conn.write_batch_to([b"data"] * 3, on.a)
        assert len(on.kernel.taken) == 3


def test_send_that_met_more_on_the_way_carries_that_error(backend: Any) -> None:
    with scene(backend, (0, errno.EIO), (1, errno.EHOSTUNREACH), hides=False) as on:
        error = disabled_by(on)
        assert isinstance(error.retry_err, SendError)
        assert all_errnos(error.retry_err) == {1: errno.EHOSTUNREACH}
        assert error.retry_err.sent == 2


def test_batch_that_fails_the_same_way_without_gso_is_a_send_error(backend: Any) -> None:
    with scene(backend, rule=lambda _to, _size: errno.EPERM) as on:
        with pytest.raises(SendError) as caught:
            on.conn.write_batch_to([b"data"] * 3, on.a)
        assert all_errnos(caught.value) == dict.fromkeys(range(3), errno.EPERM)


def later(on: Scene) -> None:
    on.clock.now += 5


@pytest.mark.parametrize(
    ("timeout", "on_wait", "kind", "code"),
    [
        pytest.param(0.0, None, SendBlocked, errno.EAGAIN, id="blocked"),
        pytest.param(1.0, later, SendTimeout, errno.ETIMEDOUT, id="time is up"),
        pytest.param(None, lambda on: on.conn.close(), SendError, errno.EBADF, id="closed"),
    ],
)
def test_call_that_ended_early_says_so_rather_than_gso(
    backend: Any, timeout: float | None, on_wait: Any, kind: type[SendError], code: int
) -> None:
    script = (0, errno.EIO), (1, errno.EAGAIN), (0, errno.EAGAIN)
    with scene(backend, *script, hides=False, timeout=timeout) as on:
        if on_wait:
            on.descriptor.on_wait.append(lambda: on_wait(on))
        with pytest.raises(kind) as caught:
            on.conn.write_batch_to([b"data"] * 3, on.a)
        assert type(caught.value) is kind
        assert (caught.value.errno, caught.value.unsent) == (code, [1, 2])
        assert on.conn.stats().gso_fallbacks == {"EIO": 1}


def test_nothing_to_send_still_heeds_close_and_deadline(backend: Any) -> None:
    with scene(backend) as on:
        on.waiter.set_deadline(on.clock.now, POLLOUT)
        for call in (on.conn.send_batch, on.conn.send_segments):
            with pytest.raises(SendTimeout):
                call([])
        with pytest.raises(SendTimeout):
            on.conn.write_batch_to([], on.a)
        on.conn.close()
        for call in (on.conn.send_batch, on.conn.send_segments):
            with pytest.raises(OSError, match="Bad file descriptor"):
                call([])
        assert on.kernel.answers == []
