"""try_upgrade_to_conn: what it takes over, and what it leaves as it was."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from batching import Conn, UDPConn, _open, listen_udp, metrics, open_conn, try_upgrade_to_conn
from batching._kernel import SO_RXQ_OVFL, SOL_UDP, UDP_GRO
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    gather,
    needs_gso,
    needs_ipv6,
    needs_linux,
    run_script,
    start,
    until,
)

pytestmark = [needs_linux, pytest.mark.kernel]


def udp(family: int = socket.AF_INET, host: str = HOST) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.bind((host, 0))
    return sock


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with udp() as sock:
        yield sock


def test_a_socket_becomes_a_conn_with_its_descriptor(sock: socket.socket, peer: PlainPeer) -> None:
    fd, address = sock.fileno(), sock.getsockname()
    conn = try_upgrade_to_conn(sock, "udp4")
    assert isinstance(conn, Conn)
    with conn:
        assert (conn.fileno(), conn.local_addr()) == (fd, address)
        assert conn.batch_size == 128
        peer.send(address, b"a", b"b")
        assert gather(conn, 2) == [b"a", b"b"]
        assert conn.send_batch([(b"c", peer.address)] * 3) == 3
        assert peer.collect(3) == [b"c"] * 3


def test_the_callers_socket_is_detached(sock: socket.socket) -> None:
    with try_upgrade_to_conn(sock, "udp4"):
        assert sock.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            sock.getsockname()
        assert caught.value.errno == errno.EBADF


def test_the_callers_udp_conn_is_detached(peer: PlainPeer) -> None:
    plain = listen_udp("udp4", ANY_PORT)
    address = plain.local_addr()
    with try_upgrade_to_conn(plain, "udp4") as conn:
        assert isinstance(conn, Conn)
        assert conn.local_addr() == address
        calls: list[Callable[[], object]] = [
            plain.local_addr,
            lambda: plain.read_from_udp_addr_port(bytearray(9)),
            lambda: plain.write_to_udp_addr_port(b"x", peer.address),
            lambda: plain.settimeout(1),
            lambda: plain.set_deadline(1),
        ]
        for call in calls:
            with pytest.raises(OSError, match="Bad file descriptor") as caught:
                call()
            assert caught.value.errno == errno.EBADF
        plain.close()
        conn.send_batch([(b"still open", peer.address)])
        assert peer.collect(1) == [b"still open"]


def test_who_reads_the_udp_conn_meanwhile_gets_ebadf() -> None:
    plain = listen_udp("udp4", ANY_PORT)
    waiting = start(plain.read_from_udp_addr_port, bytearray(9))
    with try_upgrade_to_conn(plain, "udp4"), pytest.raises(OSError, match="Bad file") as caught:
        waiting.result(PATIENCE_S)
    assert caught.value.errno == errno.EBADF


@needs_ipv6
def test_udp6_takes_ipv6_sockets() -> None:
    with udp(socket.AF_INET6, "::") as sock:
        conn = try_upgrade_to_conn(sock, "udp6")
        assert isinstance(conn, Conn)
        with conn, PlainPeer() as peer:  # and dual stack stays dual stack
            conn.send_batch([(b"x", peer.address)])
            assert peer.collect(1) == [b"x"]


@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_the_timeout_is_taken_over(sock: socket.socket, timeout: float | None) -> None:
    sock.settimeout(timeout)
    with try_upgrade_to_conn(sock, "udp4") as conn:
        assert conn.gettimeout() == timeout
        if timeout == 0:
            assert isinstance(conn, Conn)
            with pytest.raises(BlockingIOError):
                conn.recv_batch()


def test_the_deadlines_are_taken_over(peer: PlainPeer) -> None:
    plain = listen_udp("udp4", ANY_PORT)
    plain.set_read_deadline(time.monotonic() - 1)
    plain.settimeout(PATIENCE_S)
    with try_upgrade_to_conn(plain, "udp4") as conn:
        assert isinstance(conn, Conn)
        assert conn.gettimeout() == PATIENCE_S
        peer.send(conn.local_addr(), b"x")
        with pytest.raises(TimeoutError):
            conn.recv_batch()
        assert conn.send_batch([(b"x", peer.address)]) == 1
        conn.set_deadline(None)
        assert gather(conn, 1) == [b"x"]


def test_a_connected_socket_stays_connected(sock: socket.socket, peer: PlainPeer) -> None:
    sock.connect(peer.address)
    with try_upgrade_to_conn(sock, "udp4") as conn:
        assert isinstance(conn, Conn)
        conn.send_batch([(b"x", None)])
        assert peer.collect(1) == [b"x"]


@needs_gso
def test_gro_is_on_only_once_upgraded(sock: socket.socket) -> None:
    assert sock.getsockopt(SOL_UDP, UDP_GRO) == 0
    with try_upgrade_to_conn(sock, "udp4") as conn:
        assert isinstance(conn, Conn)
        with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
            assert twin.getsockopt(SOL_UDP, UDP_GRO) == 1


def state(sock: socket.socket) -> tuple[object, ...]:
    if sock.fileno() < 0:
        return (-1, sock.gettimeout())
    found = (sock.fileno(), sock.gettimeout(), os.get_blocking(sock.fileno()))
    if sock.family == socket.AF_UNIX or sock.type != socket.SOCK_DGRAM:
        return found
    return (
        *found,
        sock.getsockopt(SOL_UDP, UDP_GRO),
        sock.getsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL),
    )


def closed() -> socket.socket:
    sock = udp()
    sock.close()
    return sock


UNFIT = [
    pytest.param(udp, "udp", id="network udp"),
    pytest.param(udp, "UDP4", id="network UDP4"),
    pytest.param(udp, "", id="no network"),
    pytest.param(udp, "udp6", id="IPv4 as udp6"),
    pytest.param(lambda: udp(socket.AF_INET6, "::1"), "udp4", id="IPv6 as udp4", marks=needs_ipv6),
    pytest.param(lambda: socket.socket(socket.AF_INET), "udp4", id="TCP"),
    pytest.param(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "udp4", id="AF_UNIX"),
    pytest.param(closed, "udp4", id="closed"),
]


@pytest.mark.parametrize(("make", "network"), UNFIT)
@pytest.mark.parametrize("timeout", [None, 0.0, 5.0])
def test_an_unfit_socket_is_returned_untouched(
    make: Callable[[], socket.socket], network: str, timeout: float | None
) -> None:
    with make() as sock:
        if sock.fileno() >= 0:
            sock.settimeout(timeout)
        before = state(sock)
        assert try_upgrade_to_conn(sock, network, 1, "unfit") is sock
        assert state(sock) == before
        assert "unfit" not in metrics.counters()


def test_an_unfit_socket_is_untouched_despite_a_default_timeout(sock: socket.socket) -> None:
    before = state(sock)
    socket.setdefaulttimeout(3.0)
    try:
        assert try_upgrade_to_conn(sock, "udp6") is sock
    finally:
        socket.setdefaulttimeout(None)
    assert state(sock) == before


def test_an_unfit_udp_conn_still_works(peer: PlainPeer) -> None:
    with listen_udp("udp4", ANY_PORT) as plain:
        assert try_upgrade_to_conn(plain, "udp6") is plain
        peer.send(plain.local_addr(), b"abc")
        buffer = bytearray(9)
        assert plain.read_from_udp_addr_port(buffer) == (3, peer.address)
    closed = try_upgrade_to_conn(plain, "udp4")
    assert closed is plain


@pytest.mark.parametrize("thing", [None, 7, object(), "udp4"], ids=repr)
def test_what_is_no_socket_is_returned(thing: Any) -> None:
    assert try_upgrade_to_conn(thing, "udp4") is thing


def test_a_conn_is_returned_as_it_is() -> None:
    with open_conn(ANY_PORT) as conn:
        assert try_upgrade_to_conn(conn, "udp4") is conn


@pytest.mark.parametrize("what", ["not Linux", "an old Linux"])
def test_another_system_is_not_upgraded(
    sock: socket.socket, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state(sock)
    if what == "not Linux":
        monkeypatch.setattr(_open, "IS_LINUX", False)
    else:
        monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release="2.6.32-754.el6"))
    assert try_upgrade_to_conn(sock, "udp4") is sock
    assert state(sock) == before


@pytest.mark.parametrize("batch_size", [0, -1, 1025])
def test_batch_size_has_limits(sock: socket.socket, batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size {batch_size}, must be 1 to 1024"):
        try_upgrade_to_conn(sock, "udp4", batch_size)
    assert sock.fileno() >= 0


@pytest.mark.parametrize("make", ["batching.listen_udp('udp4', addr)", "plain_socket()"])
@pytest.mark.parametrize("is_probed", [True, False], ids=["probed before", "first of all"])
def test_emfile_leaves_it_untouched(make: str, is_probed: bool) -> None:
    script = f"""
