"""What balancers do to flows and trains, ECMP and IPVS: facts for docs/scaling.md.

    PYTHON=build/venv-python3/bin/python
    python3 scripts/kernels/main.py run 6.12 $PYTHON scripts/kernels/balancers.py

A client, a balancer and three servers are network namespaces, with a veth from the balancer to
each of the others.  The client has FLOWS flows to one address that all servers stand behind, each
from a port of its own.  Each sends a train, which is answered by one; the columns:

servers     flows on each of the three; "+n" flows are on several
messages    that a train arrives in: 1 if it is whole
answers     trains that came back from the service's own address, and the messages of one
moved       once the third server is taken away: flows of the others that are now elsewhere
lost        flows of the third that have no server since

"expire" is the sysctl expire_nodest_conn; "cut" tells that the client's device cuts trains.
"""

from __future__ import annotations

import contextlib
import platform
import select
import shutil
import socket
import struct
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / folder) for folder in ("src", "tests", "tests/faults")]

from batching._kernel import SO_RCVBUFFORCE, SOL_UDP, UDP_GRO, UDP_SEGMENT  # noqa: E402
from loopback import until  # noqa: E402
from netns import Namespace, namespace, wait_for_carrier  # noqa: E402

SERVERS: Final = 3
FLOWS: Final = 60
TRAIN: Final = 10
SIZE: Final = 1000
SERVICE: Final = ("10.9.9.9", 9000)
SILENCE_S: Final = 0.5  # between namespaces nothing is on its way for so long

Servers = dict[int, Counter[int]]  # by flow: datagrams by server


@dataclass(frozen=True, slots=True)
class Balancer:
    """A way of spreading flows, and the commands that set it up and take a server away."""

    name: str
    setup: tuple[str, ...]
    removal: tuple[str, ...]
    is_nat: bool = False
    """Servers have the packets with their own address, not with the service's."""
    is_cut: bool = False
    """The client's device cuts trains, as a network card does."""


def ecmp(name: str, policy: int) -> Balancer:
    def route(servers: int) -> str:
        hops = [f"nexthop via 10.2.{number}.2" for number in range(servers)]
        return f"ip route replace {SERVICE[0]} {' '.join(hops)}"

    setup = (f"sysctl -qw net.ipv4.fib_multipath_hash_policy={policy}", route(SERVERS))
    return Balancer(name, setup, (route(SERVERS - 1),))


def resilient() -> Balancer:
    hops = [f"ip nexthop add id {n + 1} via 10.2.{n}.2 dev s{n}" for n in range(SERVERS)]
    setup = (
        "sysctl -qw net.ipv4.fib_multipath_hash_policy=1",
        *hops,
        "ip nexthop add id 10 group 1/2/3 type resilient buckets 96 idle_timer 0",
        f"ip route replace {SERVICE[0]} nhid 10",
    )
    removal = "ip nexthop replace id 10 group 1/2 type resilient buckets 96 idle_timer 0"
    return Balancer("ECMP, resilient, ports too", setup, (removal,))


def ipvs(options: str, way: str = "-m", *, expire: int = 0, is_cut: bool = False) -> Balancer:
    service = ":".join(map(str, SERVICE))
    port = SERVICE[1]
    setup = (
        "sysctl -qw net.ipv4.conf.all.rp_filter=0",
        # Real servers answer past the balancer with -g; here it is their router, too.
        "sysctl -qw net.ipv4.conf.all.accept_local=1",
        f"ip addr add {SERVICE[0]}/32 dev lo",
        f"ipvsadm -A -u {service} {options}",
        f"sysctl -qw net.ipv4.vs.expire_nodest_conn={expire}",
        *[f"ipvsadm -a -u {service} -r 10.2.{n}.2:{port} {way}" for n in range(SERVERS)],
    )
    removal = f"ipvsadm -d -u {service} -r 10.2.{SERVERS - 1}.2:{port}"
    name = f"IPVS {options} {way}" + ", expire" * expire + ", cut" * is_cut
    return Balancer(name, setup, (removal,), way == "-m", is_cut)


BALANCERS: Final = (
    ecmp("ECMP, addresses only", 0),
    ecmp("ECMP, ports too", 1),
    resilient(),
    ipvs("-s sh"),
    ipvs("-s sh -b sh-port"),
    ipvs("-s mh -b mh-port"),
    ipvs("-s mh -b mh-port", expire=1),
    ipvs("-s mh -b mh-port", "-g"),
    ipvs("-s rr"),
    ipvs("-s mh -b mh-port --ops"),
    ipvs("-s mh -b mh-port --ops", "-g"),
    ipvs("-s sh -b sh-port --ops", "-g"),
    ipvs("-s rr --ops", "-g"),
    ipvs("-s mh -b mh-port --ops", "-g", is_cut=True),
    ipvs("-s rr --ops", "-g", is_cut=True),
)


def connect(hub: Namespace, side: Namespace, name: str, net: str) -> None:
    """Make a veth: the hub has net.1 on a device of that name, the side net.2 on eth0."""
    hub.ip(f"link add {name} type veth peer name eth0 netns {side.path}")
    hub.ip(f"addr add {net}.1/24 dev {name}")
    hub.ip(f"link set {name} up")
    side.ip(f"addr add {net}.2/24 dev eth0")
    side.ip("link set eth0 up")
    wait_for_carrier(side, "eth0")
    side.ip(f"route add default via {net}.1")


