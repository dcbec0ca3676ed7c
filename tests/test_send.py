"""Sending through send_batch, over real sockets on loopback; segments have their own file."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import gc
import socket
import subprocess
import weakref
from collections.abc import Callable, Iterator

import pytest

from batching import Conn, Segments, SendError, open_conn
from loopback import (
    HOST,
    Address,
    PlainPeer,
    needs_gso,
    needs_ipv6,
    needs_linux,
    needs_room,
    run_script,
    start,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def other() -> Iterator[PlainPeer]:
    with PlainPeer() as other:
        yield other


def numbered(n: int, size: int = 8) -> list[bytes]:
    return [i.to_bytes(4, "big") * (size // 4) for i in range(n)]


def test_datagrams_arrive_from_the_local_address(conn: Conn, peer: PlainPeer) -> None:
    assert conn.send_batch([(b"a", peer.address), (b"bc", peer.address)]) == 2
    assert peer.collect_pairs(2) == [(b"a", conn.local_addr()), (b"bc", conn.local_addr())]


def test_nothing_to_send_is_no_error(conn: Conn) -> None:
    assert conn.send_batch([]) == 0
    assert conn.stats().send_calls == 0


def test_any_iterable_of_pairs_will_do(conn: Conn, peer: PlainPeer) -> None:
    assert conn.send_batch((b"%d" % i, peer.address) for i in range(3)) == 3
    assert conn.send_batch(iter([[b"3", peer.address]])) == 1  # type: ignore[arg-type]
    assert peer.collect(4) == [b"0", b"1", b"2", b"3"]


def test_alternating_destinations_keep_their_order(
    conn: Conn, peer: PlainPeer, other: PlainPeer
) -> None:
    sent = numbered(300)
    assert conn.send_batch(zip(sent, 150 * [peer.address, other.address], strict=True)) == 300
    assert peer.collect(150) == sent[::2]
    assert other.collect(150) == sent[1::2]


@needs_gso
def test_trains_form_though_destinations_alternate(
    conn: Conn, peer: PlainPeer, other: PlainPeer
) -> None:
    n = 2 * conn.offload.max_segments
    conn.send_batch(zip(numbered(n), n // 2 * [peer.address, other.address], strict=True))
    stats = conn.stats()
    assert (stats.send_calls, stats.send_messages, stats.send_trains) == (
        (1, 2, 2) if conn.offload.backend == "native" else (2, 2, 2)
    )
    assert (stats.send_datagrams, stats.send_bytes) == (n, 8 * n)


@needs_room
def test_lists_of_thousands_go_out(conn: Conn, peer: PlainPeer, other: PlainPeer) -> None:
    sent = numbered(9000, size=64)  # more than a plan takes at one time
    addresses = 3000 * [peer.address, peer.address, other.address]
    collected = start(peer.collect, 6000), start(other.collect, 3000)
    assert conn.send_batch(zip(sent, addresses, strict=True)) == 9000
    assert collected[0].result() == [data for i, data in enumerate(sent) if i % 3 < 2]
    assert collected[1].result() == sent[2::3]


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([1000, 400, 1000], id="a short one in the middle"),
        pytest.param([400, 1000, 1000, 400], id="short ones at both ends"),
        pytest.param([0], id="one empty"),
        pytest.param([0, 0, 0], id="all empty"),
        pytest.param([5, 0, 5, 5, 0], id="empty ones between"),
        pytest.param([65507, 1, 65507], id="the longest of IPv4"),
        pytest.param([9000] * 20, id="longer together than a message may be"),
        pytest.param([1400] * 200 + [3], id="more than a train may have"),
        pytest.param([1] * 300, id="of one byte"),
        pytest.param(list(range(60, 0, -1)), id="ever shorter"),
        pytest.param(list(range(60)), id="ever longer"),
    ],
)
@needs_room
def test_sizes_mix_as_they_like(conn: Conn, peer: PlainPeer, sizes: list[int]) -> None:
    sent = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    assert conn.send_batch([(data, peer.address) for data in sent]) == len(sizes)
    assert peer.collect(len(sizes)) == sent


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(bytearray(b"abc"), b"abc", id="bytearray"),
        pytest.param(memoryview(b"abcdef")[2:5], b"cde", id="memoryview"),
        pytest.param(array.array("H", [1, 2]), array.array("H", [1, 2]).tobytes(), id="array"),
        pytest.param((ctypes.c_uint32 * 2)(), bytes(8), id="ctypes"),
        pytest.param(memoryview(bytes(6)).cast("B", (2, 3)), bytes(6), id="2 dimensions"),
        pytest.param(memoryview(array.array("I")), b"", id="empty array"),
    ],
)
def test_data_may_be_any_contiguous_buffer(
    conn: Conn, peer: PlainPeer, data: bytes, expected: bytes
) -> None:
    conn.send_batch([(data, peer.address)] * 3)
    assert conn.write_to_udp_addr_port(data, peer.address) == len(expected)
    assert peer.collect(4) == [expected] * 4


def test_buffers_are_let_go_of(conn: Conn, peer: PlainPeer) -> None:
    data = bytearray(b"abc")
    conn.send_batch([(data, peer.address)])
    conn.write_batch_to([data], peer.address)
    data.append(1)  # BufferError while somebody holds it


def test_none_is_the_connected_peer(peer: PlainPeer) -> None:
    with open_conn(None, peer.address) as conn:
        pairs: list[tuple[bytes, Address | None]] = [
            (b"0", None), (b"1", peer.address), (b"2", None), (b"3", peer.address)
        ]  # fmt: skip
        assert conn.send_batch(pairs) == 4
        assert conn.write_to_udp_addr_port(b"4", None) == 1
        assert peer.collect(5) == [b"0", b"1", b"2", b"3", b"4"]


def test_a_connected_conn_sends_elsewhere_too(peer: PlainPeer, other: PlainPeer) -> None:
    with open_conn(None, peer.address) as conn:
        conn.send_batch([(b"a", None), (b"b", other.address), (b"c", None)])
        assert peer.collect(2) == [b"a", b"c"]
        assert other.collect(1) == [b"b"]


def test_too_long_a_datagram_is_its_own_error(
    conn: Conn, peer: PlainPeer, other: PlainPeer
) -> None:
    data = [b"0", bytes(65508), b"2", bytes(70000), b"4"]
    addresses = 3 * [peer.address] + 2 * [other.address]
    with pytest.raises(SendError) as caught:
        conn.send_batch(zip(data, addresses, strict=True))
    error = caught.value
    assert error.errno == errno.EMSGSIZE
    assert {i: each.errno for i, each in error.errors.items()} == {
        1: errno.EMSGSIZE,
        3: errno.EMSGSIZE,
    }
    assert (error.sent, error.unsent) == (3, [])
    assert peer.collect(2) == [b"0", b"2"]
    assert other.collect(1) == [b"4"]
    stats = conn.stats()
    assert (stats.send_datagrams, stats.send_errors) == (3, 2)
    assert not stats.gso_fallbacks


@needs_linux
def test_port_0_is_an_error_of_its_own(conn: Conn, peer: PlainPeer) -> None:
    nowhere = (HOST, 0)
    with pytest.raises(SendError) as caught:
        conn.send_batch([(b"a", peer.address), (b"b", nowhere), (b"c", peer.address)] * 2)
    error = caught.value
    assert error.errno == errno.EINVAL
    assert {i: each.errno for i, each in error.errors.items()} == {
        1: errno.EINVAL,
        4: errno.EINVAL,
    }
    assert (error.sent, error.unsent) == (4, [])
    assert peer.collect(4) == [b"a", b"c", b"a", b"c"]
    assert not conn.stats().gso_fallbacks  # GSO was not at fault


@needs_linux
def test_a_pending_refusal_costs_one_datagram_and_a_train_none() -> None:
    with PlainPeer() as peer, open_conn(None, peer.address) as conn:
        peer.sock.close()
        conn.send_batch([(b"into the void", None)])
        with pytest.raises(SendError) as caught:
            conn.send_batch([(b"x", None)])
        assert caught.value.errno == errno.ECONNREFUSED
        assert list(caught.value.errors) == [0]
        assert conn.send_batch([(b"x", None)]) == 1


@needs_linux
def test_a_single_write_raises_the_error_itself(conn: Conn) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        conn.write_to_udp_addr_port(b"x", (HOST, 0))
    assert not isinstance(caught.value, SendError)
    assert caught.value.errno == errno.EINVAL


class Data(bytearray):
    """Can be referred to weakly, as a bytearray cannot."""


@pytest.mark.parametrize(
    "call",
    [
        lambda conn, data: conn.write_to_udp_addr_port(data, conn.local_addr()),
        lambda conn, data: conn.send_batch([(data, conn.local_addr())]),
        lambda conn, data: conn.write_batch_to([data], conn.local_addr()),
        lambda conn, data: conn.send_segments([Segments(data, len(data), conn.local_addr())]),
    ],
    ids=["write_to_udp_addr_port", "send_batch", "write_batch_to", "send_segments"],
)
def test_what_failed_is_let_go_of_with_the_error(
    conn: Conn, call: Callable[[Conn, Data], object]
) -> None:
    data = Data(70_000)
    seen = weakref.ref(data)
    gc.disable()  # it would let go of cycles, too
    try:
        with contextlib.suppress(OSError):
            pytest.fail(f"sent: {call(conn, data)}")
        del data
        assert seen() is None
    finally:
        gc.enable()


@needs_ipv6
@pytest.mark.parametrize("n_fields", [2, 3, 4])
def test_an_ipv6_address_has_two_to_four_fields(n_fields: int) -> None:
    with open_conn(("::1", 0)) as conn, PlainPeer("::1") as peer:
        conn.send_batch([(b"a", peer.address[:n_fields])] * 2)
        assert peer.collect_pairs(2) == [(b"a", conn.local_addr())] * 2


@needs_ipv6
def test_the_longest_datagram_of_ipv6_is_20_bytes_longer() -> None:
    with open_conn(("::1", 0)) as conn, PlainPeer("::1") as peer:
        sent = [bytes(65507), bytes(65527), bytes(65528), b"x"]
        with pytest.raises(SendError) as caught:
            conn.send_batch([(data, peer.address) for data in sent])
        assert [(i, e.errno) for i, e in caught.value.errors.items()] == [(2, errno.EMSGSIZE)]
        assert peer.collect(3) == [sent[0], sent[1], sent[3]]


@needs_ipv6
@pytest.mark.parametrize("host", [HOST, "::ffff:127.0.0.1"], ids=["IPv4", "v4-mapped"])
def test_a_dual_stack_conn_sends_to_ipv4(peer: PlainPeer, host: str) -> None:
    with open_conn(("::", 0)) as conn, PlainPeer("::1") as other:
        to = (host, peer.address[1])
        conn.send_batch([(b"a", to), (b"b", other.address)] * 30)
        assert peer.collect_pairs(30) == [(b"a", (HOST, conn.local_addr()[1]))] * 30
        assert other.collect(30) == [b"b"] * 30
        with pytest.raises(SendError):  # as IPv4 it is too long
            conn.send_batch([(bytes(65508), to)])


@needs_ipv6
def test_two_spellings_of_a_destination_are_one(peer: PlainPeer) -> None:
    sent = numbered(20)
    port = peer.address[1]
    with open_conn(("::", 0)) as conn:
        spellings = 10 * [(HOST, port), ("::ffff:7f00:1", port, 0, 0)]
        conn.send_batch(zip(sent, spellings, strict=True))
        assert peer.collect(20) == sent
        assert conn.stats().send_messages == (1 if conn.offload.gso else 20)


def _has_namespaces() -> bool:
    command = "ip link set lo up && ip -6 address add fe80::1/64 dev lo nodad"
    try:
        done = subprocess.run(
            ["unshare", "-Urn", "sh", "-c", command], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(
    not _has_namespaces(), reason="needs unshare, ip and leave to make a network namespace"
)
@pytest.mark.parametrize(
    "spelling",
    [
        pytest.param("('fe80::1%lo', port)", id="zone by name"),
        pytest.param("('fe80::1%1', port)", id="zone by index"),
        pytest.param("('fe80::1', port, 0, 1)", id="scope id"),
        pytest.param("('fe80::1%lo', port, 0, 0)", id="zone and no scope id"),
    ],
)
def test_link_local_addresses_keep_their_scope(spelling: str) -> None:
    script = f"""
