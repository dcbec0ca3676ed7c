"""What the kernel calls things, what it can do, and what its answers mean.

Constants carry their source.  The number of segments that a train may have is
asked of the kernel itself, once a process: it changed in a stable series
without a change of version that could be relied on.
"""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

import contextlib
import errno
import socket
import struct
import sys
from typing import Any, Final, NamedTuple, Protocol

IS_LINUX: Final = sys.platform == "linux"

SOL_UDP: Final = int(socket.IPPROTO_UDP)
UDP_SEGMENT: Final = 103  # include/uapi/linux/udp.h, Linux 4.18
UDP_GRO: Final = 104  # include/uapi/linux/udp.h, Linux 5.0
SO_RXQ_OVFL: Final = 40  # include/uapi/asm-generic/socket.h, Linux 2.6.33
SO_PROTOCOL: Final = 38  # include/uapi/asm-generic/socket.h, Linux 2.6.32
SO_DOMAIN: Final = 39  # likewise
SO_ATTACH_REUSEPORT_CBPF: Final = 51  # include/uapi/asm-generic/socket.h, Linux 4.5
SO_DETACH_REUSEPORT_BPF: Final = 68  # include/uapi/asm-generic/socket.h, Linux 5.3
SO_TIMESTAMPNS: Final = 35  # include/uapi/asm-generic/socket.h, SO_TIMESTAMPNS_OLD, Linux 2.6.22
SO_MEMINFO: Final = 55  # include/uapi/asm-generic/socket.h, Linux 4.12
SO_SNDBUFFORCE: Final = 32  # include/uapi/asm-generic/socket.h
SO_RCVBUFFORCE: Final = 33  # include/uapi/asm-generic/socket.h
SK_MEMINFO_DROPS: Final = 8  # include/uapi/linux/sock_diag.h: word of SO_MEMINFO
_MEMORY_WORDS: Final = struct.Struct("=9I")  # SK_MEMINFO_VARS of Linux 4.12, or more

# include/uapi/linux/in.h and in6.h; the socket module has some of them, from 3.14 on more.
SOL_IP: Final = int(socket.IPPROTO_IP)
SOL_IPV6: Final = int(socket.IPPROTO_IPV6)
IP_TOS: Final = int(socket.IP_TOS)
IP_PKTINFO: Final = 8
IP_MTU_DISCOVER: Final = 10
IP_RECVERR: Final = 11
IP_RECVTOS: Final = 13
IP_MTU: Final = 14
IPV6_MTU_DISCOVER: Final = 23
IPV6_MTU: Final = 24
IPV6_RECVERR: Final = 25
IPV6_RECVPKTINFO: Final = 49
IPV6_PKTINFO: Final = 50
IPV6_RECVTCLASS: Final = 66
MCAST_JOIN_GROUP: Final = 42
MCAST_LEAVE_GROUP: Final = 45
MCAST_JOIN_SOURCE_GROUP: Final = 46
MCAST_LEAVE_SOURCE_GROUP: Final = 47
IPV6_TCLASS: Final = int(getattr(socket, "IPV6_TCLASS", 67))
ECN_BITS: Final = 0b11  # RFC 3168: the low bits of the traffic class; DSCP is the rest

# Plain numbers: the socket module's are enums, of which a single "&" costs 1 µs.
MSG_CTRUNC: Final = int(getattr(socket, "MSG_CTRUNC", 0x08))
MSG_TRUNC: Final = int(getattr(socket, "MSG_TRUNC", 0x20))
MSG_DONTWAIT: Final = int(getattr(socket, "MSG_DONTWAIT", 0x40))
MSG_WAITFORONE: Final = 0x10000  # include/linux/socket.h

MAX_PAYLOAD_IPV4: Final = 65535 - 20 - 8  # IPv4 total length less IP and UDP headers
MAX_PAYLOAD_IPV6: Final = 65535 - 8  # IPv6 payload length less the UDP header
MAX_MESSAGES: Final = 1024  # UIO_MAXIOV: sendmmsg and recvmmsg cap vlen there, silently
SLAB_SIZE: Final = 65536  # no UDP message, merged or not, is longer than 65535
MAX_SEGMENT_SIZE: Final = 0xFFFF  # the cmsgs of UDP_SEGMENT and UDP_GRO mean a u16
MAX_SEGMENTS: Final = 128  # UDP_MAX_SEGMENTS since 1382e3b6a350; 64 before

