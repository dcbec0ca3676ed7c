"""Wire oracle: what leaves the machine is the datagrams given, packet by packet.

A TUN device has no receiving socket behind it that could put right what was cut wrongly:
each packet is read as a network would see it.  Length, order per destination, addresses,
payload, checksums and number are compared with what was given.

Both kinds of device stand for real ones: one that can nothing, which makes the kernel cut
trains and sum up (or refuse them with EIO, up to Linux 6.10), and one that leaves the sum to
the device, which makes it cut them only.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Final, NamedTuple

import pytest
from _pytest.mark.structures import ParameterSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batching import (
    GENEVE_FIXED_HEADER_LENGTH,
    GENEVE_PROTOCOL_WIREGUARD,
    Conn,
    GeneveHeader,
    Segments,
    UDPGSODisabledError,
    VirtualNetworkID,
    open_conn,
)
from loopback import PlainPeer
from netns import TUN_F_CSUM, Tun, namespace, needs_netns, needs_tun
from packets import Datagram, complete, noise, parse, reassemble

pytestmark = [needs_netns, needs_tun]

Destination = tuple[str, int]

IPV4: Final = [("10.8.0.2", 9), ("10.8.0.2", 10), ("10.8.0.3", 9)]
IPV6: Final = [("fd08::2", 9), ("fd08::2", 10), ("fd08::3", 9)]
FAMILIES: Final = {
    "IPv4": IPV4,
    "IPv6": IPV6,
    "both": [("::ffff:10.8.0.2", 9), IPV6[0], ("::ffff:10.8.0.3", 9)],
}
LOCAL: Final = {"IPv4": "0.0.0.0", "IPv6": "fd08::1", "both": "::"}
MAX_PAYLOAD: Final = {"IPv4": 65507, "IPv6": 65527, "both": 65507}
NO_GENEVE: Final = GeneveHeader()
GENEVE: Final = GeneveHeader(GENEVE_PROTOCOL_WIREGUARD, VirtualNetworkID(0xABCDEF))

# Runs of one size make trains; a limit stands on either side of each.
RUNS: Final = st.lists(
    st.tuples(
        st.integers(1, 150),
        st.sampled_from([0, 1, 2, 99, 100, 100, 101, 511, 512, 1400, 1452, 1453, 1472, 1473]),
        st.integers(0, 2),
    )
    | st.tuples(
        st.integers(1, 3),
        st.sampled_from([1501, 9000, 32753, 32754, 65487, 65488, 65507, 65527]),
        st.integers(0, 2),
    ),
    max_size=5,
)
TRAINS: Final = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.sampled_from([1, 7, 100, 1400, 1453, 1473, 9000]),
        st.integers(0, 9000),
        st.integers(0, 2),
    ),
    max_size=4,
)
FAMILY: Final = st.sampled_from(list(FAMILIES))

random_batches = settings(
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Item(NamedTuple):
    """A datagram to be sent, and where to."""

    payload: bytes
    to: tuple[str, int]


class Wire:
    """A network of one TUN device, and what left by it."""

    def __init__(self, stack: ExitStack, *, mtu: int, offload: int, segments: int | None) -> None:
        self._side = stack.enter_context(namespace())
        tun = Tun(self._side, mtu=mtu, vnet_hdr=bool(offload), offload=offload)
        self._tun = stack.enter_context(closing(tun))
        self._has_header = bool(offload)
        self._segments = segments
        self.mtu = mtu
        self.n_packets = 0
        self.takes_trains = segments != 1 and all(
            self._has_taken_train(source, to)
            for source, to in (("10.8.0.1", IPV4[0]), ("fd08::1", IPV6[0]))
        )

    def open(self, family: str) -> Conn:
        """Return a new Conn; it has learnt nothing yet."""
        while self._tun.read(0):
            pass  # of a test that has failed
        with self._side:
            return open_conn((LOCAL[family], 0), max_segments=self._segments)

    def _has_taken_train(self, source: str, to: tuple[str, int]) -> bool:
        """Ask the kernel, by a plain socket, whether it cuts trains for this device."""
        with self._side, PlainPeer(source) as peer:
            try:
                peer.send_train(to, b"ab", 1)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return False
        assert [datagram.payload for datagram in self.collect(2)] == [b"a", b"b"]
        return True

    def _read(self) -> bytes | None:
        """Return the next packet; what the caller has sent is there when the call returns."""
        packet = self._tun.read(0)
        if packet is None:
            return None
        self.n_packets += 1
        packet = complete(packet) if self._has_header else packet
        assert len(packet) <= self.mtu
        return packet

    def collect(self, n: int) -> list[Datagram]:
        """Return the ``n`` datagrams that left, which must be all."""
        packets = iter(self._read, None)
        found = list(filter(None, map(parse, reassemble(packets))))
        assert len(found) == n
        return found

    def assert_left(self, conn: Conn, items: list[Item]) -> None:
        """Fail unless exactly these datagrams left, in order for each destination."""
        found = self.collect(len(items))
        port = conn.local_addr()[1]
        for to in {item.to for item in items}:
            host = to[0].removeprefix("::ffff:")
            source = ("fd08::1" if ":" in host else "10.8.0.1", port)
            assert [each for each in found if each.destination == (host, to[1])] == [
                Datagram(source, (host, to[1]), item.payload) for item in items if item.to == to
            ]

    def assert_trains(self, conn: Conn, *runs: list[Item]) -> None:
        """Fail if trains were not used, or were where there can be none."""
        stats = conn.stats()
        if not self.takes_trains:
            assert stats.send_trains == 0
            return
        # Up to Linux 5.10 a segment above the MTU costs the destination all its trains.
        is_mtu = any(len(item.payload) > self.mtu - 48 for items in runs for item in items)
        assert set(stats.gso_fallbacks) <= ({"EMSGSIZE", "EINVAL"} if is_mtu else set())
        if "EINVAL" not in stats.gso_fallbacks:
            assert stats.send_trains or not any(map(self._has_train, runs))

    def _has_train(self, items: list[Item]) -> bool:
        """Tell whether three in a row have one size; of two, one may be another train's end."""
        queues: dict[tuple[str, int], list[int]] = {}
        for item in items:
            queues.setdefault(item.to, []).append(len(item.payload))
        return any(
            a == b == c and 0 < a <= min(self.mtu - 48, 32753)
            for sizes in queues.values()
            for a, b, c in zip(sizes, sizes[1:], sizes[2:], strict=False)
        )


