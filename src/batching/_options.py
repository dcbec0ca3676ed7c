"""A connection's socket options: what comes beside the payload, and how packets are marked.

Rule: an IPv6 socket may carry IPv4 (dual stack), so each option is set for both there; the
kernel takes those of IPv4 on any IPv6 socket.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

from ._checks import check_number, check_switch
from ._kernel import (
    ECN_BITS,
    IP_MTU_DISCOVER,
    IP_PKTINFO,
    IP_RECVERR,
    IP_RECVTOS,
    IP_TOS,
    IPV6_MTU_DISCOVER,
    IPV6_RECVERR,
    IPV6_RECVPKTINFO,
    IPV6_RECVTCLASS,
    IPV6_TCLASS,
    IS_LINUX,
    SO_TIMESTAMPNS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_GRO,
    UDP_SEGMENT,
)
from ._multicast import Membership, set_sending
from ._multicast_interface import note_option
from ._path_mtu import path_mtu
from .packetconn import SocketConn

if TYPE_CHECKING:
    from ._address import Address
    from ._backend import Peers

__all__ = ["PATH_MTU_DISCOVERY", "OptionsConn", "Wishes"]

# include/uapi/linux/in.h: IP_PMTUDISC_*; IPv6 has the same numbers.
PATH_MTU_DISCOVERY: Final = {"dont": 0, "want": 1, "do": 2, "probe": 3, "interface": 4, "omit": 5}
_OURS: Final = {
    (SOL_UDP, UDP_SEGMENT): "UDP_SEGMENT: a Conn attaches it to each train",
    (SOL_UDP, UDP_GRO): "UDP_GRO: turned off, trains that wait lose their sizes",
}


class Wishes:
    """What ``open_conn`` was asked to switch on beside the payload."""

    __slots__ = ("ecn", "path_mtu_discovery", "pktinfo", "timestamps", "transport_errors")

    def __init__(
        self,
        *,
        ecn: bool = False,
        pktinfo: bool = False,
        timestamps: bool = False,
        transport_errors: bool = False,
        path_mtu_discovery: str | None = None,
    ) -> None:
        """Check them: TypeError, or ValueError for an unknown mode, or for any but on Linux."""
        self.ecn = check_switch("ecn", ecn)
        self.pktinfo = check_switch("pktinfo", pktinfo)
        self.timestamps = check_switch("timestamps", timestamps)
        self.transport_errors = check_switch("transport_errors", transport_errors)
        self.path_mtu_discovery = path_mtu_discovery
        if path_mtu_discovery not in (None, *PATH_MTU_DISCOVERY):  # it may be unhashable
            allowed = ", ".join(map(repr, PATH_MTU_DISCOVERY))
            raise ValueError(
                f"path_mtu_discovery {path_mtu_discovery!r}, must be {allowed} or None"
            )
        for name in self.__slots__:
            if getattr(self, name) and not IS_LINUX:
                raise ValueError(f"{name}: needs Linux")

    @property
    def has_metadata(self) -> bool:
        """Whether received trains have any."""
        return self.ecn or self.pktinfo or self.timestamps

    def apply(self, sock: socket.socket) -> None:
        """Switch on what was wished for; before bind, so that the first datagram has it."""
        if self.ecn:
            set_both(sock, IP_RECVTOS, IPV6_RECVTCLASS, 1)
        if self.pktinfo:
            # Of IPv4 over IPv6 the kernel tells both: IP_PKTINFO knows a broadcast from an
            # address of ours.
            set_both(sock, IP_PKTINFO, IPV6_RECVPKTINFO, 1)
        if self.timestamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        if self.transport_errors:
            set_both(sock, IP_RECVERR, IPV6_RECVERR, 1)
        if self.path_mtu_discovery is not None:
            mode = PATH_MTU_DISCOVERY[self.path_mtu_discovery]
            set_both(sock, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, mode)


class OptionsConn(SocketConn):
    """The part of a ``Conn`` that sets and asks socket options."""

    _peers: Peers

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        """Set an option as ``socket.setsockopt`` does.

        Raises:
            ValueError: UDP_SEGMENT or UDP_GRO, which are the connection's own.
            OSError: The kernel's refusal; EBADF: closed.
        """
        if why := _OURS.get((level, option)):
            raise ValueError(f"option {why}")
        with self._open_waiter.descriptor as sock:
            sock.setsockopt(level, option, value)
            note_option(sock, level, option, value)
            if (level, option) in _traffic_class_options(sock):
                self.note_traffic_class(sock)

    def getsockopt(self, level: int, option: int, buflen: int = 0) -> int | bytes:
        """Return an option as ``socket.getsockopt`` does: an int, or ``buflen`` bytes."""
        with self._open_waiter.descriptor as sock:
            return (
                sock.getsockopt(level, option, buflen) if buflen else sock.getsockopt(level, option)
            )

    def set_ecn(self, ecn: int) -> None:
        """Mark all that is sent with this ECN codepoint; DSCP stays as it is.

        As a socket option it costs nothing; ``Segments.ecn`` wins over it.

        Args:
            ecn: 0: not ECN capable, 1: ECT(1), 2: ECT(0), 3: CE (RFC 3168).

        Raises:
            TypeError, ValueError: It is no int from 0 to 3.
            OSError: EBADF: closed.
        """
        check_number("ecn", ecn, 0, ECN_BITS)
        with self._open_waiter.descriptor as sock:
            for level, option in _traffic_class_options(sock):
                old = sock.getsockopt(level, option)
                sock.setsockopt(level, option, old & ~ECN_BITS | ecn)
            self.note_traffic_class(sock)

    def path_mtu(self, addr: Address | None = None) -> int:
        """Return the bytes that a packet to ``addr`` may have, as far as the kernel knows now.

        The data of a datagram may have 28 less over IPv4, 48 less over IPv6.  It is the MTU
        of the device, or of the route, until a router has told of a lower one; that is
        forgotten after 10 minutes.  Of a group the device is that of ``set_multicast``.  Of a
        group, and of an address that is not the connected one, a socket in the network
        namespace of the calling thread asks, which lives as long as the call.

        Args:
            addr: None: the connected one.

        Raises:
            TypeError, ValueError: As ``send_batch``; not on Linux.
            OSError: The kernel's refusal, for example ENETUNREACH; EBADF: closed.
        """
        if not IS_LINUX:
            raise ValueError("path_mtu: needs Linux")
        with self._open_waiter.descriptor as sock:
            return path_mtu(sock, self._peers.get(addr).address)

    def join_group(
        self, group: str, interface: int | str | None = None, *, source: str | None = None
    ) -> None:
        """Receive what is sent to a multicast group, until ``leave_group`` or ``close``.

        A socket that is bound to a wildcard may get, on its port, what others of this machine
        have joined too: bind to the group for nothing else, or look at ``Segments.local_addr``.

        Args:
            group: A numeric host of 224.0.0.0/4 or ff00::/8.  On a dual-stack socket both.
            interface: Where it is sent, an index or a name; None: as routes have it.
            source: Only what this numeric host sends (source-specific multicast).

        Raises:
            TypeError, ValueError: No group, an unknown interface, a source of another family.
            OSError: EADDRINUSE: joined already; ENODEV: no interface has a route to it;
                ENOBUFS: too many (net.ipv4.igmp_max_memberships); EBADF: closed.
        """
        with self._open_waiter.descriptor as sock:
            Membership.of(sock, group, interface, source).join(sock)

    def leave_group(
        self, group: str, interface: int | str | None = None, *, source: str | None = None
    ) -> None:
        """End what ``join_group`` began with the same arguments.

        Raises:
            TypeError, ValueError: As ``join_group``.
            OSError: EADDRNOTAVAIL, of a source EINVAL too: not joined; EBADF: closed.
        """
        with self._open_waiter.descriptor as sock:
            Membership.of(sock, group, interface, source).leave(sock)

    def set_multicast(
        self,
        *,
        loop: bool | None = None,
        ttl: int | None = None,
        interface: int | str | None = None,
    ) -> None:
        """Set how what is sent to multicast groups leaves, of both families; None: as it is.

        Args:
            loop: Whether it reaches this machine too; it does at first.
            ttl: Hops that it may take, 0 to 255; 1 at first, which is the link.
            interface: Where it leaves, an index or a name; else as routes have it.
                ``Segments.interface`` and the scope of an IPv6 address win over it.

        Raises:
            TypeError, ValueError: ``loop`` is no bool, ``ttl`` out of its limits, an unknown
                interface; nothing is set.
            OSError: EBADF: closed.
        """
        if loop is not None:
            check_switch("loop", loop)
        with self._open_waiter.descriptor as sock:
            set_sending(sock, loop=loop, ttl=ttl, interface=interface)

    def note_traffic_class(self, sock: socket.socket) -> None:
        """Tell the planner the DSCP that trains with a mark of their own keep."""
        classes = [sock.getsockopt(*option) for option in _traffic_class_options(sock)]
        self._peers.tos, self._peers.tclass = classes[0], classes[-1]


def set_both(sock: socket.socket, of_ipv4: int, of_ipv6: int, value: int) -> None:
    """Set an option of IP, and, on an IPv6 socket, its twin of IPv6 too."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(SOL_IPV6, of_ipv6, value)
    sock.setsockopt(SOL_IP, of_ipv4, value)


def _traffic_class_options(sock: socket.socket) -> list[tuple[int, int]]:
    of_ipv4 = [(SOL_IP, IP_TOS)] if IS_LINUX or sock.family == socket.AF_INET else []
    return of_ipv4 + ([(SOL_IPV6, IPV6_TCLASS)] if sock.family == socket.AF_INET6 else [])
