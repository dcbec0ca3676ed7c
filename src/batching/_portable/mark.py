"""Mark: what a train is sent with beside its segment size.

IPv4 over an IPv6 socket is marked by IP_TOS (IPV6_TCLASS would be accepted and ignored), and
takes its source from IP_PKTINFO, or v4-mapped from IPV6_PKTINFO.
"""

import struct
from typing import Final, NamedTuple

from .._address import Sockaddr
from .._kernel import (
    ECN_BITS,
    IP_PKTINFO,
    IP_TOS,
    IPV6_PKTINFO,
    IPV6_TCLASS,
    IS_LINUX,
    SOL_IP,
    SOL_IPV6,
)
from .control import IP_PKTINFO_FIELDS, IPV6_PKTINFO_FIELDS
from .peers import Peers
from .segments import Segments

__all__ = ["Mark", "mark_of"]

_TRAFFIC_CLASS: Final = struct.Struct("@i")


class Mark(NamedTuple):
    """What a train asks for.  Trains whose marks are equal may be one."""

    tos: int | None = None
    """Where it travels as IPv4; None: as the socket has it.  Likewise, as IPv6:"""
    tclass: int | None = None
    interface: int = 0
    """0: as routes have it."""
    source: Sockaddr | None = None

    def control(self, target: Sockaddr) -> list[tuple[int, int, bytes]]:
        """Return (level, type, data) for sendmsg."""
        control = []
        if target.is_ipv4 and self.tos is not None:
            control.append((SOL_IP, IP_TOS, _TRAFFIC_CLASS.pack(self.tos)))
        elif not target.is_ipv4 and self.tclass is not None:
            control.append((SOL_IPV6, IPV6_TCLASS, _TRAFFIC_CLASS.pack(self.tclass)))
        source = self.source
        if source is None and not self.interface:
            return control
        if target.is_ipv4 and (source is None or source.is_ipv4):
            host = source.host[-4:] if source else bytes(4)
            data = IP_PKTINFO_FIELDS.pack(self.interface, host, bytes(4))
            return [*control, (SOL_IP, IP_PKTINFO, data)]
        data = IPV6_PKTINFO_FIELDS.pack(source.host if source else bytes(16), self.interface)
        return [*control, (SOL_IPV6, IPV6_PKTINFO, data)]


def mark_of(train: Segments, peers: Peers) -> Mark | None:
    """Return what a train asks for, None where it is nothing."""
    if train.ecn is None and train.local_addr is None and not train._is_way_out:
        return None
    if not IS_LINUX:
        raise ValueError("local_addr, interface and ecn of what is sent need Linux")
    tos = tclass = source = None
    interface = 0
    if train.ecn is not None:
        tos = peers.tos & ~ECN_BITS | train.ecn
        tclass = peers.tclass & ~ECN_BITS | train.ecn
    if train._is_way_out:
        interface = train.interface or 0
    if train.local_addr is not None:
        local = peers.get(train.local_addr)
        if peers._is_source(local):
            source = local._sockaddr
            if not interface and source.is_link_local:
                interface = source.scope_id
    return Mark(tos, tclass, interface, source and source._replace(port=0))