def kind(
    mtu: int, offload: int, segments: int | None = None, *, marks: Sequence[pytest.MarkDecorator]
) -> ParameterSet:
    return pytest.param(
        (mtu, offload, segments),
        marks=marks,
        id=f"{'sums' if offload else 'plain'}-{mtu}-{segments or 'any'}",
    )


@pytest.fixture(
    scope="module",
    params=[
        kind(65535, 0, marks=[pytest.mark.kernel]),
        kind(65535, TUN_F_CSUM, marks=[pytest.mark.kernel]),
        kind(1500, 0, marks=()),
        kind(1500, TUN_F_CSUM, marks=[pytest.mark.slow]),
        kind(65535, 0, 64, marks=[pytest.mark.slow]),
        kind(1500, TUN_F_CSUM, 64, marks=[pytest.mark.slow]),
        kind(65535, 0, 1, marks=[pytest.mark.slow]),
        kind(1500, 0, 1, marks=[pytest.mark.slow]),
    ],
)
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    mtu, offload, segments = request.param
    with ExitStack() as stack:
        yield Wire(stack, mtu=mtu, offload=offload, segments=segments)


def items_of(family: str, runs: list[tuple[int, int, int]], *, spread: bool) -> list[Item]:
    """Return the datagrams of runs: one run after the other, or one of each in turn."""
    places = [(i, run) for run, (n, _, _) in enumerate(runs) for i in range(n)]
    return [
        Item(noise(min(runs[run][1], MAX_PAYLOAD[family]), seed), FAMILIES[family][runs[run][2]])
        for seed, (_, run) in enumerate(sorted(places) if spread else places)
    ]


