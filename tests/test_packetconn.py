"""UDPConn, the plain connection, and PacketConn, what it has in common with a Conn."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from batching import PacketConn, UDPConn, listen_udp, open_conn
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    Address,
    PlainPeer,
    needs_ipv6,
    needs_linux,
    start,
    until,
)


@pytest.fixture
def plain() -> Iterator[UDPConn]:
    with listen_udp("udp4", ANY_PORT) as plain:
        plain.settimeout(PATIENCE_S)
        yield plain


def test_both_kinds_are_packet_conns(plain: UDPConn) -> None:
    with open_conn(ANY_PORT) as conn:
        each: PacketConn
        for each in (plain, conn):
            assert isinstance(each, PacketConn)
    assert not isinstance(socket.socket, PacketConn)


def test_both_kinds_write_alike(plain: UDPConn, peer: PlainPeer) -> None:
    with open_conn(ANY_PORT) as conn:
        conns: list[PacketConn] = [plain, conn]
        for each in conns:
            for data in (b"abc", bytearray(2), b""):
                assert each.write_to_udp_addr_port(data, peer.address) == len(data)
            sender = each.local_addr()
            assert peer.collect_pairs(3) == [(d, sender) for d in (b"abc", bytes(2), b"")]


def test_a_read_fills_a_buffer(plain: UDPConn, peer: PlainPeer) -> None:
    peer.send(plain.local_addr(), b"abc", b"", b"longer than it")
    buffer = bytearray(b"......")
    assert plain.read_from_udp_addr_port(buffer) == (3, peer.address)
    assert buffer == b"abc..."
    assert plain.read_from_udp_addr_port(buffer) == (0, peer.address)
    assert plain.read_from_udp_addr_port(memoryview(buffer)) == (6, peer.address)
    assert buffer == b"longer"


@pytest.mark.parametrize(
    ("network", "addr"),
    [
        pytest.param("udp4", ANY_PORT, id="udp4"),
        pytest.param("udp4", ("", 0), id="udp4 wildcard"),
        pytest.param("udp6", ("::1", 0), id="udp6", marks=needs_ipv6),
        pytest.param("udp6", ("::", 0, 0, 0), id="udp6 wildcard", marks=needs_ipv6),
    ],
)
def test_listen_udp_binds(network: str, addr: Address) -> None:
    with listen_udp(network, addr) as plain:
        assert plain.local_addr()[0] == (addr[0] or "0.0.0.0")
        assert plain.local_addr()[1] > 0
        assert plain.gettimeout() is None
        assert plain.fileno() >= 0


@needs_ipv6
def test_udp6_is_ipv6_only() -> None:
    with listen_udp("udp6", ("::", 0)) as plain:
        with listen_udp("udp4", ("0.0.0.0", plain.local_addr()[1])):
            pass
        with pytest.raises(ValueError, match="IPv6 only"):
            plain.write_to_udp_addr_port(b"x", (HOST, 9))
        with PlainPeer("::1") as peer:
            plain.write_to_udp_addr_port(b"x", peer.address[:2])
            assert peer.collect(1) == [b"x"]


BAD_LISTEN: list[Any] = [
    pytest.param("udp", ANY_PORT, ValueError, "'udp', must be 'udp4' or 'udp6'", id="network"),
    pytest.param("udp4", ("localhost", 0), ValueError, "resolve it first", id="host name"),
    pytest.param("udp4", ("::1", 0), ValueError, "IPv6 address", id="IPv6 as udp4"),
    pytest.param("udp6", ANY_PORT, ValueError, "IPv6 only", id="IPv4 as udp6"),
    pytest.param("udp4", (HOST, 65536), ValueError, "65536.*65535", id="port"),
    pytest.param("udp4", None, TypeError, "tuple", id="None"),
]


@pytest.mark.parametrize(("network", "addr", "kind", "message"), BAD_LISTEN)
def test_listen_udp_tells_what_is_wrong(
    network: str, addr: Any, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        listen_udp(network, addr)


@needs_linux
def test_none_needs_a_connected_socket(plain: UDPConn, peer: PlainPeer) -> None:
    with pytest.raises(OSError, match="address") as caught:
        plain.write_to_udp_addr_port(b"x", None)
    assert caught.value.errno == errno.EDESTADDRREQ
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(peer.address)
    with UDPConn(sock) as connected:
        assert connected.write_to_udp_addr_port(b"x", None) == 1
        assert peer.collect(1) == [b"x"]


def test_a_udp_conn_has_its_sockets_timeout() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(0.01)
    with UDPConn(sock) as plain:
        assert plain.gettimeout() == 0.01
        with pytest.raises(TimeoutError) as caught:
            plain.read_from_udp_addr_port(bytearray(9))
        assert caught.value.errno == errno.ETIMEDOUT
        plain.setblocking(False)
        with pytest.raises(BlockingIOError):
            plain.read_from_udp_addr_port(bytearray(9))


def test_a_passed_deadline_raises_though_data_waits(plain: UDPConn, peer: PlainPeer) -> None:
    peer.send(plain.local_addr(), b"x")
    plain.set_read_deadline(time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        plain.read_from_udp_addr_port(bytearray(9))
    assert plain.write_to_udp_addr_port(b"y", peer.address) == 1
    plain.set_write_deadline(time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        plain.write_to_udp_addr_port(b"y", peer.address)
    plain.set_deadline(None)
    assert plain.read_from_udp_addr_port(bytearray(9)) == (1, peer.address)


def test_close_and_a_new_deadline_end_a_wait(plain: UDPConn) -> None:
    waiting = start(plain.read_from_udp_addr_port, bytearray(9))
    plain.set_read_deadline(time.monotonic() - 1)
    with pytest.raises(TimeoutError):
        waiting.result(PATIENCE_S)
    plain.set_read_deadline(None)
    waiting = start(plain.read_from_udp_addr_port, bytearray(9))
    plain.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        waiting.result(PATIENCE_S)
    assert caught.value.errno == errno.EBADF


def test_giving_up_leaves_the_descriptor_open(plain: UDPConn) -> None:
    address, fd = plain.local_addr(), plain.fileno()
    with socket.socket(fileno=plain.give_up()) as sock:
        assert (sock.fileno(), sock.getsockname()) == (fd, address)
    assert plain.fileno() == -1
    plain.close()


def test_the_repr_tells_the_state(plain: UDPConn) -> None:
    assert repr(plain) == f"<batching.UDPConn {plain.local_addr()}>"
    plain.close()
    assert repr(plain) == "<batching.UDPConn closed>"


def test_two_readers_share_a_udp_conn(plain: UDPConn, peer: PlainPeer) -> None:
    waiting = [start(plain.read_from_udp_addr_port, bytearray(9)) for _ in range(2)]
    peer.send(plain.local_addr(), b"x")
    until(lambda: any(each.done() for each in waiting))
    peer.send(plain.local_addr(), b"y")
    assert [each.result(PATIENCE_S) for each in waiting] == [(1, peer.address)] * 2


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells a shut-down socket")
def test_reading_from_a_socket_that_was_shut_down_ends() -> None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", 9))
    with UDPConn(sock) as plain:
        with socket.socket(fileno=socket.dup(plain.fileno())) as twin:
            twin.shutdown(socket.SHUT_RD)
        plain.settimeout(PATIENCE_S)
        with pytest.raises(OSError, match="shut down") as raised:
            plain.read_from_udp_addr_port(bytearray(9))
        assert raised.value.errno == errno.ESHUTDOWN