import ctypes, os, pathlib, subprocess
uid, gid = os.getuid(), os.getgid()
assert not ctypes.CDLL(None).unshare(0x50000000)  # CLONE_NEWUSER | CLONE_NEWNET
for name, text in [("setgroups", "deny"), ("uid_map", f"0 {{uid}} 1"), ("gid_map", f"0 {{gid}} 1")]:
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
for command in ["ip link set lo up", "ip -6 address add fe80::1/64 dev lo nodad"]:
    subprocess.run(command.split(), check=True)
# The kernel makes the address's route in a work queue; until then it drops what is sent there.
while "fe80" + "1".zfill(28) + " 80 " not in pathlib.Path("/proc/net/ipv6_route").read_text():
    pass
import batching
with batching.open_conn(("::", 0)) as conn, batching.open_conn(("fe80::1%lo", 0)) as receiver:
    port = receiver.local_addr()[1]
    receiver.settimeout(10)
    conn.send_batch([(b"x", {spelling})] * 3)
    n = 0
    while n < 3:
        for data, sender in receiver.recv_batch():
            assert sender == ("fe80::1", conn.local_addr()[1], 0, 1), sender
            receiver.send_batch([(data, sender)])
            n += 1
    conn.settimeout(10)
    while n:
        n -= len(conn.recv_batch())
with batching.open_conn(None, {spelling}) as connected:
    connected.send_batch([(b"x", None), (b"x", {spelling})])
"""
    run_script(script)


def test_a_generator_that_raises_sends_nothing(conn: Conn, peer: PlainPeer) -> None:
    def pairs() -> Iterator[tuple[bytes, Address]]:
        yield b"a", peer.address
        raise LookupError("no more")

    with pytest.raises(LookupError):
        conn.send_batch(pairs())
    assert conn.send_batch([(b"b", peer.address)]) == 1
    assert peer.collect(1) == [b"b"]


def test_a_broadcast_needs_leave(conn: Conn) -> None:
    with pytest.raises(SendError) as caught:
        conn.send_batch([(b"x", ("<broadcast>", 9))])
    assert caught.value.errno == errno.EACCES


def test_the_socket_is_left_as_a_plain_one_is(conn: Conn, peer: PlainPeer) -> None:
    conn.send_batch([(b"abc", peer.address)] * 10)
    with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
        twin.sendto(bytes(100), peer.address)  # UDP_SEGMENT is not left on
    assert peer.collect(11) == [b"abc"] * 10 + [bytes(100)]
