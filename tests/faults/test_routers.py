"""What routers and hosts behind them say of datagrams: ICMP errors, and the MTU of a path."""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest

from batching import Conn, Segments, SendError, TransportError, open_conn
from loopback import PATIENCE_S, PlainPeer, needs_ipv6, until
from netns import Link, needs_command, needs_netns
from routed import MTU, Routed
from routed import routed as routed_namespaces

pytestmark = [needs_netns, needs_ipv6, pytest.mark.kernel]

LARGE: Final = 1400  # bytes: the first wire takes it, the second does not
HEADERS: Final = {4: 28, 6: 48}
ICMP: Final = {4: "icmp", 6: "icmp6"}


class View(NamedTuple):
    """The routed namespaces in one version of IP."""

    net: Routed
    version: int

    def pick(self, hosts: tuple[str, str]) -> str:
        return hosts[self.version == 6]

    def open(self, *, remote: tuple[str, int] | None = None, mode: str | None = "do") -> Conn:
        with self.net.left:
            return open_conn(
                (self.pick(Link.LEFT), 0), remote, transport_errors=True, path_mtu_discovery=mode
            )

    def peer(self) -> PlainPeer:
        with self.net.host:
            return PlainPeer(self.pick(Routed.HOST))

    def address(self, host: str, port: int = 9) -> tuple[str, int] | tuple[str, int, int, int]:
        return (host, port) if self.version == 4 else (host, port, 0, 0)


@pytest.fixture(scope="module")
def net() -> Iterator[Routed]:
    with routed_namespaces() as net:
        yield net


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def view(request: pytest.FixtureRequest, net: Routed) -> Iterator[View]:
    yield View(net, request.param)
    for version in ("-4", "-6"):  # what was learnt of the path
        net.left.ip(f"{version} route flush cache")


def await_errors(conn: Conn, n: int = 1) -> list[TransportError]:
    """Return ``n`` errors, which must be all."""
    found: list[TransportError] = []

    def have_come() -> bool:
        found.extend(conn.recv_transport_errors())
        return len(found) >= n

    until(have_come)
    assert len(found) == n
    return found


def test_a_closed_port_of_a_host_is_told_by_the_host(view: View) -> None:
    with view.peer() as peer:
        dead = peer.address
    with view.open() as conn:
        conn.send_batch([(b"x", dead)])
        (error,) = await_errors(conn)
        kind = {4: (3, 3), 6: (1, 4)}[view.version]
        offender = view.address(view.pick(Routed.HOST), 0)
        assert error == (errno.ECONNREFUSED, ICMP[view.version], *kind, None, dead, offender)


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        pytest.param(
            Routed.UNREACHABLE,
            {4: (errno.EHOSTUNREACH, 3, 1), 6: (errno.ENETUNREACH, 1, 0)},
            id="unreachable",
        ),
        pytest.param(
            Routed.PROHIBITED,
            {4: (errno.EHOSTUNREACH, 3, 13), 6: (errno.EACCES, 1, 1)},
            id="prohibited",
        ),
    ],
)
def test_a_route_that_ends_at_a_router_is_told_by_it(
    view: View, hosts: tuple[str, str], told: dict[int, tuple[int, int, int]]
) -> None:
    to = view.address(view.pick(hosts))
    code, *kind = told[view.version]
    found: list[TransportError] = []
    with view.open() as conn:

        def is_told() -> bool:  # not each time: a router says it now and then
            conn.send_batch([(b"x", to)])
            found.extend(conn.recv_transport_errors())
            return bool(found)

        until(is_told)
        offender = view.address(view.pick(Routed.ROUTER), 0)
        assert set(found) == {(code, ICMP[view.version], *kind, None, to, offender)}


@needs_command("nft")
def test_a_firewall_that_rejects_is_told_and_the_living_get_all(view: View) -> None:
    hook = "type filter hook forward priority 0;"
    rule = "udp dport 7 reject with icmpx type admin-prohibited"
    router = view.net.router
    router.run("nft", "-f", "-", feed=f"table inet t {{ chain c {{ {hook} {rule}; }}; }}")
    to = view.address(view.pick(Routed.HOST), 7)
    try:
        with view.open() as conn, view.peer() as peer:
            conn.send_batch([(b"x", to)])
            (error,) = await_errors(conn)
            # Each may meet what is said of one before.
            for i in range(20):
                conn.send_batch([(b"x", to), (b"%d" % i, peer.address)])
            assert peer.collect(20) == [b"%d" % i for i in range(20)]
            assert conn.stats().send_errors == 0
    finally:
        router.run("nft", "delete", "table", "inet", "t")
    code, *kind = {4: (errno.EHOSTUNREACH, 3, 13), 6: (errno.EACCES, 1, 1)}[view.version]
    assert (error.errno, error.type, error.code, error.addr) == (code, *kind, to)