def meet(side: Namespace, host: str) -> None:
    """Let a neighbour be known, so that no train waits for it."""
    with side, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", (host, 9))
    until(lambda: "lladdr" in side.ip(f"neigh show {host}"))


def bound(side: Namespace, host: str, port: int) -> socket.socket:
    with side:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 4 << 20)  # all flows may be on one server
    sock.bind((host, port))
    return sock


def send_train(sock: socket.socket, flow: int, to: tuple[str, int]) -> None:
    datagrams = [struct.pack("=HH", flow, number).ljust(SIZE, b"\0") for number in range(TRAIN)]
    sock.sendmsg(datagrams, [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", SIZE))], 0, to)


class Site:
    """The namespaces, and the sockets in them."""

    def __init__(self, stack: contextlib.ExitStack, kind: Balancer) -> None:
        self._hub = stack.enter_context(namespace())
        client = stack.enter_context(namespace())
        connect(self._hub, client, "c", "10.1.0")
        self._sinks = []
        self._hub.sysctl("ipv4.ip_forward", 1)
        for number in range(SERVERS):
            server = stack.enter_context(namespace())
            connect(self._hub, server, f"s{number}", f"10.2.{number}")
            server.ip(f"addr add {SERVICE[0]}/32 dev lo")
            host = f"10.2.{number}.2" if kind.is_nat else SERVICE[0]
            self._sinks.append(stack.enter_context(bound(server, host, SERVICE[1])))
            meet(self._hub, f"10.2.{number}.2")
        self._sources = [
            stack.enter_context(bound(client, "10.1.0.2", 20000 + flow)) for flow in range(FLOWS)
        ]
        meet(client, "10.1.0.1")
        if kind.is_cut:
            client.run("ethtool", "-K", "eth0", "tx-udp-segmentation", "off")

    def run(self, commands: tuple[str, ...]) -> None:
        for command in commands:
            self._hub.run(*command.split())

    def send(self) -> tuple[Servers, int]:
        """Let each flow send a train; return which servers got it, in how many messages."""
        for flow, source in enumerate(self._sources):
            send_train(source, flow, SERVICE)
        servers: Servers = defaultdict(Counter)
        messages = 0
        self._askers: dict[int, tuple[socket.socket, tuple[str, int]]] = {}
        while ready := select.select(self._sinks, [], [], SILENCE_S)[0]:
            for sink in ready:
                data, sender = sink.recvfrom(1 << 16)
                (flow,) = struct.unpack_from("=H", data)
                servers[flow][self._sinks.index(sink)] += len(data) // SIZE
                self._askers[flow] = (sink, sender)
                messages += 1
        return servers, messages

    def answer(self) -> tuple[int, int]:
        """Answer each flow by a train; return the datagrams that are right, and messages."""
        for flow, (sink, asker) in self._askers.items():
            send_train(sink, flow, asker)
        datagrams = messages = 0
        while ready := select.select(self._sources, [], [], SILENCE_S)[0]:
            for source in ready:
                data, sender = source.recvfrom(1 << 16)
                (flow,) = struct.unpack_from("=H", data)
                if sender == SERVICE and source is self._sources[flow]:
                    datagrams += len(data) // SIZE
                    messages += 1
        return datagrams, messages


def row(kind: Balancer) -> str:
    """Try a balancer, in namespaces of its own."""
    with contextlib.ExitStack() as stack:
        site = Site(stack, kind)
        site.run(kind.setup)
        before, messages = site.send()
        came = sum(sum(servers.values()) for servers in before.values())
        if came != FLOWS * TRAIN:
            return f"{came} datagrams of {FLOWS * TRAIN} came"
        alone = Counter(max(servers) for servers in before.values() if len(servers) == 1)
        spread = "/".join(str(alone[number]) for number in range(SERVERS))
        spread += f"+{FLOWS - alone.total()}" if alone.total() < FLOWS else ""
        right, returned = site.answer()
        answers = f"{right // TRAIN} ({returned * TRAIN / right:.2g})" if right else "none"
        site.run(kind.removal)
        after, _ = site.send()
        last = SERVERS - 1
        others = [flow for flow, servers in before.items() if set(servers) <= set(range(last))]
        moved = sum(after[flow].keys() != before[flow].keys() for flow in others)
        lost = sum(after[flow].total() < TRAIN for flow in range(FLOWS) if flow not in others)
        return (
            f"{spread:<14} {messages / FLOWS:<9.2g} {answers:<12}"
            f" {f'{moved} of {len(others)}':<10} {lost} of {FLOWS - len(others)}"
        )


def main() -> None:
    print(f"Linux {platform.release()}, {FLOWS} flows of one client, a train of {TRAIN} each")
    print(f"{'':36}{'servers':<14} {'messages':<9} {'answers':<12} {'moved':<10} lost")
    for kind in BALANCERS:
        if kind.name.startswith("IPVS") and not shutil.which("ipvsadm"):
            said = "not asked: there is no ipvsadm"
        else:
            try:
                said = row(kind)
            except AssertionError as error:  # of a command
                said = str(error).strip().splitlines()[-1]
        print(f"{kind.name:<36}{said}", flush=True)


if __name__ == "__main__":
    main()
