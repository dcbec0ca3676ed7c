"""A relay of Geneve flows, as the data plane of Tailscale's udprelay: two peers to a VNI.

python examples/relay.py [::]:7400 7=192.0.2.1:41641,[2001:db8::1]:41641 --metrics 127.0.0.1:9400

It needs udp-batching[cli,metrics].  What comes from one of the two goes to the other as it is,
header and all.  The rest is dropped and counted; nothing is ever sent to who is not bound.

Rule 1: every datagram's header is checked, but a train is looked at as a whole.
Rule 2: a train of one header is forwarded whole; any other is halved until its parts are such.
Rule 3: a header is decoded, and its sender looked up, once; then a cache knows the way.

What differs: peers are bound for good, by the command line and not by a handshake, so control
packets and STUN are dropped; so are options and versions, which udprelay does not look at.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

import typer
from prometheus_client import REGISTRY, start_http_server
from prometheus_client.core import CounterMetricFamily

import batching
from batching.geneve import GENEVE_FIXED_HEADER_LENGTH, GeneveHeader, VirtualNetworkID
from batching.metrics import prometheus_collector

FATES = ("bad header", "control", "unknown VNI", "unknown peer", "truncated", "unsent")


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
        self.drops = {fate: Way((fate, "", "")) for fate in FATES}
        self.way = functools.lru_cache(4096)(self._find_way)

    def bind(self, flow: str) -> None:
        """Let two peers reach one another: ``VNI=HOST:PORT,HOST:PORT``."""
        vni, *peers = flow.replace("=", ",").split(",")
        family = socket.AF_INET if len(self.conn.local_addr()) == 2 else socket.AF_INET6
        hints = family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST | socket.AI_V4MAPPED
        ends = [socket.getaddrinfo(*address(peer), *hints)[0][4] for peer in peers]
        if len(ends) != 2 or ends[0] == ends[1]:
            raise ValueError(f"{flow}: must be VNI=HOST:PORT,HOST:PORT, of two peers")
        ways = [Way(("forwarded", vni, p), to) for p, to in zip(peers, ends[::-1], strict=True)]
        self.flows[VirtualNetworkID(int(vni))] = dict(zip(ends, ways, strict=True))
        self.way.cache_clear()

    def _find_way(self, header: bytes, sender: tuple[Any, ...]) -> Way:
        try:
            geneve = GeneveHeader.decode(header)
        except ValueError:  # options
            return self.drops["bad header"]
        if geneve.version or geneve.control:
            return self.drops["bad header" if geneve.version else "control"]
        ways = self.flows.get(geneve.vni)
        return ways.get(sender, self.drops["unknown peer"]) if ways else self.drops["unknown VNI"]

    def stop(self, *_: object) -> None:
        """Let no more be received; what was may still go out, for a second."""
        with contextlib.suppress(OSError):  # a second signal may find it closed
            self.conn.set_read_deadline(time.monotonic())
            self.conn.set_write_deadline(time.monotonic() + 1)

    def forward(self, trains: list[batching.Segments]) -> None:
        """Send what may pass of trains to where it belongs."""
        passing = [part for train in trains for part in self.passing(train)]
        try:
            self.conn.send_segments(passing)
        except batching.SendError as error:
            self.drops["unsent"].n_datagrams += sum(len(part) for part in passing) - error.sent

    def passing(self, train: batching.Segments) -> list[batching.Segments]:
        """Return what may pass of a train, with the address that it goes to."""
        if train.truncated:
            way = self.drops["truncated"]
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
        labels, what = ("fate", "vni", "peer"), "What became of them; forwarded: unsent ones too"
        datagrams = CounterMetricFamily("relay_datagrams", what, labels=labels)
        n_bytes = CounterMetricFamily("relay_bytes", "The same, with headers", labels=labels)
        for way in (*self.drops.values(), *(w for ws in self.flows.values() for w in ws.values())):
            datagrams.add_metric(way.labels, way.n_datagrams)
            n_bytes.add_metric(way.labels, way.n_bytes)
        return [datagrams, n_bytes]


def address(text: str) -> tuple[str, int]:
    """Parse ``HOST:PORT``, of IPv6 ``[HOST]:PORT``."""
    host, _, port = text.rpartition(":")
    if not 0 <= int(port) < 65536:  # getaddrinfo would take it modulo 65536
        raise ValueError(f"{text}: the port must be 0 to 65535")
    return host.strip("[]"), int(port)


def main(listen: str, flows: list[str], metrics: str = "") -> None:
    """Relay Geneve flows, each VNI=HOST:PORT,HOST:PORT, until SIGINT or SIGTERM."""
    with batching.open_conn(address(listen)) as conn:
        relay = Relay(conn)
        for flow in flows:
            relay.bind(flow)
        if metrics:
            REGISTRY.register(relay)
            REGISTRY.register(prometheus_collector())
            host, port = address(metrics)
            start_http_server(port, host)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, relay.stop)
        print("relaying on", *conn.local_addr()[:2], flush=True)
        with contextlib.suppress(TimeoutError):  # what stop() makes of a call
            while True:
                relay.forward(conn.recv_segments())


if __name__ == "__main__":
    typer.run(main)
