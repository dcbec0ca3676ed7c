"""The two back ends plan alike: the same messages for the same batch, whatever happens to it."""

from __future__ import annotations

import contextlib
import errno
import importlib
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
ATTEMPT = st.tuples(st.just("attempt"), st.integers(1, 40))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("split"), st.sampled_from([0, 1, 50, 100, 65536])),
        st.tuples(st.just("recut"), LIMITS),
        st.tuples(st.just("skip"), st.sampled_from([errno.EPERM, errno.EIO])),
    ),
    max_size=8,
)
TRAINS = st.lists(st.tuples(LENGTHS, st.sampled_from([20, 50, 100, 1400, 40000, 70000]), WHERE))
many = settings(max_examples=150, deadline=None)


class Twin:
    """A plan of one back end, and the peers that it is made for.

    With ``sinks`` (plain sockets) it sends to these, and can attempt to.
    """

    def __init__(
        self,
        name: str,
        family: int,
        addresses: list[Any],
        limits: Any,
        sinks: list[socket.socket] | None = None,
    ) -> None:
        backend = importlib.import_module(MODULES[name])
        self.sinks = sinks or []
        self.source = backend.Descriptor(socket.socket(family, socket.SOCK_DGRAM))
        self.addresses = [sink.getsockname() for sink in self.sinks] or addresses
        self.peers = backend.Peers(family, family == socket.AF_INET6, 128)
        self.segments = backend.Segments
        self.counters = backend.Counters()
        self.plan = backend.SendPlan(self.peers, self.counters)
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
            elif step == "attempt":
                yield self.attempt(*arguments)
            elif step == "split":
                yield self.plan.split(*arguments)
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
        self.source.close()

    def attempt(self, limit: int) -> Any:
        """Send up to ``limit`` messages; return how many went, and what arrived where."""
        sent, error = self.plan.attempt(self.source, limit)
        if sent:  # sendmmsg does not tell what ended a call that sent something
            error = 0
        sizes = self.counters.snapshot()["send_datagrams_per_message"]
        return sent, error, self.plan.datagrams_sent, sizes, [arrivals(sink) for sink in self.sinks]


def arrivals(sink: socket.socket) -> list[bytes]:
    """Return what waits in a socket, which is emptied."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(sink.recv(65536))
    return found


def open_sinks() -> list[socket.socket]:
    sinks = []
    for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
        sinks.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sinks[-1].bind((host, 0))
        sinks[-1].setblocking(False)
    return sinks


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
        segments = [twin.segments(DATA[:n], size, twin.address(where)) for n, size, where in trains]
        peer = None if to is None else twin.peers.get(twin.address(to))
        assert twin.plan.load_segments(segments, start, peer) == max(0, len(trains) - start)
    assert_alike(loaded, steps)


@many
@given(LIMITS, st.lists(st.integers(0, 12), max_size=60), st.integers(0, 12), STEPS)
def test_buffers_with_an_offset_make_the_same_messages_or_the_same_refusal(
    limits: Any, lengths: list[int], offset: int, steps: Any
) -> None:
    loaded = twins((socket.AF_INET, IPV4), limits)
    told = set()
    for twin in loaded:
        try:
            twin.plan.load_to([DATA[:n] for n in lengths], twin.address(1), offset)
        except ValueError as error:
            told.add(str(error))
        else:
            told.add("")
    assert len(told) == 1
    assert (told == {""}) == (not lengths or min(lengths) >= offset)
    assert_alike(loaded, steps)


@needs_gso
@settings(max_examples=50, deadline=None)
@given(
    LIMITS,
    st.lists(st.tuples(st.sampled_from([0, 1, 99, 100, 100, 1000, 70000]), WHERE), max_size=60),
    st.lists(
        st.tuples(st.integers(0, 3000), st.sampled_from([1, 50, 100, 1400]), WHERE), max_size=9
    ),
    st.lists(st.one_of(ATTEMPT, ATTEMPT, STEPS.map(lambda steps: (steps or [("split", 1)])[0]))),
)
def test_attempts_between_changes_of_the_plan_send_the_same(
    limits: Any, items: list[tuple[int, int]], trains: Any, steps: Any
) -> None:
    sinks = open_sinks()
    try:
        pairs = [Twin(name, socket.AF_INET, [], limits, sinks) for name in AVAILABLE]
        for twin in pairs:
            if trains:
                segments = [
                    twin.segments(DATA[:n], size, twin.address(to)) for n, size, to in trains
                ]
                twin.plan.load_segments(segments)
            else:
                twin.plan.load([(DATA[:n], twin.address(to)) for n, to in items])
        assert_alike(pairs, steps)
    finally:
        for sink in sinks:
            sink.close()


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
        backend = importlib.import_module(MODULES[name])
        with closing(Rig(backend)) as rig:
            rig.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            rig.peers.get(rig.address).max_segments = max_segments
            datagrams = [DATA[i : i + n] for i, n in enumerate(lengths)]
            rig.plan.load([(data, rig.address) for data in datagrams])
            while rig.plan.left:
                assert rig.plan.attempt(rig.tx)[1] == 0
            segments = [
                backend.Segments(DATA[i : i + n], size) for i, (n, size) in enumerate(shapes)
            ]
            rig.plan.load_segments(segments, 0, rig.peers.get(rig.address))
            while rig.plan.left:
                assert rig.plan.attempt(rig.tx)[1] == 0
            datagrams += [data for train in segments for data in train.tolist()]
            assert [rig.sink.recv(2000) for _ in datagrams] == datagrams
            assert rig.counters.snapshot()["send_datagrams"] == len(datagrams)
            assert rig.counters.snapshot()["send_bytes"] == sum(map(len, datagrams))