@random_batches
@given(family=FAMILY, runs=RUNS, spread=st.booleans())
def test_pairs_are_on_the_wire_as_given(
    wire: Wire, family: str, runs: list[tuple[int, int, int]], spread: bool
) -> None:
    items = items_of(family, runs, spread=spread)
    with wire.open(family) as conn:
        assert conn.send_batch(items) == len(items)
        wire.assert_left(conn, items)
        wire.assert_trains(conn, items)


@random_batches
@given(
    family=FAMILY,
    runs=RUNS,
    spread=st.booleans(),
    geneve=st.sampled_from([(NO_GENEVE, 0), (NO_GENEVE, 3), (GENEVE, GENEVE_FIXED_HEADER_LENGTH)]),
)
def test_buffers_are_on_the_wire_behind_their_header(
    wire: Wire,
    family: str,
    runs: list[tuple[int, int, int]],
    spread: bool,
    geneve: tuple[GeneveHeader, int],
) -> None:
    header, offset = geneve
    to = FAMILIES[family][0]
    front = bytearray(offset)
    if header.vni.is_set:
        header.encode(front)
    payloads = [
        item.payload[: MAX_PAYLOAD[family] - offset]
        for item in items_of(family, runs, spread=spread)
    ][:128]
    items = [Item(bytes(front) * header.vni.is_set + payload, to) for payload in payloads]
    with wire.open(family) as conn:
        disabled = None
        try:
            conn.write_batch_to(
                [bytearray(offset) + payload for payload in payloads], to, header, offset
            )
        except UDPGSODisabledError as error:  # it tells, and has sent them singly
            disabled = error
        assert not disabled or (disabled.retry_err is None and conn.stats().gso_fallbacks)
        wire.assert_left(conn, items)
        wire.assert_trains(conn, items)


@random_batches
@given(family=FAMILY, trains=TRAINS)
def test_segments_are_on_the_wire_as_given(
    wire: Wire, family: str, trains: list[tuple[int, int, int, int]]
) -> None:
    segments, runs = [], []
    for seed, (n, size, tail, to) in enumerate(trains):
        data = noise(min(n, 60000 // size) * size + min(tail, size - 1), seed)
        segments.append(Segments(data, size, FAMILIES[family][to]))
        runs.append([Item(data, FAMILIES[family][to]) for data in segments[-1].tolist()])
    items = list(itertools.chain(*runs))
    with wire.open(family) as conn:
        assert conn.send_segments(segments) == len(items)
        wire.assert_left(conn, items)
        wire.assert_trains(conn, *runs)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_datagrams_are_whole_trains(wire: Wire, family: str) -> None:
    items = items_of(family, [(300, 100, to) for to in range(3)], spread=True)
    with wire.open(family) as conn:
        conn.send_batch(items)
        wire.assert_left(conn, items)
        wire.assert_trains(conn, items)
        n = conn.offload.max_segments if wire.takes_trains else 1
        assert conn.stats().send_messages == 3 * -(-300 // n)


@pytest.mark.parametrize(
    "wire",
    [kind(1500, offload, marks=[pytest.mark.kernel]) for offload in (0, TUN_F_CSUM)],
    indirect=True,
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_above_the_mtu_leaves_whole_in_fragments(wire: Wire, family: str) -> None:
    for to in range(2):
        fits = wire.mtu - (48 if ":" in FAMILIES[family][to][0].removeprefix("::ffff:") else 28)
        for size, n_fragments in ((fits, 1), (fits + 1, 2)):
            items = items_of(family, [(5, size, to)], spread=False)
            with wire.open(family) as conn:
                before = wire.n_packets
                assert conn.send_batch(items) == 5
                wire.assert_left(conn, items)
                assert wire.n_packets - before == 5 * n_fragments
                stats = conn.stats()
                assert not (stats.send_trains and n_fragments > 1)
                wire.assert_trains(conn, items)