def too_large(view: View, n_bytes: int, to: object) -> str:
    fits = MTU - HEADERS[view.version]
    return (
        f"[Errno {errno.EMSGSIZE}] {os.strerror(errno.EMSGSIZE)}: {n_bytes} bytes of data,"
        f" the path to {to} takes {fits} (MTU {MTU})"
    )


def test_a_router_tells_the_mtu_of_the_path(view: View) -> None:
    fits = MTU - HEADERS[view.version]
    with view.peer() as peer, view.open() as conn:
        to = peer.address
        with view.net.left:
            assert conn.path_mtu(to) == 1500
        assert conn.write_to_udp_addr_port(bytes(LARGE), to) == LARGE  # lost on the way
        (error,) = await_errors(conn)
        kind = {4: (3, 4), 6: (2, 0)}[view.version]
        offender = view.address(view.pick(Routed.ROUTER), 0)
        assert error == (errno.EMSGSIZE, ICMP[view.version], *kind, MTU, to, offender)
        with view.net.left:
            assert conn.path_mtu(to) == MTU
            with pytest.raises(SendError) as caught:
                conn.send_batch([(b"a", to), (bytes(LARGE), to), (bytes(fits), to)])
            assert (caught.value.sent, list(caught.value.errors)) == (2, [1])
            assert str(caught.value.errors[1]) == too_large(view, LARGE, to)
        assert [len(data) for data in peer.collect(2)] == [1, fits]


def test_what_a_train_is_too_large_for_is_told_of_each_of_its_datagrams(view: View) -> None:
    with view.peer() as peer, view.open() as conn, view.net.left:
        to = peer.address
        conn.send_batch([(bytes(LARGE), to)])
        await_errors(conn)
        train = Segments(bytes(3 * LARGE + 10), LARGE, to)
        with pytest.raises(SendError) as caught:
            conn.send_segments([Segments(b"ab", 1, to), train])
        part = caught.value.errors[1]
        assert isinstance(part, SendError)
        assert (part.sent, list(part.errors)) == (1, [0, 1, 2])
        assert {str(error) for error in part.errors.values()} == {too_large(view, LARGE, to)}
        assert sorted(map(len, peer.collect(3))) == [1, 1, 10]


def test_a_connected_one_learns_it_too(view: View) -> None:
    with view.peer() as peer, view.open(remote=peer.address[:2]) as conn:
        assert conn.path_mtu() == 1500
        conn.send_batch([(bytes(LARGE), None)])
        (error,) = await_errors(conn)
        assert error.mtu == MTU
        assert conn.path_mtu() == conn.path_mtu(peer.address) == MTU
        with pytest.raises(OSError, match=rf"takes {MTU - HEADERS[view.version]} \(MTU {MTU}\)"):
            conn.write_to_udp_addr_port(bytes(LARGE), None)


def test_what_is_said_of_a_large_datagram_costs_no_other(view: View) -> None:
    with view.peer() as peer, view.open() as conn:
        conn.send_batch([(bytes(LARGE), peer.address)])
        poller = select.poll()
        poller.register(conn, 0)
        assert poller.poll(PATIENCE_S * 1000)
        # The pending EMSGSIZE is no reason to spare this destination trains of 1000.
        assert conn.send_batch([(bytes(1000), peer.address)] * 20) == 20
        assert len(peer.collect(20)) == 20
        assert conn.stats().gso_fallbacks == {}
        assert await_errors(conn)[0].mtu == MTU


def test_fragments_are_sent_where_they_may_be(view: View) -> None:
    with view.peer() as peer, view.open(mode="want") as conn, view.net.left:
        conn.send_batch([(bytes(LARGE), peer.address)])
        assert await_errors(conn)[0].mtu == MTU
        assert conn.write_to_udp_addr_port(bytes(LARGE), peer.address) == LARGE
        assert [len(data) for data in peer.collect(1)] == [LARGE]
