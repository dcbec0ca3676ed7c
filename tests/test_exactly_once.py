"""Random batches arrive exactly once, in order per destination, byte for byte."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batching import Conn, Segments, open_conn
from loopback import (
    ANY_PORT,
    PATIENCE_S,
    PlainPeer,
    assert_nothing_left,
    messages,
    needs_room,
)

pytestmark = [needs_room, pytest.mark.kernel]

N_PEERS = 3
# Sizes that meet: equal runs make trains, and a limit stands on either side of each.
SIZES = st.sampled_from([0, 1, 2, 99, 100, 100, 100, 101, 511, 512, 1400, 1400, 9000, 65507])
BATCHES = st.lists(st.tuples(SIZES, st.integers(0, N_PEERS - 1)), max_size=150)
RUNS = st.lists(
    st.tuples(st.integers(1, 300), st.sampled_from([1, 100, 512]), st.integers(0, N_PEERS - 1)),
    max_size=6,
)
WAYS = st.lists(st.sampled_from(["batch", "one", "few", "segments", "messages"]), min_size=1)
TRAINS = st.lists(
    st.tuples(st.integers(0, 9000), st.sampled_from([1, 7, 100, 1400, 70000])), max_size=8
)

random_batches = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(params=[None, 64, 1], ids=["any", "64", "no trains"])
def conn(request: pytest.FixtureRequest) -> Iterator[Conn]:
    with open_conn(ANY_PORT, max_segments=request.param) as conn:
        yield conn


@pytest.fixture
def peers() -> Iterator[list[PlainPeer]]:
    with PlainPeer() as a, PlainPeer() as b, PlainPeer() as c:
        yield [a, b, c]


def patterned(size: int, seed: int) -> bytes:
    """Return ``size`` bytes that tell where they belong."""
    return ((seed % 65521).to_bytes(2, "big") * (size // 2 + 1))[:size]


def assert_arrived(peers: list[PlainPeer], sent: list[tuple[bytes, int]], sender: object) -> None:
    for i, peer in enumerate(peers):
        expected = [(data, sender) for data, to in sent if to == i]
        assert peer.collect_pairs(len(expected)) == expected


@random_batches
@given(batch=BATCHES)
def test_pairs_of_any_size_to_any_peer(
    conn: Conn, peers: list[PlainPeer], batch: list[tuple[int, int]]
) -> None:
    sent = [(patterned(size, i), to) for i, (size, to) in enumerate(batch)]
    assert conn.send_batch([(data, peers[to].address) for data, to in sent]) == len(sent)
    assert_arrived(peers, sent, conn.local_addr())


@random_batches
@given(runs=RUNS)
def test_runs_of_one_size(
    conn: Conn, peers: list[PlainPeer], runs: list[tuple[int, int, int]]
) -> None:
    sizes = [(size, to) for n, size, to in runs for _ in range(n)]
    sent = [(patterned(size, i), to) for i, (size, to) in enumerate(sizes)]
    assert conn.send_batch([(data, peers[to].address) for data, to in sent]) == len(sent)
    assert_arrived(peers, sent, conn.local_addr())


@random_batches
@given(trains=TRAINS)
def test_trains_of_any_length(
    conn: Conn, peers: list[PlainPeer], trains: list[tuple[int, int]]
) -> None:
    segments = [
        Segments(patterned(n, i), size, peers[i % N_PEERS].address)
        for i, (n, size) in enumerate(trains)
    ]
    sent = [(data, i % N_PEERS) for i, train in enumerate(segments) for data in train.tolist()]
    assert conn.send_segments(segments) == len(sent)
    assert_arrived(peers, sent, conn.local_addr())


@random_batches
@given(sizes=st.lists(SIZES, max_size=128))
def test_buffers_to_one_address(conn: Conn, peers: list[PlainPeer], sizes: list[int]) -> None:
    sent = [(patterned(size, i), 0) for i, size in enumerate(sizes)]
    conn.write_batch_to([data for data, _ in sent], peers[0].address)
    assert_arrived(peers, sent, conn.local_addr())


def receive(conn: Conn, way: str) -> list[tuple[bytes, object]]:
    if way == "segments":
        return [(data, train.addr) for train in conn.recv_segments() for data in train.tolist()]
    if way == "messages":
        msgs = messages(5, size=65507)
        n = conn.read_batch(msgs)
        return [(bytes(msg.data), msg.addr) for msg in msgs[:n]]
    limit = {"batch": None, "one": 1, "few": 7}[way]
    return list(conn.recv_batch(limit))


@random_batches
@given(batch=BATCHES, ways=WAYS)
def test_from_conns_to_a_conn_that_receives_in_every_way(
    conn: Conn, batch: list[tuple[int, int]], ways: list[str]
) -> None:
    conn.settimeout(PATIENCE_S)
    with open_conn(ANY_PORT) as a, open_conn(ANY_PORT, gso="off") as b, PlainPeer() as c:
        to = conn.local_addr()
        sent = [(patterned(size, i), source) for i, (size, source) in enumerate(batch)]
        a.send_batch([(data, to) for data, source in sent if source == 0])
        b.send_batch([(data, to) for data, source in sent if source == 1])
        c.send(to, *[data for data, source in sent if source == 2])
        received: list[tuple[bytes, object]] = []
        turns = itertools.cycle(ways)
        while len(received) < len(sent):
            received += receive(conn, next(turns))
        assert_nothing_left(conn)
        for i, sender in enumerate((a.local_addr(), b.local_addr(), c.address)):
            assert [data for data, source in sent if source == i] == [
                data for data, addr in received if addr == sender
            ]
        assert len(received) == len(sent)
