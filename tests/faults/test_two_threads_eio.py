"""Threads of one Conn whose trains are refused at the same moment: nobody sees a raw error.

The shim holds each thread's first train to the shared destination until all threads have
theirs there, and refuses them together; so each has a train planned, and tried, before any
could learn from another.  Plain sockets in here see what arrives.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from loopback import PlainPeer, needs_gso, needs_room
from shim import FaultyKernel
from shim import faulty as faulty

pytestmark = [needs_gso, needs_room]

N = 6  # datagrams a call and destination
ROUNDS = 20
CODES = [
    pytest.param(errno.EIO, id="EIO"),
    pytest.param(errno.EINVAL, id="EINVAL", marks=pytest.mark.slow),
    pytest.param(errno.EPERM, id="EPERM", marks=pytest.mark.slow),
]
both_ways = pytest.mark.parametrize("way", ["send_batch", "write_batch_to"])
THREADS = [pytest.param(2, marks=pytest.mark.slow), 8]


class Stage(NamedTuple):
    shared: PlainPeer
    own: list[PlainPeer]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with ExitStack() as stack:
        peers = [stack.enter_context(PlainPeer()) for _ in range(9)]
        yield Stage(peers[0], peers[1:])


def race(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage, n_threads: int, way: str, rules: str
) -> dict[str, Any]:
    """Let threads send; check that all of it arrived once, in order of each thread."""
    own = stage.own[:n_threads]
    told: dict[str, Any] = faulty.run(
        backend,
        "race",
        way=way,
        rules=rules.format(shared=stage.shared.address[1]),
        shared=stage.shared.address[1],
        own=[peer.address[1] for peer in own],
        rounds=ROUNDS,
        n=N,
    )
    numbers = list(range(ROUNDS * N))
    for me, peer in enumerate(own):
        assert [struct.unpack("!BBI", data) for data in peer.collect(len(numbers))] == [
            (me, 1, i) for i in numbers
        ]
    came = [struct.unpack("!BBI", data) for data in stage.shared.collect(n_threads * len(numbers))]
    for me in range(n_threads):
        assert [i for thread, _, i in came if thread == me] == numbers
    assert {kind for _, kind, _ in came} == {0}
    assert told["counted"] == 2 * n_threads * len(numbers)
    assert told["errors"] == 0
    return told


def check_told(told: dict[str, Any], way: str, code: int, most: int) -> None:
    """Check that nobody was told but, by write_batch_to, that GSO is off and all was sent."""
    seen = [event for events in told["told"] for event in events]
    if way == "send_batch":
        assert seen == []
        return
    assert {tuple(event) for event in seen} == {("UDPGSODisabledError", code, "None")}
    assert len(seen) <= most


@pytest.mark.parametrize("n_threads", [2, 8])
@both_ways
@pytest.mark.parametrize("code", CODES)
def test_threads_that_meet_the_same_refusal_lose_and_double_nothing(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage, code: int, way: str, n_threads: int
) -> None:
    rules = f"send errno={code} train=1 port={{shared}} count=0 meet={n_threads}"
    told = race(faulty, backend, stage, n_threads, way, rules)
    assert told["met"] == n_threads
    check_told(told, way, code, most=1)  # GSO goes from on to off once
    assert told["used"] == [n_threads], "a destination that has learnt was tried again"
    assert told["trains"] == n_threads * ROUNDS, "the other destinations still get trains"
    assert list(told["fallbacks"]) == [errno.errorcode[code]]
    assert told["fallbacks"] == {errno.errorcode[code]: 1}


def test_destination_that_lost_gso_once_is_counted_once(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage
) -> None:
    rules = f"send errno={errno.EIO} train=1 port={{shared}} count=0 meet=8"
    assert race(faulty, backend, stage, 8, "send_batch", rules)["fallbacks"] == {"EIO": 1}


@pytest.mark.parametrize("n_threads", THREADS)
@both_ways
def test_threads_that_meet_refusals_of_trains_to_everybody(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage, way: str, n_threads: int
) -> None:
    rules = f"send errno={errno.EIO} train=1 count=0 meet={n_threads}"
    told = race(faulty, backend, stage, n_threads, way, rules)
    assert told["met"] == n_threads
    check_told(told, way, errno.EIO, most=1 + n_threads)
    # Each thread's first train to the shared destination, and to its own.
    assert told["used"] == [2 * n_threads]
    assert 1 + n_threads <= told["fallbacks"]["EIO"] <= 2 * n_threads


@pytest.mark.parametrize("n_threads", THREADS)
@both_ways
def test_threads_of_whose_trains_only_the_first_are_refused(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage, way: str, n_threads: int
) -> None:
    rules = f"send errno={errno.EIO} train=1 port={{shared}} count={n_threads - 1}"
    told = race(faulty, backend, stage, n_threads, way, rules)
    check_told(told, way, errno.EIO, most=1)
    assert 1 <= told["fallbacks"]["EIO"] <= told["used"][0] <= n_threads - 1


@pytest.mark.parametrize("n_threads", THREADS)
@both_ways
def test_threads_whose_trains_were_refused_for_another_reason_go_on_with_trains(
    faulty: FaultyKernel, backend: ModuleType, stage: Stage, way: str, n_threads: int
) -> None:
    rules = f"send errno={errno.ECONNREFUSED} train=1 count={3 * n_threads}"
    told = race(faulty, backend, stage, n_threads, way, rules)
    assert told["told"] == [[]] * n_threads
    assert told["used"] == [3 * n_threads]
    assert told["trains"] == 2 * n_threads * ROUNDS - 3 * n_threads
    assert told["fallbacks"] == {}
