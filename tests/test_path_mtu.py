"""The MTU of paths, and what a datagram above it is told; with routers: tests/faults."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from batching import Conn, Segments, SendError, open_conn
from loopback import HOST, Address, PlainPeer, needs_ipv6, needs_linux
from netns import Namespace, namespace, needs_netns, wait_for_address

pytestmark = [needs_linux, pytest.mark.kernel]

MAPPED: Final = f"::ffff:{HOST}"
DEVICE_MTU: Final = int(Path("/sys/class/net/lo/mtu").read_text(encoding="ascii"))
ELSEWHERE: Final = {2: ("192.0.2.1", 1), 4: ("2001:db8::1", 1)}
MOST: Final = {HOST: 65507, MAPPED: 65507, "::1": 65527}
HOSTS: Final = [
    pytest.param(HOST, id="ipv4"),
    pytest.param("::1", id="ipv6", marks=needs_ipv6),
    pytest.param(MAPPED, id="mapped", marks=needs_ipv6),
]
each_host = pytest.mark.parametrize("host", HOSTS)


def device_mtu(host: str) -> int:
    return DEVICE_MTU if host == "::1" else min(DEVICE_MTU, 65535)  # IPv4 knows no more


def local(host: str) -> Address:
    return ("::" if host == MAPPED else host), 0


# path_mtu


@each_host
def test_on_loopback_it_is_the_devices(host: str) -> None:
    with open_conn(local(host)) as conn:
        assert conn.path_mtu((host, 9)) == device_mtu(host)
        assert conn.path_mtu((host, 0)) == device_mtu(host)


@each_host
def test_a_connected_one_needs_no_address(host: str) -> None:
    with PlainPeer(host) as peer, open_conn(remote_addr=peer.address, local_addr=local(host)) as c:
        assert c.path_mtu() == c.path_mtu(None) == c.path_mtu(peer.address) == device_mtu(host)


@needs_ipv6
def test_an_ipv4_spelling_is_asked_on_a_dual_stack_socket() -> None:
    with open_conn(("::", 0)) as conn:
        assert conn.path_mtu((HOST, 9)) == device_mtu(HOST)


def test_bad_addresses_are_told(conn: Conn) -> None:
    with pytest.raises(ValueError, match="not connected"):
        conn.path_mtu()
    with pytest.raises(ValueError, match="resolve it first"):
        conn.path_mtu(("localhost", 9))
    with pytest.raises(TypeError, match="must be a tuple"):
        conn.path_mtu([HOST, 9])  # type: ignore[arg-type]
    with pytest.raises(OSError, match=r"(denied|unreachable|Invalid).*to \('240.0.0.1', 9\)"):
        conn.path_mtu(("240.0.0.1", 9))


def test_closed_it_tells_no_more(conn: Conn) -> None:
    conn.close()
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        conn.path_mtu((HOST, 9))
    assert caught.value.errno == errno.EBADF


def test_a_broadcast_is_asked_for_by_who_may_send_one(conn: Conn) -> None:
    broadcast = ("127.255.255.255", 9)
    with pytest.raises(PermissionError):
        conn.path_mtu(broadcast)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    assert conn.path_mtu(broadcast) == device_mtu(HOST)


# Groups, which leave by an interface of the socket's choice

WIDE, NARROW, NARROWEST = 1500, 1400, 1300
GROUPS: Final = {
    "0.0.0.0": ("239.9.8.7", 9),
    "::": ("ff15::9", 9),
    "mapped": ("::ffff:239.9.8.7", 9),
}
each_group = pytest.mark.parametrize("local", GROUPS)


@pytest.fixture(scope="module")
def devices() -> Iterator[Namespace]:
    """Give a namespace with d1500, where routes lead, d1400 and d1300."""
    with namespace() as made:
        made.sysctl("ipv6.conf.all.accept_dad", 0)
        for number, mtu in enumerate((WIDE, NARROW, NARROWEST), 1):
            made.ip(f"link add d{mtu} mtu {mtu} type veth peer name p{mtu}")
            made.ip(f"link set p{mtu} up")
            made.ip(f"addr add 10.7.{number}.1/24 dev d{mtu}")
            made.ip(f"addr add fd07:{number}::1/64 dev d{mtu} nodad")
            made.ip(f"link set d{mtu} up")
            wait_for_address(made, f"fd07:{number}::1")
        made.ip(f"route add 224.0.0.0/4 dev d{WIDE}")
        yield made


def bound(local: str, **options: Any) -> Conn:
    return open_conn(("::" if local == "mapped" else local, 0), **options)


def elsewhere(local: str, number: int) -> Address:
    """Return an address that is no group's, on the link of the device of that number."""
    host = {"0.0.0.0": "10.7.{}.9", "::": "fd07:{}::9", "mapped": "::ffff:10.7.{}.9"}[local]
    return host.format(number), 9


def index_of(mtu: int) -> int:
    return socket.if_nametoindex(f"d{mtu}")


@needs_netns
@needs_ipv6
@each_group
def test_a_group_is_asked_by_the_interface_that_it_leaves_by(
    devices: Namespace, local: str
) -> None:
    group = GROUPS[local]
    with devices, bound(local) as conn:
        assert conn.path_mtu(group) == WIDE
        conn.set_multicast(interface=f"d{NARROW}")
        assert conn.path_mtu(group) == NARROW
        assert conn.path_mtu(elsewhere(local, 1)) == WIDE
        conn.set_multicast(interface=index_of(NARROWEST))
        assert conn.path_mtu(group) == NARROWEST
        conn.set_multicast(ttl=2)
        assert conn.path_mtu(group) == NARROWEST


