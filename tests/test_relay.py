"""The relay of examples/relay.py: who gets what, in trains that are good, bad or mixed.

Real senders and receivers on loopback; the relay's calls are made by the test, one after the
other, so that nothing has to be waited for.  The program as a whole: test_relay_program.py.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("prometheus_client", reason='needs pip install "udp-batching[metrics]"')

import typer
from examples.relay import Relay, main
from typer.testing import CliRunner

from batching import GeneveHeader, Segments, VirtualNetworkID, open_conn
from batching.geneve import GENEVE_PROTOCOL_DISCO, GENEVE_PROTOCOL_WIREGUARD
from loopback import PATIENCE_S, PlainPeer, needs_gso, needs_ipv6, needs_whole_trains

VNI, OTHER_VNI, UNKNOWN_VNI = 7, 0xABCDEF, 8
BAD_HEADERS = {
    "unknown VNI": {"vni": UNKNOWN_VNI},
    "control": {"control": True, "protocol": GENEVE_PROTOCOL_DISCO},
    "bad header": {"version": 1},
}
each_size = pytest.mark.parametrize("size", [72, 70, 69])  # words of 8, of 2, of 1 byte


def header(vni: int = VNI, protocol: int = GENEVE_PROTOCOL_WIREGUARD, **fields: Any) -> bytes:
    encoded = bytearray(8)
    GeneveHeader(protocol, VirtualNetworkID(vni), **fields).encode(encoded)
    return bytes(encoded)


def datagram(index: int, size: int = 72, **fields: Any) -> bytes:
    """Return one that no other is equal to."""
    return header(**fields) + bytes((index * 7 + j) & 255 for j in range(size - 8))


def spell(peer: PlainPeer) -> str:
    host, port = peer.address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Flow:
    """Two peers that are bound to ``VNI`` on a relay, and others that are not."""

    def __init__(self, stack: ExitStack, at: str, *hosts: str) -> None:
        self.peers = [stack.enter_context(PlainPeer(host)) for host in hosts]
        self.conn = stack.enter_context(open_conn((at, 0)))
        self.conn.settimeout(PATIENCE_S)
        self.relay = Relay(self.conn)
        self.relay.bind(f"{VNI}={spell(self.peers[0])},{spell(self.peers[1])}")

    def to(self, peer: PlainPeer) -> tuple[Any, ...]:
        """Return the relay's address as a peer reaches it."""
        return (peer.address[0], self.conn.local_addr()[1])

    def send(self, peer: PlainPeer, *datagrams: bytes) -> None:
        """Let a peer send, and the relay do its work."""
        peer.send(self.to(peer), *datagrams)
        self.pass_on(len(datagrams))

    def send_train(self, peer: PlainPeer, datagrams: list[bytes]) -> None:
        peer.send_train(self.to(peer), b"".join(datagrams), len(datagrams[0]))
        self.pass_on(len(datagrams))

    def pass_on(self, n: int) -> None:
        """Run the relay until it has received ``n`` datagrams more."""
        end = sum(way.n_datagrams for way in self.ways()) + n
        while sum(way.n_datagrams for way in self.ways()) < end:
            self.relay.forward(self.conn.recv_segments())

    def ways(self) -> list[Any]:
        bound = [way for ways in self.relay.flows.values() for way in ways.values()]
        return [*self.relay.drops.values(), *bound]

    def dropped(self) -> dict[str, int]:
        return {k: way.n_datagrams for k, way in self.relay.drops.items() if way.n_datagrams}


@pytest.fixture
def flow() -> Iterator[Flow]:
    with ExitStack() as stack:
        yield Flow(stack, "127.0.0.1", *["127.0.0.1"] * 3)


def test_what_one_peer_sends_the_other_gets_from_the_relay(flow: Flow) -> None:
    one, other, _ = flow.peers
    for source, sink in ((one, other), (other, one)):
        sent = [datagram(i, size) for i, size in enumerate([72, 9, 8, 1408, 8000])]
        flow.send(source, *sent)
        assert sink.collect_pairs(5) == [(data, flow.conn.local_addr()) for data in sent]
        assert source.collect(0) == []
    assert not flow.dropped()


@needs_gso
@each_size
@pytest.mark.parametrize("tail", [0, 8, 60], ids=lambda n: f"tail of {n}")
def test_trains_arrive_intact_and_in_order(flow: Flow, size: int, tail: int) -> None:
    one, other, _ = flow.peers
    sent: list[bytes] = []
    for start in (0, 100, 200):
        train = [datagram(start + i, size) for i in range(50)]
        train += [datagram(99, tail)] if tail else []
        flow.send_train(one, train)
        sent += train
    assert other.collect(len(sent)) == sent
    assert not flow.dropped()


@needs_whole_trains
def test_trains_pass_whole(flow: Flow) -> None:
    one, other, _ = flow.peers
    for _ in range(10):
        flow.send_train(one, [datagram(i) for i in range(64)])
    stats = flow.conn.stats()
    assert (stats.recv_trains, stats.recv_datagrams) == (10, 640)
    assert (stats.send_messages, stats.send_trains, stats.send_datagrams) == (10, 10, 640)
    assert len(other.collect(640)) == 640


