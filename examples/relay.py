"""A relay of Geneve flows, as the data plane of Tailscale's udprelay: two peers to a VNI.

python examples/relay.py [::]:7400 7=192.0.2.1:41641,[2001:db8::1]:41641 --metrics 127.0.0.1:9400

What one of the two sends goes to the other as it is; the rest is dropped and counted.

Rule 1: a train of a stranger is dropped unseen; of others each header is checked, all at once.
Rule 2: a train of one header is forwarded whole; any other is halved until its parts are such.
Rule 3: a header is decoded, and its sender looked up, once; then a cache knows the way.

What differs: peers are bound for good, by the command line and not by a handshake, so control
packets and STUN are dropped; so are options and versions, which udprelay does not look at.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

import typer  # it needs udp-batching[cli,metrics]
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily

import batching
from batching.geneve import GENEVE_FIXED_HEADER_LENGTH, GeneveHeader, VirtualNetworkID
from batching.metrics import prometheus_collector


@dataclass(slots=True)
class Way:
    """Where datagrams go, None: nowhere; and how much went that way."""

    labels: tuple[str, str, str]  # fate, VNI, peer
    to: tuple[Any, ...] | None = None
    n_datagrams: int = 0
    n_bytes: int = 0


class Relay:
    """Forwards what a ``Conn`` receives, out of the same ``Conn``."""

    def __init__(self, conn: batching.Conn) -> None:
        self.conn = conn
        self.flows: dict[VirtualNetworkID, dict[tuple[Any, ...], Way]] = {}  # Way by sender
        self.peers: set[tuple[Any, ...]] = set()  # of all flows
        fates = "bad header", "control", "unknown VNI", "unknown peer", "truncated"
        self.drops = {fate: Way((fate, "", "")) for fate in fates}
        self.way = functools.lru_cache(4096)(self._find_way)

    def bind(self, flow: str) -> None:
        """Let two peers reach one another: ``VNI=HOST:PORT,HOST:PORT``."""
        number, *peers = flow.replace("=", ",").split(",")
        family = socket.AF_INET if len(self.conn.local_addr()) == 2 else socket.AF_INET6
        hints = family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST | socket.AI_V4MAPPED
        ends = [socket.getaddrinfo(*address(peer), *hints)[0][4] for peer in peers]
        vni = VirtualNetworkID(int(number))
        if len(ends) != 2 or ends[0] == ends[1] or vni in self.flows:
            raise ValueError(f"{flow}: must be VNI=HOST:PORT,HOST:PORT of two peers, a VNI once")
        ways = [Way(("forwarded", number, p), to) for p, to in zip(peers, ends[::-1], strict=True)]
        self.flows[vni] = dict(zip(ends, ways, strict=True))
        self.peers.update(ends)
        self.way.cache_clear()

    def _find_way(self, header: bytes, sender: tuple[Any, ...]) -> Way:
        if header[0]:  # a version, or options
            return self.drops["bad header"]
        geneve = GeneveHeader.decode(header)
        if geneve.control:
            return self.drops["control"]
        ways = self.flows.get(geneve.vni)
        return ways.get(sender, self.drops["unknown peer"]) if ways else self.drops["unknown VNI"]

    def stop(self, *_: object) -> None:
        """Let no more be received; what was may still go out, for a second."""
        with contextlib.suppress(OSError):  # a second signal may find it closed
            self.conn.set_read_deadline(time.monotonic())
            self.conn.set_write_deadline(time.monotonic() + 1)

    def forward(self, trains: list[batching.Segments]) -> None:
        """Send what may pass of trains to where it belongs."""
        with contextlib.suppress(batching.SendError):  # batching's metrics have it
            self.conn.send_segments([part for train in trains for part in self.passing(train)])

    def passing(self, train: batching.Segments) -> list[batching.Segments]:
        """Return what may pass of a train, with the address that it goes to."""
        if train.truncated or train.addr not in self.peers:
            way = self.drops["truncated" if train.truncated else "unknown peer"]
        elif header := train.common_header(GENEVE_FIXED_HEADER_LENGTH):
            way = self.way(header, train.addr)
        elif len(train) == 1:
            way = self.drops["bad header"]
        else:
            data, size = train.data, train.segment_size
            cut = len(train) // 2 * size
            halves = (batching.Segments(d, size, train.addr) for d in (data[:cut], data[cut:]))
            return [part for half in halves for part in self.passing(half)]
        way.n_datagrams += len(train)
        way.n_bytes += train.nbytes
        train.addr = way.to
        return [train] if way.to else []

    def collect(self) -> list[Any]:
        """Return what Prometheus is told."""
        labels, what = ("fate", "vni", "peer"), "What became of them; what left: batching_send"
        datagrams = CounterMetricFamily("relay_datagrams", what, labels=labels)
        n_bytes = CounterMetricFamily("relay_bytes", "The same, with headers", labels=labels)
        for way in (*self.drops.values(), *(w for ws in self.flows.values() for w in ws.values())):
            datagrams.add_metric(way.labels, way.n_datagrams)
            n_bytes.add_metric(way.labels, way.n_bytes)
        return [datagrams, n_bytes]


def address(text: str, lowest: int = 1) -> tuple[str, int]:
    """Parse ``HOST:PORT``, of IPv6 ``[HOST]:PORT``."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not lowest <= int(port) <= 65535:
        raise ValueError(f"{text}: must be HOST:PORT, the port {lowest} to 65535")
    return str(ipaddress.ip_address(host.strip("[]"))), int(port)


def main(listen: str, flows: list[str], metrics: str = "") -> None:
    """Relay Geneve flows, each VNI=HOST:PORT,HOST:PORT, until SIGINT or SIGTERM."""
    with contextlib.suppress(TimeoutError), contextlib.ExitStack() as stack:  # that of stop()
        try:
            relay = Relay(stack.enter_context(batching.open_conn(address(listen, 0))))
            for flow in flows:
                relay.bind(flow)
            if metrics:
                REGISTRY.register(relay)
                REGISTRY.register(prometheus_collector())
                start_http_server(*address(metrics)[::-1])
        except (OSError, ValueError) as error:
            typer.echo(f"relay.py: {error}", err=True)
            raise typer.Exit(2) from None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, relay.stop)
        print("relaying on", *relay.conn.local_addr()[:2], flush=True)
        while True:
            relay.forward(relay.conn.recv_segments())


if __name__ == "__main__":
    typer.run(main)
