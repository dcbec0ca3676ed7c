"""Receive injector: whatever merged packets the kernel hands over, each datagram is delivered.

A TUN device with vnet_hdr and USO takes super-packets as a network card would deliver them:
trains of up to 128 datagrams, from anybody, between others.  They are received in every way
there is, in any order of ways.  Content, order and address of each source, number and Stats
are compared with what was injected.

Another TUN device, with IFF_NAPI, has the kernel's own GRO engine merge plain packets.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from batching import Conn, listen_udp, open_conn, try_upgrade_to_conn
from injector import LOCAL, MAX_PAYLOAD, ROOMS, SOURCES, Arrival, Injector, Reader, train_of
from loopback import PATIENCE_S, assert_nothing_left
from netns import (
    IFF_NAPI,
    TUN_F_CSUM,
    TUN_F_USO4,
    TUN_F_USO6,
    needs_command,
    needs_netns,
    needs_tun,
)

pytestmark = [needs_netns, needs_tun]

SOURCE = st.integers(0, 1)
TRAINS = st.builds(
    train_of,
    SOURCE,
    st.integers(2, 128) | st.just(128),
    st.sampled_from([1, 2, 99, 100, 511, 1200, 1400, 9000, 32000]),
    st.integers(1, 100) | st.just(32000),
)
SINGLES = st.builds(Arrival, SOURCE, st.sampled_from([0, 0, 1, 100, 1400, 9000, 65507]), st.just(0))
WAYS = st.sampled_from(["all", "one", "few", "segments", *ROOMS])
STEPS = st.lists(TRAINS | SINGLES | WAYS, max_size=30)
FAMILY = st.sampled_from(list(SOURCES))

random_arrivals = settings(
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking would wait for each loss
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def injector() -> Iterator[Injector]:
    with ExitStack() as stack:
        try:
            made = Injector(stack, offload=TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            pytest.skip("no USO on TUN devices here: needs Linux 6.2")
        yield made


@pytest.fixture(scope="module")
def merger() -> Iterator[Injector]:
    """Give a device whose plain packets the kernel merges, if they come within 20 ms."""
    with ExitStack() as stack:
        made = Injector(stack, flags=IFF_NAPI)
        made.side.set_device("tun0", "gro_flush_timeout", 20_000_000)
        made.side.set_device("tun0", "napi_defer_hard_irqs", 200)
        yield made


def receive_all(injector: Injector, family: str, steps: list[Arrival | str], gro: str) -> None:
    """Let packets come in and receive them, in the order of ``steps``."""
    injector.expected.clear()
    with injector.side:
        conn = open_conn(LOCAL[family], gro=gro)
    with conn:
        reader = Reader(conn, injector)
        for step in steps:
            if isinstance(step, Arrival):
                injector.inject(family, conn.local_addr()[1], step)
            elif injector.n_expected:
                reader.read(step)
        reader.finish([step for step in steps if isinstance(step, str)])
        arrivals = [step for step in steps if isinstance(step, Arrival)]
        assert_counted(conn, arrivals, reader.n_cut)


def assert_counted(conn: Conn, arrivals: list[Arrival], n_cut: int = 0) -> None:
    stats = conn.stats()
    n_datagrams = sum(len(arrival.sizes) for arrival in arrivals)
    n_trains = sum(len(arrival.sizes) > 1 for arrival in arrivals)
    is_merged = conn.offload.gro
    assert stats.recv_messages == (len(arrivals) if is_merged else n_datagrams)
    assert stats.recv_trains == (n_trains if is_merged else 0)
    assert stats.recv_datagrams == n_datagrams
    assert stats.recv_bytes == sum(arrival.size for arrival in arrivals)
    assert stats.recv_truncated == n_cut
    assert (stats.recv_control_truncated, stats.recv_queue_drops) == (0, 0)


@pytest.mark.kernel
@random_arrivals
@given(family=FAMILY, steps=STEPS)
def test_trains_and_singles_are_received_whole_in_every_way(
    injector: Injector, family: str, steps: list[Arrival | str]
) -> None:
    receive_all(injector, family, steps, "auto")


@pytest.mark.slow
@settings(random_arrivals, max_examples=300)
@given(family=FAMILY, steps=STEPS)
def test_many_trains_and_singles_are_received_whole_in_every_way(
    injector: Injector, family: str, steps: list[Arrival | str]
) -> None:
    receive_all(injector, family, steps, "auto")


@pytest.mark.slow
@random_arrivals
@given(family=FAMILY, steps=STEPS)
def test_without_gro_the_kernel_cuts_and_nothing_is_lost(
    injector: Injector, family: str, steps: list[Arrival | str]
) -> None:
    receive_all(injector, family, steps, "off")


@pytest.mark.parametrize("way", ["all", "one", "few", "segments", *ROOMS])
@pytest.mark.parametrize("family", SOURCES)
def test_the_largest_trains(injector: Injector, family: str, way: str) -> None:
    size = 65527 if family == "IPv6" else MAX_PAYLOAD
    steps = [
        Arrival(i % 2, size, segment_size)
        for i, segment_size in enumerate((512, 1400, 9000, 32753, 32754, 65506))
    ]
    receive_all(injector, family, [*steps, Arrival(0, 128, 1), Arrival(1, 0), way], "auto")


@pytest.mark.kernel
@pytest.mark.parametrize("family", SOURCES)
@pytest.mark.parametrize(
    ("size", "segment_size"),
    [
        (100, 101),  # one datagram, said to be a train
        (100, 100),
        (100, 65535),
        (0, 100),
        (129, 1),  # more than any sender's kernel makes
        (1000, 1),
        (65507, 1),
        (65507, 511),
    ],
)
def test_a_strange_train_is_refused_by_the_kernel_or_arrives_whole(
    injector: Injector, family: str, size: int, segment_size: int
) -> None:
    injector.expected.clear()
    with injector.side:
        conn = open_conn(LOCAL[family])
    with conn:
        port = conn.local_addr()[1]
        strange, after = Arrival(0, size, segment_size), Arrival(0, 200, 100)
        try:
            injector.inject(family, port, strange)
            arrivals = [strange, after]
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            arrivals = [after]
        injector.inject(family, port, after)
        Reader(conn, injector).finish(["few"])
        assert_counted(conn, arrivals)


@pytest.mark.parametrize("family", ["IPv4", "IPv6"])
def test_an_upgrade_between_trains_loses_nothing(injector: Injector, family: str) -> None:
    injector.expected.clear()
    network = {"IPv4": "udp4", "IPv6": "udp6"}[family]
    with injector.side:
        plain = listen_udp(network, LOCAL[family])
    before = [train_of(0, 20, 100, 50), Arrival(1, 1400), Arrival(0, 0), train_of(1, 5, 9000, 1)]
    after = [train_of(0, 128, 100, 50), Arrival(0, 0), train_of(1, 30, 1400, 1), Arrival(1, 65507)]
    port = plain.local_addr()[1]
    plain.settimeout(PATIENCE_S)
    for arrival in before:
        injector.inject(family, port, arrival)
    buffer = bytearray(65527)
    for _ in range(7):
        n, sender = plain.read_from_udp_addr_port(buffer)
        injector.expect(bytes(buffer[:n]), sender)
    conn = try_upgrade_to_conn(plain, network)
    assert isinstance(conn, Conn)
    with conn:
        for arrival in after:
            injector.inject(family, port, arrival)
        Reader(conn, injector).finish(["few", "segments", "5 messages"])
        stats = conn.stats()
    assert stats.recv_trains == sum(len(arrival.sizes) > 1 for arrival in after)
    assert stats.recv_datagrams == sum(len(arrival.sizes) for arrival in before + after) - 7
    assert stats.recv_queue_drops == 0


@needs_command("unshare", "mount")
@pytest.mark.kernel
@settings(random_arrivals, max_examples=25)
@given(
    family=FAMILY,
    runs=st.lists(
        st.tuples(SOURCE, st.integers(1, 100), st.sampled_from([1, 99, 100, 100, 1400, 9000])),
        max_size=6,
    ),
    ways=st.lists(WAYS, max_size=5),
)
def test_what_the_kernel_merges_is_received_whole(
    merger: Injector, family: str, runs: list[tuple[int, int, int]], ways: list[str]
) -> None:
    merger.expected.clear()
    with merger.side:
        conn = open_conn(LOCAL[family])
    with conn:
        arrivals = [Arrival(source, size) for source, n, size in runs for _ in range(n)]
        merger.inject(family, conn.local_addr()[1], *arrivals)
        Reader(conn, merger).finish(ways)
        stats = conn.stats()
        assert stats.recv_datagrams == len(arrivals)
        assert stats.recv_bytes == sum(arrival.size for arrival in arrivals)


@needs_command("unshare", "mount")
@pytest.mark.kernel
def test_the_kernel_does_merge(merger: Injector) -> None:
    """It merges what comes within a tick of its clock, which a slow machine may miss."""
    merger.expected.clear()
    with merger.side:
        conn = open_conn(LOCAL["IPv4"])
    end = time.monotonic() + PATIENCE_S
    with conn:
        while not conn.stats().recv_trains:
            assert time.monotonic() < end
            merger.inject("IPv4", conn.local_addr()[1], *[Arrival(0, 100)] * 60)
            Reader(conn, merger).finish([])


@needs_command("unshare", "mount")
@pytest.mark.kernel
@pytest.mark.parametrize("gro", ["auto", "off"])
@pytest.mark.parametrize("family", SOURCES)
def test_an_empty_datagram_among_what_the_kernel_merges(
    merger: Injector, family: str, gro: str
) -> None:
    """With GRO on, the kernel lets it overtake what waits to be merged, and does not lose it."""
    merger.expected.clear()
    with merger.side:
        conn = open_conn(LOCAL[family], gro=gro)
    with conn:
        conn.settimeout(PATIENCE_S)
        for size in (100, 100, 0, 100, 0):
            merger.inject(family, conn.local_addr()[1], Arrival(0, size))
        (expected,) = merger.expected.values()
        received: list[bytes] = []
        while len(received) < len(expected):
            received += [data for data, _ in conn.recv_batch()]
        assert_nothing_left(conn)
    if conn.offload.gro:
        assert received.count(b"") == 2
        assert [data for data in received if data] == [data for data in expected if data]
    else:
        assert received == list(expected)
