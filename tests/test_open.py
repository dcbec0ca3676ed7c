"""open_conn: its arguments, families and buffers, and what the environment switches."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import pytest

from batching import IDEAL_BATCH_SIZE, Conn, open_conn
from batching._kernel import SOL_UDP, UDP_GRO
from loopback import (
    ANY_PORT,
    HOST,
    Address,
    PlainPeer,
    gather,
    needs_gso,
    needs_ipv6,
    run_script,
)

pytestmark = pytest.mark.kernel


def option(conn: Conn, level: int, name: int) -> int:
    with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
        return twin.getsockopt(level, name)


def test_without_arguments_it_is_ipv4_on_a_free_port() -> None:
    with open_conn() as conn:
        host, port = conn.local_addr()
        assert host == "0.0.0.0"
        assert port > 0
        assert conn.gettimeout() is None
        assert conn.batch_size == IDEAL_BATCH_SIZE == 128


@needs_ipv6
@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        pytest.param({"family": socket.AF_INET}, "0.0.0.0", id="AF_INET"),
        pytest.param({"family": socket.AF_INET6}, "::", id="AF_INET6"),
        pytest.param({"local_addr": ("", 0)}, "0.0.0.0", id="empty host"),
        pytest.param(
            {"local_addr": ("", 0), "family": socket.AF_INET6}, "::", id="empty host, AF_INET6"
        ),
        pytest.param({"local_addr": ("::1", 0)}, "::1", id="::1"),
        pytest.param({"local_addr": ("::1", 0, 0, 0)}, "::1", id="::1 as 4-tuple"),
        pytest.param({"remote_addr": ("::1", 9)}, "::1", id="remote ::1"),
        pytest.param({"remote_addr": (HOST, 9)}, HOST, id="remote 127.0.0.1"),
        pytest.param(
            {"local_addr": ("::", 0), "remote_addr": ("::1", 9)}, "::1", id="both of IPv6"
        ),
        pytest.param(
            {"remote_addr": (HOST, 9), "family": socket.AF_INET6},
            "::ffff:127.0.0.1",
            id="remote IPv4 on AF_INET6",
        ),
    ],
)
def test_the_family_follows_the_addresses(arguments: dict[str, Any], host: str) -> None:
    with open_conn(**arguments) as conn:
        address = conn.local_addr()
        assert address[0] == host
        assert len(address) == (4 if ":" in host else 2)


@needs_ipv6
@pytest.mark.parametrize("local", [("::", 0), None], ids=["wildcard", "nothing but a family"])
def test_the_ipv6_wildcard_is_dual_stack(local: Address | None) -> None:
    with open_conn(local, family=socket.AF_INET6) as conn, PlainPeer() as peer:
        peer.send((HOST, conn.local_addr()[1]), b"x")
        conn.send_batch([(b"y", peer.address)])
        assert gather(conn, 1) == [b"x"]
        assert peer.collect(1) == [b"y"]


@needs_ipv6
def test_other_ipv6_addresses_are_not_dual_stack() -> None:
    with (
        open_conn(("::1", 0)) as conn,
        pytest.raises(ValueError, match=r"^datagram 0: .*IPv6 only"),
    ):
        conn.send_batch([(b"x", (HOST, 1))])


def test_a_connected_conn_knows_its_peer() -> None:
    with PlainPeer() as peer, open_conn(ANY_PORT, peer.address) as conn:
        assert f"-> {peer.address}" in repr(conn)
        conn.send_batch([(b"x", None)])
        assert peer.collect_pairs(1) == [(b"x", conn.local_addr())]


def test_a_port_is_had_by_one() -> None:
    with open_conn(ANY_PORT) as conn:
        with pytest.raises(OSError, match="in use") as caught:
            open_conn(conn.local_addr())
        assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
def test_reuse_port_shares_a_port() -> None:
    with open_conn(ANY_PORT, reuse_port=True) as conn:
        with open_conn(conn.local_addr(), reuse_port=True) as other:
            assert other.local_addr() == conn.local_addr()
        with pytest.raises(OSError, match="in use"):
            open_conn(conn.local_addr())


def test_buffers_are_as_asked_for() -> None:
    with open_conn(ANY_PORT, receive_buffer=50_000, send_buffer=60_000) as conn:
        twice = 2 if os.uname().sysname == "Linux" else 1  # socket(7)
        assert option(conn, socket.SOL_SOCKET, socket.SO_RCVBUF) == twice * 50_000
        assert option(conn, socket.SOL_SOCKET, socket.SO_SNDBUF) == twice * 60_000


def test_buffers_are_large_by_default() -> None:
    with open_conn() as conn, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        for name in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            granted = option(conn, socket.SOL_SOCKET, name)
            assert granted >= plain.getsockopt(socket.SOL_SOCKET, name)


@needs_gso
def test_the_kernel_carries_trains() -> None:
    with open_conn() as conn:
        offload = conn.offload
        assert (offload.gso, offload.gro) == (True, True)
        assert offload.max_segments in (64, 128)
        assert option(conn, SOL_UDP, UDP_GRO) == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param({"gso": "off"}, "gso: switched off by the caller", id="gso"),
        pytest.param({"gro": "off"}, "gro: switched off by the caller", id="gro"),
        pytest.param({"max_segments": 1}, "gso: max_segments=1", id="max_segments"),
    ],
)
@needs_gso
def test_what_is_off_has_a_reason(arguments: dict[str, Any], reason: str) -> None:
    with open_conn(ANY_PORT, **arguments) as conn:
        assert reason in conn.offload.reasons
        assert conn.offload.gso is (reason[:3] != "gso")
        assert conn.offload.gro is (reason[:3] != "gro")
        assert (conn.offload.max_segments == 1) is (not conn.offload.gso)
        conn.send_batch([(b"abc", conn.local_addr())] * 5)
        assert gather(conn, 5) == [b"abc"] * 5
        assert conn.stats().send_messages == (1 if conn.offload.gso else 5)


@needs_gso
def test_max_segments_limits_a_train() -> None:
    with open_conn(ANY_PORT, max_segments=10) as conn, PlainPeer() as peer:
        assert conn.offload.max_segments == 10
        conn.send_batch([(b"abc", peer.address)] * 25)
        assert conn.stats().send_messages == 3


BAD = [
    pytest.param({"batch_size": 0}, ValueError, "batch_size 0, must be 1 to 1024", id="size 0"),
    pytest.param({"batch_size": 1025}, ValueError, "batch_size 1025.* 1024", id="size 1025"),
    pytest.param({"batch_size": "9"}, TypeError, "batch_size .*str", id="size str"),
    pytest.param({"gso": "on"}, ValueError, "gso 'on', must be 'auto' or 'off'", id="gso"),
    pytest.param({"gro": True}, ValueError, "gro True, must be 'auto' or 'off'", id="gro"),
    pytest.param(
        {"path_mtu_discovery": []}, ValueError, "path_mtu_discovery .*, must be", id="unhashable"
    ),
    pytest.param({"batch_size": True}, TypeError, "batch_size .*bool", id="size bool"),
    pytest.param({"max_segments": 0}, ValueError, "max_segments 0.* 128", id="0 segments"),
    pytest.param({"max_segments": 129}, ValueError, "max_segments 129.* 128", id="129"),
    pytest.param({"max_segments": "9"}, TypeError, "max_segments .*str", id="segments str"),
    pytest.param({"receive_buffer": 0}, ValueError, "receive_buffer 0, must be", id="buffer 0"),
    pytest.param({"send_buffer": -1}, ValueError, "send_buffer -1, must be", id="buffer -1"),
    pytest.param({"receive_buffer": 1 << 40}, ValueError, "receive_buffer 1", id="buffer 2**40"),
    pytest.param({"send_buffer": "1"}, TypeError, "send_buffer .*str", id="buffer str"),
    pytest.param({"rxq_overflows_metric_name": 1}, TypeError, "metric_name .*int", id="name"),
    pytest.param({"family": socket.AF_UNIX}, ValueError, "family .*AF_INET6", id="AF_UNIX"),
    pytest.param({"local_addr": ("localhost", 0)}, ValueError, "resolve it first", id="name"),
    pytest.param({"remote_addr": ("example.com", 1)}, ValueError, "resolve it first", id="to"),
    pytest.param({"local_addr": HOST}, TypeError, "tuple", id="no tuple"),
    pytest.param({"local_addr": (HOST, 65536)}, ValueError, "65536.*65535", id="port"),
    pytest.param({"remote_addr": (HOST, "1")}, TypeError, "port .*str", id="port str"),
    pytest.param(
        {"local_addr": (HOST, 0), "remote_addr": ("::1", 1)}, ValueError, "two fam", id="mixed"
    ),
    pytest.param(
        {"local_addr": ("::1", 0), "family": socket.AF_INET}, ValueError, "IPv4", id="wrong family"
    ),
    pytest.param(
        {"local_addr": (HOST, 0, 0, 0)}, ValueError, "tuple of 4", id="IPv4 with a scope id"
    ),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD)
def test_a_bad_argument_is_told(
    arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        open_conn(**arguments)


SCRIPT = """
import batching
with batching.open_conn() as conn:
    print(conn.batch_size, conn.offload.gso, conn.offload.gro, *conn.offload.reasons, sep="|")