@needs_gso
@each_size
@pytest.mark.parametrize("place", [0, 1, 31, 49])
@pytest.mark.parametrize("fate", BAD_HEADERS)
def test_bad_datagram_of_a_train_is_dropped_and_the_others_pass(
    flow: Flow, fate: str, place: int, size: int
) -> None:
    one, other, _ = flow.peers
    train = [datagram(i, size) for i in range(50)]
    train[place] = datagram(place, size, **BAD_HEADERS[fate])
    flow.send_train(one, train)
    assert other.collect(49) == train[:place] + train[place + 1 :]
    assert flow.dropped() == {fate: 1}


@needs_gso
@each_size
@pytest.mark.parametrize("length", [1, 7])
def test_tail_shorter_than_a_header_is_dropped(flow: Flow, size: int, length: int) -> None:
    one, other, _ = flow.peers
    train = [datagram(i, size) for i in range(20)]
    flow.send_train(one, [*train, header()[:length]])
    assert other.collect(20) == train
    assert flow.dropped() == {"bad header": 1}


@needs_whole_trains
def test_parts_of_a_mixed_train_stay_trains(flow: Flow) -> None:
    one, other, _ = flow.peers
    train = [datagram(i) for i in range(64)]
    train[40] = datagram(40, vni=UNKNOWN_VNI)
    flow.send_train(one, train)
    assert other.collect(63) == train[:40] + train[41:]
    # Halved: 0 to 31, 32 to 39, 41 alone, 42 and 43, 44 to 47, 48 to 63.
    assert flow.conn.stats().send_messages == 6


