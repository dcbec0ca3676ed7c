"""The fallback ladder: what each errno leads to, for a train and for a single datagram.

In every test here the scene itself checks that each datagram is accounted for exactly
once, as sent, failed or unsent, in the order of its destination.
"""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest

from batching import SendBlocked, SendError, SendTimeout
from batching._waiter import POLLOUT
from fake_core import Scene, scene
from seam_rig import needs_gso

pytestmark = needs_gso

SIZE = 100
PLACES = [pytest.param(0, id="first"), pytest.param(1, id="middle"), pytest.param(2, id="last")]
HIDES = [pytest.param(True, id="errno hidden"), pytest.param(False, id="errno told")]
NO_GSO = (1, 65535)
SMALLER = (64, SIZE - 1)
# errno: what a destination learns when a train fails with it and its datagrams go out
LEARNS = {
    errno.EIO: NO_GSO,
    errno.EINVAL: NO_GSO,
    errno.EPERM: NO_GSO,
    errno.EMSGSIZE: SMALLER,
    errno.ECONNREFUSED: None,
    errno.EHOSTUNREACH: None,
    errno.ENETUNREACH: None,
    errno.EPROTO: None,
    errno.ENOMEM: None,
}
ERRNOS = [pytest.param(code, id=errno.errorcode[code]) for code in LEARNS]
PAUSE_S = (0.001, 0.002, 0.004)


def trains(scene: Scene, n: int = 3) -> list[tuple[bytes, Any]]:
    """Return ``n`` datagrams to each destination, in turn: three messages."""
    return [(bytes(SIZE), to) for _ in range(n) for to in scene.all]


def singles(scene: Scene) -> list[tuple[bytes, Any]]:
    return trains(scene, 1)


def repeated(code: int, times: int, place: int = 0) -> list[tuple[int, int]]:
    return [(place, code)] + [(0, code)] * (times - 1)


def is_train(_address: Any, segment_size: int) -> bool:
    return segment_size > 0


def kind_of(error: SendError | None) -> tuple[type, int | None]:
    return type(error), error.errno if error else None


# A single datagram


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", ERRNOS)
def test_single_datagram_that_fails_is_reported_and_the_rest_goes_on(
    backend: Any, code: int, place: int, hides: bool
) -> None:
    with scene(backend, (place, code), hides=hides) as on:
        error = on.send(singles(on))
        assert error
        assert kind_of(error) == (SendError, code)
        assert {i: e.errno for i, e in error.errors.items()} == {place: code}
        assert type(error.errors[place]) is type(OSError(code, ""))
        assert on.kernel.items() == [i for i in range(3) if i != place]
        assert [on.learnt(to) for to in on.all] == [None] * 3
        assert on.conn.stats().gso_fallbacks == {}
        assert on.conn.stats().send_errors == 1


def test_every_single_datagram_that_fails_has_its_own_errno(backend: Any) -> None:
    codes = [errno.EPERM, errno.EMSGSIZE, errno.ENETUNREACH]
    with scene(backend, *((0, code) for code in codes)) as on:
        error = on.send(singles(on))
        assert error
        assert [error.errors[i].errno for i in range(3)] == codes
        assert (error.errno, error.sent, error.unsent) == (errno.EPERM, 0, [])


def test_errno_of_the_lowest_index_is_that_of_the_whole(backend: Any) -> None:
    with scene(backend) as on:
        on.kernel.rule = lambda to, _: {on.a: errno.EPERM, on.c: errno.EIO}.get(to, 0)
        error = on.send([(b"c", on.c), (b"b", on.b), (b"a", on.a)])
        assert error
        assert error.errno == errno.EIO
        assert list(error.errors) == [0, 2]


# A train


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", ERRNOS)
def test_train_that_fails_goes_out_singly_and_teaches_its_destination_only(
    backend: Any, code: int, place: int, hides: bool
) -> None:
    with scene(backend, (place, code), hides=hides) as on:
        assert on.send(trains(on)) is None
        assert on.kernel.refused == [(on.all[place], SIZE, code)]
        expected: list[Any] = [None] * 3
        expected[place] = LEARNS[code]
        assert [on.learnt(to) for to in on.all] == expected
        name = errno.errorcode[code]
        assert on.conn.stats().gso_fallbacks == ({name: 1} if LEARNS[code] else {})
        assert on.conn.stats().send_errors == 0


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", ERRNOS)
def test_no_gso_is_blamed_when_all_datagrams_of_a_train_fail_the_same_way(
    backend: Any, code: int, place: int
) -> None:
    with scene(backend) as on:
        on.kernel.rule = lambda to, _: code if to == on.all[place] else 0
        error = on.send(trains(on))
        assert error
        assert list(error.errors) == [place, place + 3, place + 6]
        assert {e.errno for e in error.errors.values()} == {code}
        assert error.sent == 6
        assert [on.learnt(to) for to in on.all] == [None] * 3
        assert on.conn.stats().gso_fallbacks == {}


