"""Marks on the wire: each packet has the ECN of its train, however it had to be cut.

A TUN device shows what leaves, packet by packet; another one lets packets come in that the
kernel's own GRO engine merges.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from batching import Conn, Segments, open_conn
from batching._kernel import IP_TOS, IPV6_TCLASS, SOL_IP, SOL_IPV6
from loopback import PATIENCE_S, needs_ipv6
from marks import receive, told_of
from netns import IFF_NAPI, Namespace, Tun, namespace, needs_command, needs_netns, needs_tun
from packets import Datagram, build, parse, reassemble

pytestmark = [needs_netns, needs_tun, needs_ipv6, pytest.mark.kernel]

PEERS: Final = {
    "IPv4": ("0.0.0.0", "10.8.0.2"),
    "IPv6": ("fd08::1", "fd08::2"),
    "v4-mapped": ("::", "10.8.0.2"),
}
DSCP: Final = 0b001010 << 2  # AF11
_LINKTYPE_RAW: Final = 101  # of pcap: IP, whichever
each_family = pytest.mark.parametrize("family", PEERS)


class Wire:
    """A network of one TUN device."""

    def __init__(self, side: Namespace, tun: Tun) -> None:
        self.side, self._tun = side, tun

    def open(self, family: str) -> Conn:
        self.packets()
        with self.side:
            return open_conn((PEERS[family][0], 0))

    def packets(self) -> list[bytes]:
        """Return what has left."""
        return list(iter(lambda: self._tun.read(0), None))

    def datagrams(self) -> list[Datagram]:
        """Return the datagrams that have left, fragments put together."""
        return list(filter(None, map(parse, reassemble(self.packets()))))


def tos_of(packet: bytes) -> int:
    """Return the traffic class of a packet, a fragment too."""
    return packet[1] if packet[0] >> 4 == 4 else int.from_bytes(packet[:2], "big") >> 4 & 0xFF


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with ExitStack() as stack:
        side = stack.enter_context(namespace())
        yield Wire(side, stack.enter_context(closing(Tun(side, mtu=1400))))


@each_family
def test_each_packet_of_a_train_has_its_mark(wire: Wire, family: str) -> None:
    to = (PEERS[family][1], 9)
    with wire.open(family) as conn:
        conn.setsockopt(SOL_IP, IP_TOS, DSCP)
        if ":" in PEERS[family][0]:
            conn.setsockopt(SOL_IPV6, IPV6_TCLASS, DSCP)
        trains = [Segments(bytes([ecn]) * 3500, 1000, to, ecn=ecn) for ecn in range(4)]
        assert conn.send_segments(trains) == 16
        found = wire.datagrams()
        assert [(each.payload[0], len(each.payload), each.tos) for each in found] == [
            (ecn, n, DSCP | ecn) for ecn in range(4) for n in (1000, 1000, 1000, 500)
        ]


@each_family
def test_a_train_that_has_to_be_cut_keeps_its_mark(wire: Wire, family: str) -> None:
    """Its segments are above the MTU: each datagram leaves in fragments, and all have it."""
    to = (PEERS[family][1], 9)
    with wire.open(family) as conn:
        trains = [Segments(bytes([ecn]) * 4000, 1600, to, ecn=ecn) for ecn in (1, 2, 1)]
        trains.append(Segments(bytes(4000), 1600, to))
        assert conn.send_segments(trains) == 12
        packets = wire.packets()
        assert [each.tos for each in filter(None, map(parse, reassemble(packets)))] == (
            [1] * 3 + [2] * 3 + [1] * 3 + [0] * 3
        )
        assert len(packets) == 20  # the third of each fits
        tos = [
            p[1] if p[0] >> 4 == 4 else struct.unpack_from("!H", p)[0] >> 4 & 0xFF for p in packets
        ]
        assert tos == [1] * 5 + [2] * 5 + [1] * 5 + [0] * 5
        # What was learnt is heeded, and marked all the same.
        assert conn.stats().gso_fallbacks
        assert conn.send_segments(trains[:2]) == 6
        assert [each.tos for each in wire.datagrams()] == [1] * 3 + [2] * 3


@each_family
def test_order_holds_where_marks_change(wire: Wire, family: str) -> None:
    host = PEERS[family][1]
    with wire.open(family) as conn:
        trains = [
            Segments(struct.pack("!H", i), 2, (host, 9 + i % 2), ecn=(i // 6) % 4)
            for i in range(200)
        ]
        assert conn.send_segments(trains) == 200
        found = wire.datagrams()
        for port in (9, 10):
            mine = [each for each in found if each.destination[1] == port]
            numbers = [struct.unpack("!H", each.payload)[0] for each in mine]
            assert numbers == list(range(port - 9, 200, 2))
            assert [each.tos for each in mine] == [(i // 6) % 4 for i in numbers]


@needs_command("tshark")
@each_family
def test_tshark_reads_the_marks(wire: Wire, family: str, tmp_path: Path) -> None:
    to = (PEERS[family][1], 9)
    with wire.open(family) as conn:
        conn.send_segments([Segments(bytes(300), 100, to, ecn=ecn) for ecn in range(4)])
        conn.set_ecn(2)
        conn.send_batch([(b"pair", to)])
    file = tmp_path / "marks.pcap"
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINKTYPE_RAW)
    packets = [struct.pack("=IIII", 0, 0, len(p), len(p)) + p for p in wire.packets()]
    file.write_bytes(header + b"".join(packets))
    field = "ipv6.tclass.ecn" if family == "IPv6" else "ip.dsfield.ecn"
    command = ["tshark", "-r", str(file), "-Y", "udp", "-T", "fields", "-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert [int(line, 0) for line in done.stdout.split()] == [0] * 3 + [1] * 3 + [2] * 3 + [
        3
    ] * 3 + [2]


@pytest.fixture(scope="module")
def merger() -> Iterator[tuple[Namespace, Tun]]:
    """Give a device whose plain packets the kernel merges, if they come within 20 ms."""
    with ExitStack() as stack:
        side = stack.enter_context(namespace())
        tun = stack.enter_context(closing(Tun(side, mtu=65535, flags=IFF_NAPI)))
        side.set_device("tun0", "gro_flush_timeout", 20_000_000)
        side.set_device("tun0", "napi_defer_hard_irqs", 200)
        yield side, tun


@needs_command("unshare", "mount")
@each_family
def test_what_the_kernel_merges_has_one_mark(merger: tuple[Namespace, Tun], family: str) -> None:
    side, tun = merger
    local, peer = PEERS[family]
    own = "fd08::1" if family == "IPv6" else "10.8.0.1"
    marks = [2] * 20 + [3] * 10 + [2, 3] * 5 + [1] * 20 + [0] * 20
    with side:
        conn = open_conn((local, 0), ecn=True)
    with conn:
        conn.settimeout(PATIENCE_S)
        to = (own, conn.local_addr()[1])
        packets = [
            build((peer, 7), to, bytes([i]) * 100, DSCP | ecn) for i, ecn in enumerate(marks)
        ]
        for packet in packets:
            tun.write(packet)
        told = told_of(receive(conn, len(marks)))
        assert [data[0] for data, _ in told] == list(range(len(marks)))
        assert [ecn for _, ecn in told] == marks
        assert 0 < conn.stats().recv_trains <= 14
