"""Routed: a Link whose right side is a router, and a host behind it.

left has v0 with 10.9.0.1 and fd09::1; the router has v1 with 10.9.0.2 and fd09::2, and w0;
host has w1 with 10.9.1.2 and fd09:1::2.  The wire behind the router takes MTU bytes a packet,
which left does not know.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from netns import Link, Namespace, link, namespace, wait_for_address, wait_for_carrier

MTU: Final = 1280  # bytes, the least that IPv6 may have


class Routed:
    """Three namespaces: ``left``, ``router`` and ``host``."""

    HOST: Final = ("10.9.1.2", "fd09:1::2")
    ROUTER: Final = Link.RIGHT  # as left sees it
    UNREACHABLE: Final = ("10.9.2.9", "fd09:2::9")  # the router has a route that says so
    PROHIBITED: Final = ("10.9.3.9", "fd09:3::9")  # likewise
    _BEHIND: Final = ("10.9.1.1", "fd09:1::1")
    _MAC: Final = ("02:00:00:00:09:11", "02:00:00:00:09:12")

    def __init__(self, before: Link, host: Namespace) -> None:
        self.left, self.router, self.host = before.left, before.right, host
        router = self.router
        router.ip(
            f"link add w0 address {self._MAC[0]} mtu {MTU} type veth"
            f" peer name w1 address {self._MAC[1]} mtu {MTU} netns {host.path}"
        )
        host.sysctl("ipv6.conf.all.accept_dad", 0)
        for side, device, own, peer, mac in (
            (router, "w0", self._BEHIND, self.HOST, self._MAC[1]),
            (host, "w1", self.HOST, self._BEHIND, self._MAC[0]),
        ):
            self._batch(
                side,
                f"addr add {own[0]}/24 dev {device}",
                f"addr add {own[1]}/64 dev {device} nodad",
                f"link set {device} up",
                *[f"neigh replace {each} lladdr {mac} dev {device} nud permanent" for each in peer],
            )
        for side, device in ((router, "w0"), (host, "w1")):
            wait_for_carrier(side, device)
        for side, own in ((router, self._BEHIND), (host, self.HOST)):
            wait_for_address(side, own[1])
        self._batch(self.left, *[f"route add default via {own}" for own in self.ROUTER])
        self._batch(host, *[f"route add default via {own}" for own in self._BEHIND])
        for kind, hosts in (("unreachable", self.UNREACHABLE), ("prohibit", self.PROHIBITED)):
            self._batch(router, *[f"route add {kind} {each}" for each in hosts])
        router.sysctl("ipv4.ip_forward", 1)
        router.sysctl("ipv6.conf.all.forwarding", 1)
        for side in (router, host):  # of ICMP errors, so that none is left out
            side.sysctl("ipv4.icmp_ratelimit", 0)
            side.sysctl("ipv6.icmp.ratelimit", 0)

    @staticmethod
    def _batch(side: Namespace, *commands: str) -> None:
        side.run("ip", "-batch", "-", feed="\n".join(commands))


@contextlib.contextmanager
def routed() -> Iterator[Routed]:
    """Give three new namespaces, and the wires between them."""
    with link() as before, namespace() as host:
        yield Routed(before, host)