@pytest.mark.parametrize("bad", PLACES)
@pytest.mark.parametrize("code", ERRNOS)
def test_one_datagram_that_goes_out_proves_it_and_the_others_are_reported(
    backend: Any, code: int, bad: int
) -> None:
    with scene(backend, (0, code), (bad, errno.ENETUNREACH), hides=False) as on:
        error = on.send([(bytes(SIZE), on.a)] * 3)
        assert error
        assert kind_of(error) == (SendError, errno.ENETUNREACH)
        assert list(error.errors) == [bad]
        assert on.learnt(on.a) == LEARNS[code]


@pytest.mark.parametrize("code", ERRNOS)
def test_a_short_tail_that_goes_out_alone_proves_nothing(backend: Any, code: int) -> None:
    failures = [(0, code)] * 4  # of the train, and of its three full datagrams
    with scene(backend, *failures) as on:
        error = on.send([(bytes(SIZE), on.a)] * 3 + [(b"tail", on.a)])
        assert error
        assert list(error.errors) == [0, 1, 2]
        assert on.kernel.items() == [3]
        assert on.learnt(on.a) is None
        assert on.conn.stats().gso_fallbacks == {}


def test_pending_error_of_another_send_costs_a_single_datagram_one_and_a_train_none(
    backend: Any,
) -> None:
    with scene(backend, (0, errno.ECONNREFUSED)) as on:
        error = on.send(singles(on))
        assert error
        assert list(error.errors) == [0]
        on.kernel.script.append((0, errno.ECONNREFUSED))
        with pytest.raises(ConnectionRefusedError):
            on.conn.write_to_udp_addr_port(b"x", on.a)
        on.kernel.script.append((0, errno.ECONNREFUSED))
        assert on.send(trains(on)) is None


@pytest.mark.parametrize("hides", HIDES)
def test_other_trains_of_a_destination_that_has_learnt_are_split_before_they_are_tried(
    backend: Any, hides: bool
) -> None:
    with scene(backend, hides=hides) as on:
        on.kernel.rule = lambda to, size: errno.EIO if size and to == on.b else 0
        sizes = [50, 60, 70, 80, 90]  # each begins a train
        items = [(bytes(n), to) for n in sizes for to in (on.a, on.a, on.b, on.b)]
        assert on.send(items) is None
        assert on.kernel.refused == [(on.b, 50, errno.EIO)]
        assert (on.learnt(on.a), on.learnt(on.b)) == (None, NO_GSO)


def test_trains_of_smaller_segments_go_on_after_a_segment_was_too_large(backend: Any) -> None:
    with scene(backend, rule=lambda _, size: errno.EMSGSIZE if size > 60 else 0) as on:
        lengths = (90, 90, 1, 80, 80, 1, 70, 70, 1, 60, 60)  # a short one closes a train
        items = [(bytes(n), on.a) for n in lengths]
        assert on.send(items) is None
        assert [size for _, size, _ in on.kernel.refused] == [90, 80, 70]
        assert on.learnt(on.a) == (64, 69)
        assert on.conn.stats().gso_fallbacks == {"EMSGSIZE": 3}
        assert on.conn.stats().send_trains == 1
        assert on.send(items) is None
        assert len(on.kernel.refused) == 3


# EINTR, EAGAIN


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [singles, trains], ids=["singles", "trains"])
def test_interrupted_call_is_made_again_at_once(
    backend: Any, make: Any, place: int, hides: bool
) -> None:
    with scene(backend, *repeated(errno.EINTR, 5, place), hides=hides) as on:
        assert on.send(make(on)) is None
        assert on.descriptor.waits == []
        assert [on.learnt(to) for to in on.all] == [None] * 3


@pytest.mark.parametrize("hides", HIDES)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [singles, trains], ids=["singles", "trains"])
@pytest.mark.parametrize(
    ("timeout", "kind", "code", "n_waits"),
    [
        pytest.param(None, None, 0, 5, id="blocking"),
        pytest.param(0.0, SendBlocked, errno.EAGAIN, 0, id="non-blocking"),
        pytest.param(2.5, SendTimeout, errno.ETIMEDOUT, 3, id="timeout"),
    ],
)
def test_full_socket_is_waited_for_while_there_is_time(
    backend: Any, timeout: Any, kind: Any, code: int, n_waits: int, make: Any, place: int,
    hides: bool,
) -> None:  # fmt: skip
    script = repeated(errno.EAGAIN, 5, place)
    with scene(backend, *script, hides=hides, timeout=timeout) as on:

        def second() -> None:
            on.clock.now += 1

        on.descriptor.on_wait.extend([second] * 9)
        items = make(on)
        error = on.send(items)
        if kind is None:
            assert error is None
            assert on.descriptor.waits == [(POLLOUT, -1.0)] * n_waits
            return
        assert error
        assert kind_of(error) == (kind, code)
        assert isinstance(error, BlockingIOError if code == errno.EAGAIN else TimeoutError)
        assert error.errors == {}
        sent_to = {items[i][1] for i in on.kernel.items()}
        assert sent_to == set(on.all[:place])
        assert len(on.descriptor.waits) == n_waits
        on.kernel.script.clear()
        assert on.send([items[i] for i in error.unsent]) is None
        assert len(on.kernel.taken) == len(items)