# What an errno says of GSO once a train failed and its datagrams went out one by one.
# EIO: no checksum offload on the route, or IPsec; EINVAL: SO_NO_CHECK, or a segment
# above the MTU before Linux 235174b2bed8; EPERM: a firewall that sees the whole train.
GSO_REFUSED: Final = frozenset({errno.EIO, errno.EINVAL, errno.EPERM})
# EMSGSIZE: one segment and its headers are above the path's MTU.
SEGMENT_TOO_LARGE: Final = frozenset({errno.EMSGSIZE})
# Would block.  EAGAIN and EWOULDBLOCK are one on Linux; other systems may differ.
WOULD_BLOCK: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK})

# What the kernel makes of ICMP (icmp_err_convert in net/ipv4/icmp.c, icmpv6_err_convert in
# net/ipv6/icmp.c): the pending errors of a socket, which any call may meet.
NETWORK_ERRORS: Final = frozenset(
    getattr(errno, name)
    for name in (
        "EACCES",
        "ECONNREFUSED",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EMSGSIZE",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
    )
    if hasattr(errno, name)  # not everywhere
)
# Of these, what no route and no limit of this machine gives: it is always another's.
ONLY_FROM_NETWORK: Final = NETWORK_ERRORS - {
    errno.EACCES,
    errno.EHOSTUNREACH,
    errno.EMSGSIZE,
    errno.ENETUNREACH,
}

_max_segments = 0  # not yet measured


def is_answer(error: Exception) -> bool:
    """Tell whether C raised what the caller caught; else a signal's handler did, in Python."""
    where = error.__traceback__
    return where is None or where.tb_next is None


def max_segments() -> int:
    """Return how many datagrams a train may have here: 128, 64, or 1 without GSO.

    The answer is measured once a process, by sending 65 one-byte segments over
    loopback.  Where loopback is down, 64 is assumed and asked again next time.
    """
    global _max_segments
    if not _max_segments:  # two threads may both measure: they find the same
        _max_segments = measure_max_segments()
    return _max_segments or 64


def measure_max_segments() -> int:
    """Return the limit, measured anew; 0 where the attempt said nothing about it."""
    if not IS_LINUX:
        return 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(SOL_UDP, UDP_SEGMENT)
        except OSError:
            return 1  # before Linux 4.18
        sock.setblocking(False)
        size = struct.pack("=H", 1)  # exactly a u16: any other length is EINVAL
        try:
            sock.bind(("127.0.0.1", 0))
            sock.sendmsg([bytes(65)], [(SOL_UDP, UDP_SEGMENT, size)], 0, sock.getsockname())
        except OSError as error:
            return 64 if error.errno == errno.EINVAL else 0
    return 128


class Memory(NamedTuple):
    """What a socket's queues take and may take, in bytes as the kernel accounts for them."""

    recv_queue_bytes: int
    recv_buffer_bytes: int
    send_queue_bytes: int
    send_buffer_bytes: int


class HasOptions(Protocol):
    """A socket, or a ``Conn``."""

    def getsockopt(self, level: int, option: int, buflen: int, /) -> Any:
        """As ``socket.socket`` has it."""


def drop_events(sock: HasOptions) -> int | None:
    """Return the socket's drop counter as it stands (u32, wraps), or None before Linux 4.12.

    The unit is a packet in the receive queue: a merged train of 20 datagrams that
    found no room counts as one.
    """
    words = _memory_words(sock)
    return words[SK_MEMINFO_DROPS] if words else None


def socket_memory(sock: HasOptions) -> Memory | None:
    """Return what the socket's queues take, or None before Linux 4.12."""
    words = _memory_words(sock)
    return Memory(*words[:4]) if words else None  # in the order of sock_diag.h


def _memory_words(sock: HasOptions) -> tuple[int, ...]:
    if IS_LINUX:
        with contextlib.suppress(OSError):
            words = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMORY_WORDS.size)
            if len(words) == _MEMORY_WORDS.size:
                return _MEMORY_WORDS.unpack(words)
    return ()
