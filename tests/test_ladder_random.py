"""The fallback ladder under any script: nothing is lost, doubled or reordered."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batching import Segments, SendError
from fake_core import Scene, scene
from seam_rig import needs_gso

pytestmark = needs_gso

CODES = [
    errno.EINTR, errno.EAGAIN, errno.ENOBUFS, errno.EIO, errno.EINVAL, errno.EPERM, errno.EMSGSIZE,
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO, errno.ENOMEM,
]  # fmt: skip
SCRIPTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0, *CODES])), max_size=30)
ITEMS = st.lists(st.tuples(st.sampled_from([0, 1, 60, 100, 1000]), st.integers(0, 2)), max_size=40)
TRAINS = st.lists(
    st.tuples(st.integers(0, 300), st.sampled_from([1, 50, 100, 400]), st.integers(0, 2)),
    max_size=8,
)
TIMEOUTS = st.sampled_from([None, 0.0, 0.003, 5.0])
many = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def prepare(on: Scene, steps: list[float], closes_after: int | None) -> None:
    def pass_time(step: float) -> None:
        on.clock.now += step

    on.descriptor.on_wait.extend([lambda step=step: pass_time(step) for step in steps])
    if closes_after is not None:
        on.descriptor.on_wait.insert(closes_after, on.conn.close)


WAITS = st.lists(st.sampled_from([0.0, 0.001, 2.0, 40.0]), max_size=10)
CLOSES = st.none() | st.integers(0, 3)


@many
@given(ITEMS, SCRIPTS, st.booleans(), TIMEOUTS, WAITS, CLOSES)
def test_every_datagram_is_accounted_for_once_and_resuming_doubles_none(
    backend: Any,
    lengths: list[tuple[int, int]],
    script: list[tuple[int, int]],
    hides: bool,
    timeout: float | None,
    steps: list[float],
    closes_after: int | None,
) -> None:
    with scene(backend, *script, hides=hides, timeout=timeout) as on:
        prepare(on, steps, closes_after)
        items = [(bytes(n), on.all[to]) for n, to in lengths]
        error = on.send(items)  # which checks the account
        if error and not on.descriptor.closed:
            failed = set(error.errors)
            on.kernel.script.clear()
            on.descriptor.on_wait.clear()
            first = {item for _, item, _ in on.kernel.taken}
            already = len(on.kernel.taken)
            assert on.send([items[i] for i in error.unsent]) is None
            again = {error.unsent[item] for _, item, _ in on.kernel.taken[already:]}
            assert not first & again
            assert first | again | failed == set(range(len(items)))


@many
@given(TRAINS, SCRIPTS, st.booleans(), TIMEOUTS)
def test_every_datagram_of_trains_is_accounted_for_once(
    backend: Any,
    shapes: list[tuple[int, int, int]],
    script: list[tuple[int, int]],
    hides: bool,
    timeout: float | None,
) -> None:
    with scene(backend, *script, hides=hides, timeout=timeout) as on:
        trains = [Segments(bytes(n), size, on.all[to]) for n, size, to in shapes]
        fates: dict[tuple[int, int], str] = {}

        def note(item: int, datagrams: Any, fate: str) -> None:
            for datagram in datagrams:
                assert (item, datagram) not in fates
                fates[item, datagram] = fate

        error, n_sent, ended = None, 0, False
        try:
            n_sent = on.conn.send_segments(trains)
        except SendError as caught:
            error = caught
        if error:
            n_sent, ended = error.sent, bool(error.unsent)
            for item in error.unsent:
                note(item, range(len(trains[item])), "unsent")
            for item, own in error.errors.items():
                if isinstance(own, SendError):
                    note(item, own.errors, "failed")
                    note(item, own.unsent, "unsent")
                    ended = ended or bool(own.unsent)
                    assert own.sent == len(trains[item]) - len(own.errors) - len(own.unsent)
                else:
                    note(item, range(len(trains[item])), "failed")
            assert not ended or isinstance(error, BlockingIOError | TimeoutError)
        for _, item, datagram in on.kernel.taken:
            note(item, [datagram], "sent")
        assert n_sent == len(on.kernel.taken)
        whole = {(i, k) for i, train in enumerate(trains) for k in range(len(train))}
        assert set(fates) == whole
        for to in on.all:
            assert on.kernel.order(to) == sorted(on.kernel.order(to))