with batching.open_conn(batch_size=7) as conn:
    assert conn.batch_size == 7
"""


@needs_gso
@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        pytest.param("BATCHING_BATCH_SIZE", "", "128|True|True", id="empty size"),
        pytest.param("BATCHING_BATCH_SIZE", "32", "32|True|True", id="size"),
        pytest.param("BATCHING_DISABLE_UDP_GSO", "1", "128|False|True", id="no GSO"),
        pytest.param("BATCHING_DISABLE_UDP_GSO", "no", "128|False|True", id="no means yes"),
        pytest.param("BATCHING_DISABLE_UDP_GSO", "0", "128|True|True", id="0"),
        pytest.param("BATCHING_DISABLE_UDP_GSO", "", "128|True|True", id="empty"),
        pytest.param("BATCHING_DISABLE_UDP_GRO", "yes", "128|True|False", id="no GRO"),
    ],
)
def test_the_environment_switches(variable: str, value: str, expected: str) -> None:
    printed = run_script(SCRIPT, **{variable: value}).strip()
    assert printed.startswith(expected)
    assert (variable in printed) is ("False" in expected)


@pytest.mark.parametrize("value", ["0", "1025", "many"])
def test_a_bad_batch_size_in_the_environment_is_told(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHING_BATCH_SIZE", value)
    with pytest.raises(ValueError, match=f"BATCHING_BATCH_SIZE.{value}, must be 1 to 1024"):
        open_conn()


def test_the_back_end_can_be_forced() -> None:
    printed = run_script(
        "import batching\nwith batching.open_conn() as conn: print(conn.offload)",
        BATCHING_BACKEND="portable",
    )
    assert "backend='portable'" in printed
    assert "native: BATCHING_BACKEND=portable" in printed
    run_script(
        "try: import batching\nexcept ValueError as error: assert 'fast' in str(error)\n"
        "else: raise AssertionError",
        BATCHING_BACKEND="fast",
    )


def test_the_repr_tells_the_state() -> None:
    with open_conn(ANY_PORT) as conn:
        assert str(conn.local_addr()) in repr(conn)
        assert conn.offload.backend in repr(conn)
    assert repr(conn).startswith("<batching.Conn closed")
