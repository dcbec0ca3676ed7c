"""The network between the two endpoints, what befalls it, and what it lost.

Two namespaces with a veth between them, made once; "lo" is the loopback of the first.
Without the right to make namespaces there is only the machine's own loopback, and nothing
befalls that.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from typing import Final

from netns import Link, Namespace

from .plan import VETH, Fault, Plan

_DEVICES: Final = ("v0", "v1")
# Counters of the kernel, each of a datagram or train that is lost.  Those of the socket
# (RcvbufErrors, MemErrors, what is dropped from its backlog) are counted there too.
_SNMP: Final = ("Ip", "Udp")
_LOSSES: Final = (
    "UdpRcvbufErrors",
    "UdpMemErrors",
    "UdpInCsumErrors",
    "Udp6RcvbufErrors",
    "Udp6MemErrors",
    "Udp6InCsumErrors",
)
_OTHER_LOSSES: Final = (
    # Not OutDiscards and FragFails: those the sender is told of.
    "IpReasmFails",
    "IpInDiscards",
    "Ip6ReasmFails",
    "Ip6InDiscards",
)


class Path:
    """The namespaces, from the start of a run to its end.

    Raises:
        OSError: The right or a tool to make them is missing.
    """

    def __init__(self) -> None:
        for tool in ("ip", "nft", "tc"):
            if not shutil.which(tool):
                raise FileNotFoundError(f"no {tool} here")
        self._sides = [Namespace()]
        try:
            self._sides.append(Namespace())
            Link(self._sides[0], self._sides[1])
            self._prepare()
        except BaseException:
            self.close()
            raise
        self._undo: dict[Fault, Callable[[], None]] = {}

    def _prepare(self) -> None:
        for side in self._sides:
            side.sysctl("ipv6.conf.all.keep_addr_on_down", 1)
            side.sysctl("ipv4.ipfrag_time", 1)  # seconds: what is incomplete is soon told
            side.sysctl("ipv6.ip6frag_time", 1)
        self._introduce()

    def _introduce(self) -> None:
        """Tell both ends the other's address: what waits for an answer is dropped uncounted."""
        for own, (side, device) in enumerate(zip(self._sides, _DEVICES, strict=True)):
            (other,) = json.loads(self._sides[1 - own].ip(f"-j link show {_DEVICES[1 - own]}"))
            for family in ("4", "6"):
                side.ip(
                    f"neigh replace {VETH[family][1 - own]} lladdr {other['address']}"
                    f" dev {device} nud permanent"
                )

    def namespace(self, plan: Plan, side: int) -> str:
        """Return the file that a worker enters its namespace by."""
        return self._sides[side if plan.path == "veth" else 0].path

    def close(self) -> None:
        for side in self._sides:
            side.close()

    def begin(self, plan: Plan) -> None:
        """Make it as the plan wants it to be when the round begins."""
        self._set_mtu(plan.mtu)
        for fault in plan.faults:
            if fault.kind in ("slow", "queue"):
                limit = "100m" if fault.kind == "slow" else "60k"
                self._sides[fault.side].run(
                    *f"tc qdisc add dev {_DEVICES[fault.side]} root tbf rate 80mbit".split(),
                    *f"burst 64k limit {limit}".split(),
                )

    def end(self, plan: Plan) -> None:
        """Undo it all."""
        for undo in list(self._undo.values()):
            undo()
        self._undo.clear()
        for fault in plan.faults:
            if fault.kind in ("slow", "queue"):
                self._sides[fault.side].run(
                    *f"tc qdisc del dev {_DEVICES[fault.side]} root".split()
                )

    def start(self, fault: Fault, plan: Plan) -> None:
        """Let a fault of the network begin."""
        side = self._sides[fault.side if plan.path == "veth" else 0]
        device = _DEVICES[fault.side]
        undo: Callable[[], object]
        if fault.kind == "mtu":
            self._set_mtu((1280, 1400, 2000, 9000)[fault.value % 4])
            undo = lambda: self._set_mtu(plan.mtu)  # noqa: E731
        elif fault.kind == "route":
            undo = self._limit_routes(side, fault.side, (1280, 1300, 1420)[fault.value % 3])
        elif fault.kind == "down":
            side.ip(f"link set {device} down")
            undo = functools.partial(self._up, side, device)
        elif fault.kind == "refuse":
            length = (600, 1400, 3000, 20000)[fault.value % 4]
            undo = self._rule(side, "output", f"udp length > {length} counter drop")
        else:
            share = (1, 10, 40, 99)[fault.value % 4]
            rule = f"meta l4proto udp numgen random mod 100 < {share} counter drop"
            undo = self._rule(side, "input", rule)
        self._undo[fault] = lambda: (undo(), None)[1]

    def stop(self, fault: Fault) -> None:
        """Let a fault of the network end."""
        self._undo.pop(fault)()

    def _up(self, side: Namespace, device: str) -> None:
        side.ip(f"link set {device} up")
        self._introduce()

    def _set_mtu(self, mtu: int) -> None:
        for side, device in zip(self._sides, _DEVICES, strict=True):
            side.ip(f"link set {device} mtu {mtu}")

    def _limit_routes(self, side: Namespace, number: int, mtu: int) -> Callable[[], None]:
        prefixes = (("", "10.9.0.0/24"), ("-6 ", "fd09::/64"))
        device = _DEVICES[number]
        for family, prefix in prefixes:
            with contextlib.suppress(AssertionError):  # the link is down just now
                side.ip(f"{family}route add {prefix} dev {device} metric 1 mtu {mtu}")

        def undo() -> None:
            for family, prefix in prefixes:
                with contextlib.suppress(AssertionError):  # gone: the link was down
                    side.ip(f"{family}route del {prefix} dev {device} metric 1")

        return undo

    def _rule(self, side: Namespace, hook: str, rule: str) -> Callable[[], str]:
        side.run(
            "nft",
            "-f",
            "-",
            feed=f"table inet soak_{hook} {{\n chain soak {{\n"
            f"  type filter hook {hook} priority 0\n  {rule}\n }}\n}}\n",
        )
        return lambda: side.run("nft", "delete", "table", "inet", f"soak_{hook}")

    def losses(self) -> Counter[str]:
        """Return what the kernel has counted of both sides, since they were made."""
        found: Counter[str] = Counter()
        for side in self._sides:
            with side:
                found.update(_counters())
            for link in json.loads(side.run("ip", "-s", "-j", "link", "show")):
                if link["ifname"] in ("lo", *_DEVICES):
                    for way in ("rx", "tx"):
                        found["device drops"] += link["stats64"][way]["dropped"]
        return found


def _counters() -> dict[str, int]:
    """Return the counters of UDP and IP in this thread's namespace."""
    found: dict[str, int] = {}
    with open("/proc/thread-self/net/snmp", encoding="ascii") as file:
        lines = [line.split() for line in file]
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if names[0][:-1] in _SNMP:
            found |= {
                names[0][:-1] + name: int(value)
                for name, value in zip(names[1:], values[1:], strict=True)
            }
    with open("/proc/thread-self/net/snmp6", encoding="ascii") as file:
        found |= {name: int(value) for name, value in (line.split() for line in file)}
    return found


def counted(delta: Counter[str]) -> Counter[str]:
    """Return those of the counters that tell of losses, as far as they have counted any."""
    names = (*_LOSSES, *_OTHER_LOSSES, "device drops")
    return Counter({name: delta[name] for name in names if delta[name]})


def socket_drops(delta: Counter[str]) -> int:
    """Return how many packets found no room in a socket's queue."""
    return sum(delta[name] for name in _LOSSES)


def other_drops(delta: Counter[str]) -> int:
    return sum(delta[name] for name in (*_OTHER_LOSSES, "device drops"))