@needs_gso
def test_flows_that_share_a_train_are_told_apart(flow: Flow) -> None:
    one, other, third = flow.peers
    flow.relay.bind(f"{OTHER_VNI}={spell(third)},{spell(one)}")
    train = [datagram(i, vni=(VNI, OTHER_VNI)[i // 3 % 2]) for i in range(60)]
    flow.send_train(one, train)
    for sink, vni in ((other, VNI), (third, OTHER_VNI)):
        assert sink.collect(30) == [data for data in train if data[:8] == header(vni)]
    assert not flow.dropped()


@needs_gso
def test_reserved_bits_may_differ_within_a_train(flow: Flow) -> None:
    one, other, _ = flow.peers
    train = [datagram(i) for i in range(20)]
    train[5] = train[5][:7] + b"\xff" + train[5][8:]
    train[6] = train[6][:1] + b"\x7f" + train[6][2:]
    flow.send_train(one, train)
    assert other.collect(20) == train
    assert not flow.dropped()


def test_nobody_but_the_two_is_heard_or_answered(flow: Flow) -> None:
    one, other, stranger = flow.peers
    with PlainPeer() as bound, PlainPeer() as alike:
        flow.relay.bind(f"{OTHER_VNI}={spell(bound)},{spell(alike)}")
        for source in (stranger, bound):
            flow.send(source, *(datagram(i) for i in range(3)))
        for peer in (one, other, stranger, bound, alike):
            assert peer.collect(0) == []
    assert flow.dropped() == {"unknown peer": 6}


def test_train_of_a_stranger_is_dropped_without_a_look_inside(flow: Flow) -> None:
    train = [datagram(i, control=i % 2 == 0) for i in range(64)]
    mixed = Segments(b"".join(train), len(train[0]), flow.peers[2].address)
    assert flow.relay.passing(mixed) == []
    assert flow.dropped() == {"unknown peer": 64}


STUN_REQUEST = b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)


@pytest.mark.parametrize(
    ("data", "fate"),
    [
        pytest.param(b"", "bad header", id="empty"),
        pytest.param(header()[:7], "bad header", id="short"),
        pytest.param(bytes([1]) + header()[1:] + b"data", "bad header", id="options"),
        pytest.param(header(version=3) + b"data", "bad header", id="version"),
        pytest.param(header(control=True) + b"data", "control", id="control"),
        pytest.param(header(UNKNOWN_VNI) + b"data", "unknown VNI", id="VNI"),
        pytest.param(STUN_REQUEST, "unknown VNI", id="STUN"),
    ],
)
def test_what_is_no_datagram_of_a_flow_is_dropped(flow: Flow, data: bytes, fate: str) -> None:
    one, other, _ = flow.peers
    flow.send(one, data, datagram(1))
    assert other.collect(1) == [datagram(1)]
    assert one.collect(0) == []
    assert flow.dropped() == {fate: 1}


def test_truncated_train_does_not_pass(flow: Flow) -> None:
    train = Segments(datagram(1) * 3, 72, flow.peers[0].address)
    train.truncated = True  # for real it takes a message of more than 64 KiB
    assert flow.relay.passing(train) == []
    assert flow.dropped() == {"truncated": 3}


def test_what_the_kernel_refuses_is_counted_and_the_rest_goes_on(flow: Flow) -> None:
    one, other, _ = flow.peers
    flow.relay.bind(f"{OTHER_VNI}={spell(one)},255.255.255.255:9")  # EACCES
    flow.send(one, datagram(1, vni=OTHER_VNI), datagram(2))
    assert other.collect(1) == [datagram(2)]
    assert not flow.dropped()
    assert flow.conn.stats().send_errors == 1


def test_flow_that_is_bound_while_it_runs_is_known_at_once(flow: Flow) -> None:
    one, _, third = flow.peers
    flow.send(one, datagram(1, vni=OTHER_VNI))
    flow.relay.bind(f"{OTHER_VNI}={spell(one)},{spell(third)}")
    flow.send(one, datagram(2, vni=OTHER_VNI))
    assert third.collect(1) == [datagram(2, vni=OTHER_VNI)]
    assert flow.dropped() == {"unknown VNI": 1}


def test_stop_ends_the_wait_and_may_come_again_and_after_the_end(flow: Flow) -> None:
    flow.relay.stop()
    flow.relay.stop()
    with pytest.raises(TimeoutError):
        flow.conn.recv_segments()
    flow.conn.close()
    flow.relay.stop()


def test_what_was_received_still_goes_out_after_stop(flow: Flow) -> None:
    one, other, _ = flow.peers
    one.send(flow.to(one), datagram(1))
    trains = flow.conn.recv_segments()
    flow.relay.stop()
    flow.relay.forward(trains)
    assert other.collect(1) == [datagram(1)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("8=127.0.0.1:1", "must be VNI=HOST:PORT,HOST:PORT of two peers"),
        ("8=127.0.0.1:1,127.0.0.1:1", "must be VNI=HOST:PORT,HOST:PORT of two peers"),
        ("8=127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "must be VNI=HOST:PORT,HOST:PORT of two"),
        ("8=127.0.0.1:1,127.0.0.1:65538", "127.0.0.1:65538: must be HOST:PORT, the port 1 to"),
        ("8=127.0.0.1:0,127.0.0.1:2", "127.0.0.1:0: must be HOST:PORT, the port 1 to 65535"),
        ("8=127.0.0.1,127.0.0.1:2", "127.0.0.1: must be HOST:PORT"),
        ("8=localhost:1,localhost:2", "'localhost' does not appear to be an IPv4 or IPv6 address"),
        ("8=[::1]:1,127.0.0.1:2", "Address family"),
        ("x=127.0.0.1:1,127.0.0.1:2", "'x'"),
        ("16777216=127.0.0.1:1,127.0.0.1:2", "vni 16777216, must be 0 to 16777215"),
        ("7=127.0.0.1:1,127.0.0.1:2", "a VNI once"),
    ],
)
def test_what_binds_no_two_peers_is_refused(flow: Flow, text: str, told: str) -> None:
    before = dict(flow.relay.flows[VirtualNetworkID(VNI)])
    with pytest.raises((ValueError, OSError), match=re.escape(told)):
        flow.relay.bind(text)
    assert flow.relay.flows == {VirtualNetworkID(VNI): before}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("127.0.0.1:x", "7=127.0.0.1:1,127.0.0.1:2"), "127.0.0.1:x: must be HOST:PORT"),
        (("192.0.2.1:7", "7=127.0.0.1:1,127.0.0.1:2"), "[Errno 99] Cannot assign requested"),
        (("127.0.0.1:0", "7=127.0.0.1:0,127.0.0.1:2"), "127.0.0.1:0: must be HOST:PORT"),
        (
            ("127.0.0.1:0", "7=127.0.0.1:1,127.0.0.1:2", "7=127.0.0.1:1,127.0.0.1:2"),
            "7=127.0.0.1:1,127.0.0.1:2: must be VNI=HOST:PORT,HOST:PORT of two peers, a VNI once",
        ),
    ],
    ids=["port", "address", "port of a peer", "VNI twice"],
)
def test_program_tells_bad_arguments_in_a_line(arguments: tuple[str, ...], told: str) -> None:
    program = typer.Typer()
    program.command()(main)
    done = CliRunner().invoke(program, arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"relay.py: {told}")
    assert len(done.stderr.splitlines()) == 1


@needs_ipv6
@pytest.mark.parametrize(
    ("at", "hosts"),
    [
        ("::1", ("::1", "::1")),
        ("::", ("127.0.0.1", "::1")),
        ("::", ("::1", "127.0.0.1")),
    ],
)
def test_peers_may_be_of_ipv6_or_of_both_families(at: str, hosts: tuple[str, str]) -> None:
    with ExitStack() as stack:
        flow = Flow(stack, at, *hosts)
        one, other = flow.peers
        for source, sink in ((one, other), (other, one)):
            train = [datagram(i) for i in range(40)]
            if sink.sock.family == socket.AF_INET6:
                flow.send(source, *train)
            else:
                flow.send_train(source, train)
            assert sink.collect(40) == train
        assert not flow.dropped()
