"""A probe over veth devices, in namespaces: what it says of routes, devices and MTUs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from batching import open_conn
from batching.cli.probe.devices import look_at_devices, look_at_route
from batching.cli.probe.finding import Finding, worst
from batching.cli.probe.path import look_at_path
from batching.cli.probe.server import Server
from loopback import PATIENCE_S, needs_gso, needs_ipv6, start
from netns import Link, link, needs_command, needs_netns

pytestmark = [
    pytest.mark.slow,
    needs_netns,
    needs_gso,
    needs_ipv6,
    needs_command("ethtool"),
]


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    with link() as made:
        yield made


def probe(net: Link, host: str, asked: str = "") -> dict[str, Finding]:
    """Probe from left to a server on the right; return the findings by name."""
    with net.right, contextlib.closing(open_conn((host, 0), pktinfo=True)) as conn:
        server = Server(conn, lambda _: None)
        running = start(server.run)
        try:
            with net.left:
                findings, _, _ = look_at_path(asked or host, conn.local_addr()[1], 0.5)
        finally:
            server.stop()
            running.result(PATIENCE_S)
    return {finding.name: finding for finding in findings}


@contextlib.contextmanager
def switched(net: Link, *features: str) -> Iterator[None]:
    """Switch offloads of both devices off, and on again."""

    def switch(state: str) -> None:
        for side, device in ((net.left, "v0"), (net.right, "v1")):
            for feature in features:
                side.run("ethtool", "-K", device, feature, state)

    switch("off")
    try:
        yield
    finally:
        switch("on")


@pytest.mark.parametrize("host", Link.RIGHT)
@pytest.mark.parametrize("offloads", [(), ("gro", "tso")], ids=["on", "off"])
def test_a_path_over_veth_is_ok(net: Link, host: str, offloads: tuple[str, ...]) -> None:
    with switched(net, *offloads):
        findings = probe(net, host)
    assert worst(findings.values()) == "ok"
    room = 1500 - (48 if ":" in host else 28)
    assert f"up to {room} bytes" in findings["route"].found
    assert findings["route"].facts["device"] == "v0"
    assert findings["host"].facts["server_max_segments"] in (64, 128)
    for name in ("datagrams out", "datagrams back"):
        assert findings[name].facts["plain"]["sent"] > 1000  # type: ignore[index]


def test_a_server_at_all_addresses_answers_from_the_one_that_was_asked(net: Link) -> None:
    net.right.ip("addr add 10.9.0.3/24 dev v1")
    findings = probe(net, "::", "10.9.0.3")
    assert (findings["host"].state, findings["datagrams back"].state) == ("ok", "ok")


def test_a_device_without_checksums_is_slow(net: Link) -> None:
    with switched(net, "tx"), net.left:
        (device,) = look_at_devices()
    assert (device.name, device.state) == ("device v0", "slow")
    assert device.facts["tx-checksum"] is False
    assert device.change.startswith("ethtool -K v0 tx on")
    with net.left:
        (device,) = look_at_devices()
    assert (device.state, device.change) == ("ok", "")
    assert device.facts["driver"] == "veth"


def test_a_small_mtu_of_the_route_is_slow(net: Link) -> None:
    net.left.ip("link set v0 mtu 600")
    try:
        findings = probe(net, Link.RIGHT[0])
    finally:
        net.left.ip("link set v0 mtu 1500")
    assert findings["route"].state == "slow"
    assert "MTU 600: trains of datagrams up to 572 bytes" in findings["route"].found
    assert findings["datagrams out"].state == "ok"


def test_a_path_whose_mtu_is_less_than_the_routes_is_broken_by_size(net: Link) -> None:
    net.right.ip("link set v1 mtu 900")
    try:
        findings = probe(net, Link.RIGHT[0])
    finally:
        net.right.ip("link set v1 mtu 1500")
    broken = {name for name, finding in findings.items() if finding.state == "broken"}
    assert broken == {"out: 1200 B", "out: 1472 B"}


def test_no_route_is_broken(net: Link) -> None:
    with net.left:
        (finding,), route = look_at_route(socket.AF_INET, ("198.51.100.1", 7478))
    assert (finding.state, route) == ("broken", None)
    assert "198.51.100.1" in finding.found