import contextlib, errno, os, resource, socket
import batching, batching.metrics
addr = ("127.0.0.1", 0)
def plain_socket():
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(addr)
    return sock
if {is_probed}:
    batching.open_conn(addr).close()
pconn = {make}
pconn.settimeout(5)
fd = pconn.fileno()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
filler = []
with contextlib.suppress(OSError):
    while True:
        filler.append(os.dup(0))
def state():
    sock = socket.socket(fileno=fd)
    found = sock.getsockopt(17, 104), sock.getsockopt(socket.SOL_SOCKET, 40), os.get_blocking(fd)
    sock.detach()
    return found
before = state()
try:
    batching.try_upgrade_to_conn(pconn, "udp4", 128, "drops")
except OSError as error:
    assert error.errno == errno.EMFILE, error
else:
    raise AssertionError("upgraded without a descriptor")
assert state() == before, (state(), before)
assert pconn.fileno() == fd and pconn.gettimeout() == 5
assert batching.metrics.counters() == {{}}
for n in filler:
    os.close(n)
with batching.try_upgrade_to_conn(pconn, "udp4") as conn:
    conn.settimeout(5)
    conn.send_batch([(b"x", conn.local_addr())])
    assert conn.recv_batch() == [(b"x", conn.local_addr())]
"""
    run_script(script)


@pytest.mark.parametrize("way", ["open_conn", "try_upgrade_to_conn"])
def test_drops_are_counted_under_their_name(peer: PlainPeer, way: str) -> None:
    name = f"drops of {way}"
    assert name not in metrics.counters()
    if way == "open_conn":
        conn = open_conn(ANY_PORT, receive_buffer=8192, rxq_overflows_metric_name=name)
    else:
        sock = udp()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        upgraded = try_upgrade_to_conn(sock, "udp4", rxq_overflows_metric_name=name)
        assert isinstance(upgraded, Conn)
        conn = upgraded
    with conn:
        assert metrics.counters()[name] == 0
        for _ in range(2):  # the option is cumulative, the counter takes the differences
            before = conn.stats()
            peer.send(conn.local_addr(), *[bytes(100)] * 300)
            until(lambda: conn.stats().recv_queue_drops > before.recv_queue_drops)  # noqa: B023
            read_all(conn)
            # The kernel tells with the next arrival that finds room.
            peer.send(conn.local_addr(), b"after")
            assert conn.recv_batch() == [(b"after", peer.address)]
            stats = conn.stats()
            received = stats.recv_datagrams - before.recv_datagrams
            lost = stats.recv_queue_drops - before.recv_queue_drops
            assert received + lost == 301
            assert lost > 100
            assert metrics.counters()[name] == stats.recv_queue_drops
    assert metrics.counters()[name] == conn.stats().recv_queue_drops  # they never go back


def read_all(conn: Conn) -> None:
    conn.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            conn.recv_batch()
    conn.settimeout(PATIENCE_S)


def test_a_udp_conn_of_ones_own_socket_can_be_upgraded(sock: socket.socket) -> None:
    with try_upgrade_to_conn(UDPConn(sock), "udp4") as conn:
        assert isinstance(conn, Conn)


def test_drops_from_before_are_not_counted(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source:
        for _ in range(200):
            source.sendto(bytes(500), sock.getsockname())
        conn = try_upgrade_to_conn(sock, "udp4", rxq_overflows_metric_name="upgrade.before")
        assert isinstance(conn, Conn)
        with conn:
            assert conn.stats().recv_queue_drops == 0
            conn.recv_batch()
            source.sendto(b"after", conn.local_addr())
            conn.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                while conn.recv_batch():
                    pass
            assert metrics.counters()["upgrade.before"] == 0


def test_errors_that_nobody_reads_do_not_keep_a_reader_busy(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR, include/uapi/linux/in.h
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        dead = closed.getsockname()
    sock.sendto(b"x", dead)
    conn = try_upgrade_to_conn(sock, "udp4")
    assert isinstance(conn, Conn)
    with conn:
        with contextlib.suppress(ConnectionRefusedError):
            conn.write_to_udp_addr_port(b"x", dead)
        conn.settimeout(0.1)
        for _ in range(3):
            with contextlib.suppress(ConnectionRefusedError, TimeoutError):
                conn.recv_batch()
        assert conn.stats().recv_calls < 30
