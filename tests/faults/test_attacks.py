"""What somebody out on the network can touch is bounded: docs/security.md, claim by claim."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable, Iterator

import pytest

import packets
from batching import Conn, open_conn
from holdings import Holdings, needs_mallinfo
from loopback import PATIENCE_S, PlainPeer, assert_nothing_left, gather, needs_gso
from netns import Namespace, Tun, namespace, needs_netns, needs_tun

HOST4, HOST6 = "10.8.0.1", "fd08::1"
PORT = 4000
BOTH = [(HOST4, "10.8.0.9"), (HOST6, "fd08::9")]  # ours, and a peer's
MIB = 1 << 20
ICMP, ICMPV6 = 1, 58

pytestmark = [needs_netns, needs_tun, pytest.mark.kernel]


class Wire:
    """A TUN device: what an attacker may write into it, and what our Conn sends to it."""

    def __init__(self, side: Namespace) -> None:
        self.side = side
        self.tun = Tun(side)

    def open(self, host: str, remote: tuple[str, int] | None = None) -> Conn:
        with self.side:
            return open_conn((host, PORT), remote)

    def sent(self, n: int) -> list[bytes]:
        """Return the payloads of the ``n`` datagrams that went out, fragments put together."""

        def read() -> Iterator[bytes]:
            while True:
                packet = self.tun.read()
                assert packet is not None, f"only {len(found)} of {n} datagrams went out"
                yield packet

        found: list[bytes] = []
        for packet in packets.reassemble(read()):
            if datagram := packets.parse(packet):
                found.append(datagram.payload)
            if len(found) == n:
                break
        return found

    def spoof_icmp(self, kind: int, code: int, mtu: int, about: bytes) -> None:
        """Let an ICMP error come in, as any host may send it that guessed ``about``."""
        inner = about[:520]
        if about[0] >> 4 == 4:
            body = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + inner
            body = body[:2] + struct.pack("!H", packets.checksum(body)) + body[4:]
            source = ipaddress.ip_address("10.8.0.66").packed
            header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, ICMP, 0)
            header += source + about[12:16]
            header = header[:10] + struct.pack("!H", packets.checksum(header)) + header[12:]
        else:
            source = ipaddress.ip_address("fd08::66").packed
            body = struct.pack("!BBHI", kind, code, 0, mtu) + inner
            pseudo = source + about[8:24] + struct.pack("!II", len(body), ICMPV6)
            body = body[:2] + struct.pack("!H", packets.checksum(pseudo + body)) + body[4:]
            header = struct.pack("!IHBB", 6 << 28, len(body), ICMPV6, 64) + source + about[8:24]
        self.tun.write(header + body)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with namespace() as side:
        wire = Wire(side)
        yield wire
        wire.tun.close()


# Floods


def flood(wire: Wire, conn: Conn, host: str, numbers: range, each: Callable[[int], None]) -> None:
    """Let a datagram come in from each of many sources, and receive it."""
    network = int(ipaddress.ip_address("172.16.0.0" if host == HOST4 else "fd08::1:0:0"))
    for i in numbers:
        source = str(ipaddress.ip_address(network + i))
        wire.tun.write(packets.build((source, 1 + i % 65535), (host, PORT), b"%d" % i))
        [(data, addr)] = conn.recv_batch()
        assert (data, addr[:2]) == (b"%d" % i, (source, 1 + i % 65535))
        each(i)


@needs_mallinfo
@pytest.mark.slow
@pytest.mark.parametrize("host", [HOST4, HOST6])
def test_a_flood_from_many_sources_leaves_memory_bounded(wire: Wire, host: str) -> None:
    wire.side.sysctl("ipv4.conf.all.rp_filter", 0)
    wire.side.sysctl("ipv4.conf.tun0.rp_filter", 0)
    wire.side.ip("route add 172.16.0.0/12 dev tun0")
    with wire.open(host) as conn:
        conn.settimeout(PATIENCE_S)
        flood(wire, conn, host, range(6000), lambda _: None)  # more than are remembered
        before = Holdings.now()
        flood(wire, conn, host, range(6000, 40_000), lambda _: None)
        assert Holdings.now().n_bytes - before.n_bytes < MIB


@needs_gso
@pytest.mark.slow
def test_a_flood_does_not_make_a_destination_in_use_forgotten(wire: Wire) -> None:
    """Who is sent to now and then stays, with what it taught; the flood pushes out the flood."""
    wire.side.ip("route add 172.16.0.0/12 dev tun0")
    wire.side.ip("route add 10.8.0.9/32 dev tun0 mtu 1300")
    with wire.open(HOST4) as conn:
        conn.settimeout(PATIENCE_S)

        def send_now_and_then(i: int) -> None:
            if i % 500 == 0:
                conn.send_batch([(bytes(1400), ("10.8.0.9", 9))] * 3)
                assert wire.sent(3) == [bytes(1400)] * 3

        flood(wire, conn, HOST4, range(12_000), send_now_and_then)
        assert list(conn.stats().gso_fallbacks.values()) == [1]  # EINVAL in Linux 5.10


@needs_mallinfo
def test_what_is_not_read_stays_in_the_kernel_and_is_bounded(peer: PlainPeer) -> None:
    """A flood that nobody reads fills the kernel's queue, then is dropped and counted."""
    with open_conn(("127.0.0.1", 0), receive_buffer=65536) as small:
        before = Holdings.now()
        n = 3000
        peer.send(small.local_addr(), *[bytes(1000)] * n)
        assert Holdings.now().n_bytes - before.n_bytes < MIB
        dropped = small.stats().recv_queue_drops
        assert dropped > 0
        assert len(gather(small, n - dropped)) == n - dropped