def test_deadline_ends_the_wait_and_a_passed_one_the_call(backend: Any) -> None:
    with scene(backend, (1, errno.EAGAIN), (0, errno.EAGAIN), hides=False) as on:
        on.waiter.set_deadline(on.clock.now + 3, POLLOUT)
        on.descriptor.on_wait.append(lambda: setattr(on.clock, "now", on.clock.now + 3))
        error = on.send(singles(on))
        assert kind_of(error) == (SendTimeout, errno.ETIMEDOUT)
        assert on.descriptor.waits == [(POLLOUT, 3.0)]
        n_answers = len(on.kernel.answers)
        error = on.send(singles(on))
        assert error
        assert (error.sent, error.unsent) == (0, [0, 1, 2])
        assert len(on.kernel.answers) == n_answers
        on.waiter.timeout = 0.0  # non-blocking wins over deadlines
        assert on.send(singles(on)) is None


# ENOBUFS


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [singles, trains], ids=["singles", "trains"])
@pytest.mark.parametrize("times", [1, 2, 3], ids="{} times".format)
def test_full_device_queue_is_waited_for_three_times(
    backend: Any, times: int, make: Any, place: int
) -> None:
    with scene(backend, *repeated(errno.ENOBUFS, times, place)) as on:
        assert on.send(make(on)) is None
        assert on.descriptor.waits == [(0, s) for s in PAUSE_S[:times]]


def test_full_device_queue_fails_a_single_datagram_at_the_fourth(backend: Any) -> None:
    with scene(backend, *repeated(errno.ENOBUFS, 4)) as on:
        error = on.send(singles(on))
        assert error
        assert {i: e.errno for i, e in error.errors.items()} == {0: errno.ENOBUFS}
        assert on.descriptor.waits == [(0, s) for s in PAUSE_S]


def test_full_device_queue_splits_a_train_whose_datagrams_are_tried_once(backend: Any) -> None:
    with scene(backend, *repeated(errno.ENOBUFS, 5), (1, errno.ENOBUFS), hides=False) as on:
        error = on.send([(bytes(SIZE), on.a)] * 4)
        assert error
        assert list(error.errors) == [0, 2]
        assert on.descriptor.waits == [(0, s) for s in PAUSE_S]
        assert on.learnt(on.a) is None


@pytest.mark.parametrize("make", [singles, trains], ids=["singles", "trains"])
def test_full_device_queue_is_not_waited_for_without_blocking_or_past_the_end(
    backend: Any, make: Any
) -> None:
    for timeout in (0.0, 0.0005):
        with scene(backend, (0, errno.ENOBUFS), timeout=timeout) as on:
            error = on.send(make(on))
            assert list(error.errors if error else ()) == ([0] if make is singles else [])
            assert on.descriptor.waits == []


def test_what_goes_out_between_gives_three_new_waits(backend: Any) -> None:
    script = repeated(errno.ENOBUFS, 3) + repeated(errno.ENOBUFS, 3, 1)
    with scene(backend, *script, hides=False) as on:
        assert on.send(singles(on)) is None
        assert on.descriptor.waits == [(0, s) for s in PAUSE_S * 2]


# EBADF


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [singles, trains], ids=["singles", "trains"])
def test_close_meanwhile_ends_the_call_with_what_was_sent(
    backend: Any, make: Any, place: int
) -> None:
    with scene(backend, (place, errno.EAGAIN), (0, errno.EAGAIN)) as on:
        on.descriptor.on_wait.append(on.conn.close)
        items = make(on)
        error = on.send(items)
        assert error
        assert kind_of(error) == (SendError, errno.EBADF)
        assert error.sent == place * len(items) // 3
        assert error.errors == {}
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            on.conn.send_batch(items)
        assert type(caught.value) is OSError


def test_every_pair_of_errnos_in_a_row_is_survived(backend: Any) -> None:
    codes = [*LEARNS, errno.EINTR, errno.EAGAIN, errno.ENOBUFS]
    with scene(backend) as on:
        for first, second in itertools.product(codes, codes):
            for place in range(3):
                on.kernel.script.extend([(place, first), (0, second)])
                on.send(trains(on, 2))
                on.kernel.script.clear()
                on.clock.now += 31
