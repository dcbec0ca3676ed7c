"""A server with several addresses and interfaces answers from where it was asked.

It is bound to a wildcard, in a namespace of its own; the clients are plain sockets in
another, which tell where an answer came from and where it came in.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

import pytest

from batching import Conn, Segments, open_conn
from loopback import PATIENCE_S, PlainPeer, needs_ipv6, needs_linux
from marks import EVERYTHING, MarkedPeer, receive
from netns import Link, link, needs_command, needs_netns, wait_for_address, wait_for_carrier

pytestmark = [pytest.mark.kernel, needs_linux, needs_netns, needs_ipv6]

# Beside those of the link; and who is asked by one of them.
MORE: Final = {"ipv4": ["10.9.0.50", "10.9.0.51"], "ipv6": ["fd09::50", "fd09::51"]}
WILDCARDS: Final = {"ipv4": "0.0.0.0", "ipv6": "::", "v4-mapped": "::"}
# A client behind two links, of which the route back is the second.
FAR: Final = {"ipv4": "10.66.0.1", "ipv6": "fd66::1", "v4-mapped": "10.66.0.1"}
each_family = pytest.mark.parametrize("family", WILDCARDS)


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    """Give left and right, two links between them (v0 to v1, w0 to w1), and a far client."""
    with link() as net:
        left, right = net.left, net.right
        left.ip(f"link add w0 type veth peer name w1 netns {right.path}")
        for side, device, number in ((left, "w0", 1), (right, "w1", 2)):
            for each in ("all", device):
                side.sysctl(f"ipv4.conf.{each}.rp_filter", 0)
            side.ip(f"link set {device} addrgenmode none")
            side.ip(f"addr add 10.10.0.{number}/24 dev {device}")
            side.ip(f"addr add fd10::{number}/64 dev {device} nodad")
            side.ip(f"link set {device} up")
        for host in (FAR["ipv4"], FAR["ipv6"]):
            left.ip(f"addr add {host} dev lo")
        for host in [*MORE["ipv4"], *MORE["ipv6"]]:
            right.ip(f"addr add {host} dev v1" + (" nodad" if ":" in host else ""))
        for side, device in ((left, "w0"), (right, "w1")):
            wait_for_carrier(side, device)
            # The same ones on both links, so that only the scope tells them apart.
            for each in (device, device.replace("w", "v")):
                host = "fe80::a" if side is left else "fe80::b"
                side.ip(f"addr add {host}/64 dev {each} nodad")
        for family, gateways in (("-4", ("10.10.0.1", "10.9.0.1")), ("-6", ("fd10::1", "fd09::1"))):
            far = FAR["ipv4"] if family == "-4" else FAR["ipv6"]
            right.ip(f"{family} route add {far} via {gateways[0]} dev w1 metric 10")
            right.ip(f"{family} route add {far} via {gateways[1]} dev v1 metric 500")
        for host in [*MORE["ipv6"], "fd10::2", "fe80::b"]:
            wait_for_address(right, host)
        for host in ("fd10::1", "fe80::a", FAR["ipv6"]):
            wait_for_address(left, host)
        yield net


@pytest.fixture
def server(net: Link, family: str) -> Iterator[Conn]:
    with net.right:
        conn = open_conn((WILDCARDS[family], 0), **EVERYTHING)
    conn.settimeout(PATIENCE_S)
    with conn:
        yield conn


@each_family
def test_each_answer_leaves_from_the_address_that_was_asked(
    net: Link, server: Conn, family: str
) -> None:
    hosts = MORE["ipv6" if family == "ipv6" else "ipv4"]
    port = server.local_addr()[1]
    own = Link.LEFT[family == "ipv6"]
    with net.left:
        client = PlainPeer(own)
    with client:
        for host in (*hosts, hosts[0]):
            client.send_train((host, port), b"q" * 300, 100)
            trains = receive(server, 3)
            told = f"::ffff:{host}" if family == "v4-mapped" else host
            assert {train.local_addr[0] for train in trains if train.local_addr} == {told}
            assert server.send_segments(trains) == 3
            pairs = client.collect_pairs(3)
            assert {(data, sender[:2]) for data, sender in pairs} == {(b"q" * 100, (host, port))}


@each_family
def test_an_answer_leaves_as_routes_have_it_unless_its_interface_is_asked_for(
    net: Link, server: Conn, family: str
) -> None:
    asked = Link.RIGHT[family == "ipv6"]
    with net.right:
        v1 = socket.if_nametoindex("v1")
    with net.left:
        client = MarkedPeer(FAR[family])
        v0, w0 = socket.if_nametoindex("v0"), socket.if_nametoindex("w0")
    with client:
        client.send((asked, server.local_addr()[1]), b"question")
        [train] = receive(server, 1)
        assert train.interface == v1
        assert server.send_segments([train]) == 1
        [answer] = client.hear(1)
        assert (answer.data, answer.sender, answer.interface) == (b"question", asked, w0)
        train.interface = v1
        if family == "ipv6":  # where a source is given too, an interface is but a hint to Linux
            train.local_addr = None
        assert server.send_segments([train]) == 1
        [answer] = client.hear(1)
        assert (answer.data, answer.interface) == (b"question", v0)
        assert answer.sender in (asked, *MORE["ipv6"])


@pytest.mark.parametrize("family", ["ipv6"])
def test_link_local_addresses_are_told_apart_by_their_scope(
    net: Link, server: Conn, family: str
) -> None:
    port = server.local_addr()[1]
    with net.right:
        scopes = [socket.if_nametoindex(name) for name in ("v1", "w1")]
    clients = []
    for name in ("v0", "w0"):
        with net.left:
            index = socket.if_nametoindex(name)
            client = MarkedPeer("::")
        clients.append((client, index))
        client.send(("fe80::b", port, 0, index), name.encode())
    trains = receive(server, 2)
    assert {train.local_addr for train in trains} == {("fe80::b", port, 0, s) for s in scopes}
    assert {train.addr[3] for train in trains if train.addr} == set(scopes)
    assert server.send_segments(trains) == 2
    for name, (client, index) in zip(("v0", "w0"), clients, strict=True):
        with client:
            [answer] = client.hear(1)
            assert (answer.data, answer.interface) == (name.encode(), index)
            assert answer.sender.partition("%")[0] == "fe80::b"


@pytest.mark.parametrize("family", ["ipv4", "v4-mapped"])
def test_a_broadcast_is_told_and_answered_from_an_address_of_ours(
    net: Link, server: Conn, family: str
) -> None:
    port = server.local_addr()[1]
    with net.left:
        client = PlainPeer(Link.LEFT[0])
    with client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for host in ("10.9.0.255", "255.255.255.255"):
            if host == "255.255.255.255":
                net.left.ip("route replace 255.255.255.255 dev v0")
            client.send((host, port), b"anybody?")
            [train] = receive(server, 1)
            assert train.local_addr
            assert train.local_addr[0].removeprefix("::ffff:") == host
            assert server.send_segments([train]) == 1
            assert client.collect_pairs(1) == [(b"anybody?", (Link.RIGHT[0], port))]


@needs_command("nft")
@each_family
@pytest.mark.parametrize("gro", ["auto", "off"])
def test_a_mark_of_a_router_is_seen(net: Link, family: str, gro: str) -> None:
    """Of what is ECN capable it marks all as congested, as RFC 3168 has it."""
    rules = """
    table inet router {
        chain marks {
            type filter hook prerouting priority 0
            ip ecn { ect0, ect1 } ip ecn set ce
            ip6 ecn { ect0, ect1 } ip6 ecn set ce
        }
    }
    """
    asked = Link.RIGHT[family == "ipv6"]
    with net.right:
        conn = open_conn((WILDCARDS[family], 0), ecn=True, gro=gro)
    with net.left:
        sender = open_conn((WILDCARDS[family], 0))
    with conn, sender:
        conn.settimeout(PATIENCE_S)
        net.right.run("nft", "-f", "-", feed=rules)
        try:
            to = (asked, conn.local_addr()[1])
            for ecn in range(4):
                sender.send_segments([Segments(bytes([ecn]) * 300, 100, to, ecn=ecn)])
            told = {(data[0], train.ecn) for train in receive(conn, 12) for data in train.tolist()}
        finally:
            net.right.run("nft", "delete", "table", "inet", "router")
    assert told == {(0, 0), (1, 3), (2, 3), (3, 3)}
