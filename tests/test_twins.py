"""The two back ends plan alike: the same messages for the same batch, whatever happens to it."""

from __future__ import annotations

import errno
import importlib
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batching import Segments
from conftest import AVAILABLE, MODULES
from seam_rig import Rig, needs_gso

pytestmark = pytest.mark.skipif(
    len(AVAILABLE) < 2, reason="needs both back ends: make test builds the native one"
)

DATA = bytes(range(251)) * 600
LENGTHS = st.sampled_from([0, 1, 2, 50, 99, 100, 101, 1000, 9000, 32000, 65507, 65527, 70000])
SMALL = st.integers(0, 3)
IPV4 = [("127.0.0.1", 1), ("127.0.0.1", 2), ("192.0.2.1", 1)]
IPV6 = [("::1", 1), ("127.0.0.1", 1), ("::ffff:127.0.0.1", 1, 0, 0), ("fe80::1", 1, 0, 3)]
FAMILIES = st.sampled_from([(socket.AF_INET, IPV4), (socket.AF_INET6, IPV6)])
WHERE = st.integers(0, 3)
LIMITS = st.dictionaries(
    WHERE,
    st.tuples(
        st.sampled_from([1, 2, 3, 64, 128]), st.sampled_from([0, 1, 50, 99, 100, 9000, 65535])
    ),
    max_size=3,
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("split")),
        st.tuples(st.just("recut"), LIMITS),
        st.tuples(st.just("skip"), st.sampled_from([errno.EPERM, errno.EIO])),
    ),
    max_size=8,
)
TRAINS = st.lists(st.tuples(LENGTHS, st.sampled_from([20, 50, 100, 1400, 40000, 70000]), WHERE))
many = settings(max_examples=150, deadline=None)


class Twin:
    """A plan of one back end, and the peers that it is made for."""

    def __init__(self, name: str, family: int, addresses: list[Any], limits: Any) -> None:
        backend = importlib.import_module(MODULES[name])
        self.addresses = addresses
        self.peers = backend.Peers(family, family == socket.AF_INET6, 128)
        self.plan = backend.SendPlan(self.peers, backend.Counters())
        self.limit(limits)

    def address(self, where: int) -> Any:
        return self.addresses[where % len(self.addresses)]

    def limit(self, limits: Any) -> None:
        for where, (n, size) in limits.items():
            peer = self.peers.get(self.address(where))
            peer.max_segments, peer.max_segment_size = n, size

    def walk(self, steps: Any) -> Iterator[Any]:
        """Do ``steps`` while messages are left; yield all that can be seen of each."""
        for step, *arguments in steps:
            yield self.plan.n_messages, self.plan.position, self.plan.left
            if not self.plan.left:
                break
            if step == "recut":
                self.limit(arguments[0])
                self.plan.recut()
            elif step == "split":
                yield self.plan.split()
            else:
                self.plan.skip(*arguments)
            yield self.plan.report()
        code = 1000  # of each message its own: the report then tells them apart
        while self.plan.left:
            yield self.plan.peer().address, self.plan.segment_size()
            self.plan.skip(code)
            code += 1
        yield self.plan.report()
        self.plan.release()
        yield self.plan.n_messages, self.plan.position, self.plan.left, self.plan.report()


def twins(family: tuple[int, list[Any]], limits: Any) -> list[Twin]:
    return [Twin(name, *family, limits) for name in AVAILABLE]


def assert_alike(loaded: list[Any], steps: Any) -> None:
    first, second = ([*twin.walk(steps)] for twin in loaded)
    assert first == second


@many
@given(FAMILIES, LIMITS, st.lists(st.tuples(LENGTHS, WHERE), max_size=200), SMALL, STEPS)
def test_datagrams_make_the_same_messages(
    family: Any, limits: Any, items: list[tuple[int, int]], start: int, steps: Any
) -> None:
    loaded = twins(family, limits)
    counts = {
        twin.plan.load([(DATA[:n], twin.address(where)) for n, where in items], start)
        for twin in loaded
    }
    assert counts == {max(0, len(items) - start)}
    assert_alike(loaded, steps)


@many
@given(FAMILIES, LIMITS, st.lists(st.integers(8, 300), max_size=200), st.booleans(), STEPS)
def test_buffers_for_one_address_make_the_same_messages(
    family: Any, limits: Any, lengths: list[int], has_header: bool, steps: Any
) -> None:
    loaded = twins(family, limits)
    for twin in loaded:
        buffers = [bytearray(n) for n in lengths]
        header = b"8 bytes." if has_header else None
        twin.plan.load_to(buffers, twin.address(0), 8, header)
        assert all(b[:8] == (header or bytes(8)) for b in buffers)
    assert_alike(loaded, steps)


@many
@given(FAMILIES, LIMITS, TRAINS, SMALL, st.none() | WHERE, STEPS)
def test_trains_make_the_same_messages(
    family: Any, limits: Any, trains: Any, start: int, to: int | None, steps: Any
) -> None:
    loaded = twins(family, limits)
    for twin in loaded:
        segments = [Segments(DATA[:n], size, twin.address(where)) for n, size, where in trains]
        peer = None if to is None else twin.peers.get(twin.address(to))
        assert twin.plan.load_segments(segments, start, peer) == max(0, len(trains) - start)
    assert_alike(loaded, steps)


@needs_gso
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0, 1, 2, 99, 100, 100, 100, 1400]), max_size=40),
    st.lists(st.tuples(st.integers(0, 3000), st.sampled_from([1, 50, 100, 1400])), max_size=4),
    st.sampled_from([1, 2, 3, 64]),
)
def test_datagrams_arrive_as_they_were_given_whoever_sends_them(
    lengths: list[int], trains: list[tuple[int, int]], max_segments: int
) -> None:
    shapes = [(n, size) for n, size in trains if n <= 100 * size]
    for name in AVAILABLE:
        with closing(Rig(importlib.import_module(MODULES[name]))) as rig:
            rig.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            rig.peers.get(rig.address).max_segments = max_segments
            datagrams = [DATA[i : i + n] for i, n in enumerate(lengths)]
            rig.plan.load([(data, rig.address) for data in datagrams])
            while rig.plan.left:
                assert rig.plan.attempt(rig.tx)[1] == 0
            segments = [Segments(DATA[i : i + n], size) for i, (n, size) in enumerate(shapes)]
            rig.plan.load_segments(segments, 0, rig.peers.get(rig.address))
            while rig.plan.left:
                assert rig.plan.attempt(rig.tx)[1] == 0
            datagrams += [data for train in segments for data in train.tolist()]
            assert [rig.sink.recv(2000) for _ in datagrams] == datagrams
            assert rig.counters.send_datagrams == len(datagrams)
            assert rig.counters.send_bytes == sum(map(len, datagrams))