@needs_netns
@needs_ipv6
def test_the_scope_of_a_group_wins(devices: Namespace) -> None:
    with devices, bound("::") as conn:
        conn.set_multicast(interface=f"d{NARROW}")
        assert conn.path_mtu(("ff02::9", 9)) == NARROW
        assert conn.path_mtu((f"ff02::9%d{NARROWEST}", 9)) == NARROWEST


@needs_netns
@needs_ipv6
@each_group
def test_a_connected_group_is_asked_by_the_interface_that_was_set_later(
    devices: Namespace, local: str
) -> None:
    with devices, bound(local, remote_addr=GROUPS[local]) as conn:
        assert conn.path_mtu() == WIDE
        conn.set_multicast(interface=f"d{NARROW}")
        assert conn.path_mtu() == NARROW


@needs_netns
@pytest.mark.parametrize("local", ["0.0.0.0", pytest.param("mapped", marks=needs_ipv6)])
def test_an_interface_that_is_set_as_an_option_of_ipv4_counts_too(
    devices: Namespace, local: str
) -> None:
    group, option = GROUPS[local], (socket.IPPROTO_IP, socket.IP_MULTICAST_IF)
    with devices, bound(local) as conn:
        conn.setsockopt(*option, struct.pack("@4s4si", bytes(4), bytes(4), index_of(NARROW)))
        assert conn.path_mtu(group) == NARROW
        conn.setsockopt(*option, socket.inet_aton("10.7.3.1"))
        assert conn.path_mtu(group) == NARROWEST
        conn.setsockopt(*option, 0)
        assert conn.path_mtu(group) == WIDE


@needs_netns
@needs_ipv6
@each_group
def test_an_interface_of_groups_that_is_gone_does_not_concern_others(
    devices: Namespace, local: str
) -> None:
    with devices, bound(local) as conn:
        devices.ip("link add gone type veth peer name other")
        conn.set_multicast(interface="gone")
        devices.ip("link del gone")
        assert conn.path_mtu(elsewhere(local, 2)) == NARROW


@needs_netns
@needs_ipv6
@each_group
def test_a_datagram_to_a_group_is_told_what_its_interface_takes(
    devices: Namespace, local: str
) -> None:
    fits = NARROW - (48 if local == "::" else 28)
    with devices, bound(local, path_mtu_discovery="do") as conn:
        conn.set_multicast(interface=f"d{NARROW}")
        with pytest.raises(OSError, match=rf"takes {fits} \(MTU {NARROW}\)"):
            conn.write_to_udp_addr_port(bytes(fits + 1), GROUPS[local])
        assert conn.write_to_udp_addr_port(bytes(fits), GROUPS[local]) == fits


# What EMSGSIZE says


WAYS: Final[dict[str, Callable[[Conn, Any, Any], object]]] = {
    "send_batch": lambda conn, data, to: conn.send_batch([(b"x", to), (data, to)]),
    "send_segments": lambda conn, data, to: conn.send_segments(
        [Segments(b"x", 1, to), Segments(data, len(data), to)]
    ),
    "send_segments, to": lambda conn, data, to: conn.send_segments(
        [Segments(b"x", 1, to), Segments(data, len(data), ELSEWHERE[len(to)])], to=to
    ),
    "write_batch_to": lambda conn, data, to: conn.write_batch_to([b"x", data], to),
    "write_batch_to, offset": lambda conn, data, to: conn.write_batch_to(
        [b"123x", b"123" + data], to, offset=3
    ),
}


@each_host
@pytest.mark.parametrize("way", WAYS)
def test_a_datagram_beyond_udp_is_told_the_limit(host: str, way: str) -> None:
    data = bytes(MOST[host] + 1)
    version = "IPv6" if host == "::1" else "IPv4"
    why = f"Message too long: {len(data)} bytes of data, UDP over {version} takes {MOST[host]}"
    with open_conn(local(host)) as conn, PlainPeer(host) as peer:
        with pytest.raises(SendError, match=why) as caught:
            WAYS[way](conn, data, peer.address)
        error = caught.value
        assert (error.sent, list(error.errors)) == (1, [1])
        assert (error.errors[1].errno, str(error.errors[1])) == (90, f"[Errno 90] {why}")
        assert peer.collect(1) == [b"x"]
        with pytest.raises(OSError, match=why):
            conn.write_to_udp_addr_port(data, peer.address)


@needs_ipv6
def test_a_datagram_above_the_path_is_told_what_fits() -> None:
    # IPv6's loopback carries packets of 65536 bytes, UDP would let 65527 of data be sent.
    fits = DEVICE_MTU - 48
    with open_conn(("::1", 0), path_mtu_discovery="do") as conn, PlainPeer("::1") as peer:
        why = rf"{fits + 1} bytes of data, the path to \('::1', .*\) takes {fits} \(MTU {fits + 48}"
        with pytest.raises(OSError, match=why):
            conn.write_to_udp_addr_port(bytes(fits + 1), peer.address)
        assert conn.write_to_udp_addr_port(bytes(fits), peer.address) == fits
        assert len(peer.collect(1)[0]) == fits