# Malformed packets: the kernel drops them before they reach a socket


@pytest.mark.parametrize(("host", "source"), BOTH)
@pytest.mark.parametrize("damage", ["checksum", "length", "short", "port"])
def test_a_malformed_packet_reaches_nobody(wire: Wire, host: str, source: str, damage: str) -> None:
    good = packets.build((source, 9), (host, PORT), b"good")
    start = 20 if host == HOST4 else 40
    bad = bytearray(packets.build((source, 9), (host, PORT), b"malformed"))
    if damage == "checksum":
        bad[-1] ^= 1
    elif damage == "length":  # says that it is longer than the packet
        bad[start + 4 : start + 6] = struct.pack("!H", 600)
    elif damage == "short":  # of the UDP header itself
        bad[start + 4 : start + 6] = struct.pack("!H", 3)
    else:
        bad = bytearray(packets.build((source, 9), (host, PORT + 1), b"malformed"))
    with wire.open(host) as conn:
        conn.settimeout(PATIENCE_S)
        wire.tun.write(bytes(bad))
        wire.tun.write(good)
        assert gather(conn, 1) == [b"good"]


# Spoofed ICMP


@needs_gso
@pytest.mark.parametrize(("host", "peer"), BOTH)
def test_a_spoofed_packet_too_big_costs_speed_and_no_datagram(
    wire: Wire, host: str, peer: str
) -> None:
    batch = [packets.noise(1400, i) for i in range(20)]
    with wire.open(host) as conn:
        conn.write_batch_to([b"first"], (peer, 9))
        seen = wire.tun.read()
        while seen is not None and packets.parse(seen) is None:
            seen = wire.tun.read()
        assert seen is not None
        kind, code, mtu = (3, 4, 600) if host == HOST4 else (2, 0, 1280)
        wire.spoof_icmp(kind, code, mtu, seen)
        assert conn.send_batch([(data, (peer, 9)) for data in batch]) == len(batch)
        assert wire.sent(len(batch)) == batch
        assert conn.stats().gso_fallbacks in ({"EMSGSIZE": 1}, {"EINVAL": 1})  # it took effect
        assert conn.send_batch([(data, (peer, 9)) for data in batch]) == len(batch)
        assert wire.sent(len(batch)) == batch


@pytest.mark.parametrize("is_connected", [False, True])
def test_a_spoofed_port_unreachable_costs_a_connected_one_a_single_error(
    wire: Wire, is_connected: bool
) -> None:
    peer = ("10.8.0.9", 9)
    with wire.open(HOST4, peer if is_connected else None) as conn:
        conn.settimeout(PATIENCE_S)
        conn.send_batch([(b"first", peer)])
        about = packets.build((HOST4, PORT), peer, b"first")
        wire.spoof_icmp(3, 3, 0, about)
        wire.tun.write(packets.build(peer, (HOST4, PORT), b"answer"))
        if is_connected:  # once, as a plain connected socket is told
            with pytest.raises(ConnectionRefusedError):
                conn.recv_batch()
        assert gather(conn, 1) == [b"answer"]
        assert conn.send_batch([(b"second", peer)]) == 1
        assert wire.sent(2) == [b"first", b"second"]
        assert_nothing_left(conn)
