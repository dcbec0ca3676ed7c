"""What a Conn's socket options are: what passes through, what is refused, what marks all."""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from batching import Conn, open_conn
from batching import _options as options
from batching._kernel import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_TOS,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_TCLASS,
    SO_TIMESTAMPNS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
)
from loopback import ANY_PORT, HOST, needs_gso, needs_ipv6, needs_linux

pytestmark = [pytest.mark.kernel, needs_linux]

LOCAL = [pytest.param(HOST, id="IPv4"), pytest.param("::", id="dual stack", marks=needs_ipv6)]
each_local = pytest.mark.parametrize("local", LOCAL)
SOCKET = socket.SOL_SOCKET
SWITCHES = {
    "ecn": [(SOL_IP, IP_RECVTOS), (SOL_IPV6, IPV6_RECVTCLASS)],
    "pktinfo": [(SOL_IP, IP_PKTINFO), (SOL_IPV6, IPV6_RECVPKTINFO)],
    "timestamps": [(SOCKET, SO_TIMESTAMPNS)],
}


def test_an_option_passes_through(conn: Conn) -> None:
    conn.setsockopt(SOCKET, socket.SO_PRIORITY, 3)
    assert conn.getsockopt(SOCKET, socket.SO_PRIORITY) == 3
    conn.setsockopt(SOCKET, socket.SO_PRIORITY, struct.pack("=i", 5))
    assert conn.getsockopt(SOCKET, socket.SO_PRIORITY, 4) == struct.pack("=i", 5)


@needs_gso
@pytest.mark.parametrize(
    ("option", "text"), [(UDP_SEGMENT, "UDP_SEGMENT: .*each train"), (UDP_GRO, "UDP_GRO: .*sizes")]
)
def test_what_is_the_connections_own_is_refused(conn: Conn, option: int, text: str) -> None:
    before = conn.getsockopt(SOL_UDP, option)
    for value in (0, 1400, struct.pack("=i", 0)):
        with pytest.raises(ValueError, match=text):
            conn.setsockopt(SOL_UDP, option, value)
    assert conn.getsockopt(SOL_UDP, option) == before


def test_the_kernels_refusal_is_told(conn: Conn) -> None:
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.ENOPROTOOPT}]")):
        conn.setsockopt(SOCKET, 9999, 1)
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.ENOPROTOOPT}]")):
        conn.getsockopt(SOCKET, 9999)


@pytest.mark.parametrize(
    "call",
    [
        lambda conn: conn.setsockopt(SOCKET, socket.SO_PRIORITY, 3),
        lambda conn: conn.getsockopt(SOCKET, socket.SO_PRIORITY),
        lambda conn: conn.set_ecn(1),
        lambda conn: conn.join_group("239.1.2.3"),
        lambda conn: conn.leave_group("239.1.2.3"),
        lambda conn: conn.set_multicast(ttl=1),
    ],
    ids=["setsockopt", "getsockopt", "set_ecn", "join_group", "leave_group", "set_multicast"],
)
def test_a_closed_one_is_ebadf(conn: Conn, call: Callable[[Conn], object]) -> None:
    conn.close()
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EBADF}]")):
        call(conn)


@each_local
@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_is_of_every_family_that_the_socket_has(local: str, name: str) -> None:
    with open_conn((local, 0), **{name: True}) as on, open_conn((local, 0)) as off:  # type: ignore[arg-type]
        for level, option in SWITCHES[name]:
            if level == SOL_IPV6 and local == HOST:
                continue
            assert on.getsockopt(level, option) == 1
            assert off.getsockopt(level, option) == 0


@pytest.mark.parametrize("name", [*SWITCHES, "transport_errors", "reuse_addr", "reuse_port"])
def test_a_switch_is_on_or_off(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name} must be bool, not int$"):
        open_conn(ANY_PORT, **{name: 2})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*SWITCHES, "transport_errors"])
def test_other_systems_have_none(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(options, "IS_LINUX", False)
    with pytest.raises(ValueError, match=f"^{name}: needs Linux$"):
        options.Wishes(**{name: True})  # type: ignore[arg-type]
    assert not options.Wishes().has_metadata


@each_local
def test_a_mark_of_the_socket_keeps_dscp(local: str) -> None:
    with open_conn((local, 0)) as conn:
        of_family = [(SOL_IP, IP_TOS)] + [(SOL_IPV6, IPV6_TCLASS)] * (local == "::")
        for i, option in enumerate(of_family):
            conn.setsockopt(*option, 0b10100001 + 4 * i)
        for ecn in (2, 0, 3):
            conn.set_ecn(ecn)
            classes = [conn.getsockopt(*option) for option in of_family]
            assert classes == [(0b10100000 + 4 * i) | ecn for i in range(len(of_family))]


@pytest.mark.parametrize(
    ("ecn", "kind", "text"),
    [
        (4, ValueError, "ecn 4, must be 0 to 3"),
        (-1, ValueError, "ecn -1, must be 0 to 3"),
        (None, TypeError, "ecn must be int, not NoneType"),
        ("CE", TypeError, "ecn must be int, not str"),
        (True, TypeError, "ecn must be int, not bool"),
    ],
)
def test_a_mark_that_is_none_is_refused(
    conn: Conn, ecn: Any, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=f"^{text}$"):
        conn.set_ecn(ecn)
    assert conn.getsockopt(SOL_IP, IP_TOS) == 0
