"""Control bytes: the cmsgs beside a message, as the kernel lays them out.

A cmsg is a header (its length with the header, level, type) and data, and begins at a
multiple of the length field's size.

Rule: what is read was written by the kernel, and is read as if it came from the network.
"""

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from .._address import MAPPED_PREFIX
from .._kernel import (
    ECN_BITS,
    IP_PKTINFO,
    IP_TOS,
    IPV6_PKTINFO,
    IPV6_TCLASS,
    MAX_SEGMENT_SIZE,
    SO_RXQ_OVFL,
    SO_TIMESTAMPNS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_GRO,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "Metadata",
    "find_fields",
    "find_metadata",
    "pack_control",
    "parse_control",
    "parse_metadata",
]

# struct cmsghdr: cmsg_len is a size_t on Linux and a socklen_t, of 4 bytes, on macOS.
_HEADER: Final = struct.Struct("@Iii" if sys.platform == "darwin" else "@Nii")
_ALIGNMENT: Final = _HEADER.size - 8
_GRO_SIZE: Final = struct.Struct("=i")  # an int; only the sender's UDP_SEGMENT is a u16
_OVERFLOWS: Final = struct.Struct("=I")
IP_PKTINFO_FIELDS: Final = struct.Struct("@i4s4s")  # interface, the address to answer from, to whom
IPV6_PKTINFO_FIELDS: Final = struct.Struct("@16si")  # to whom, or the source; interface
_TIMESPEC: Final = struct.Struct("@ll")
_MAX_SECONDS: Final = 0x7FFFFFFF  # of a time that is believed; the twin's has 63 bits


class Metadata(NamedTuple):
    """What else came with a message; None: not told."""

    ecn: int | None = None
    timestamp_ns: int | None = None
    interface: int | None = None
    local: bytes = b""
    """The 4 or 16 bytes of the address that it was sent to."""
    is_no_source: bool = False
    """That is no address of ours."""


def find_fields(control: Iterable[tuple[int, int, bytes]]) -> tuple[int, int]:
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) of (level, type, data)."""
    segment_size, overflows = 0, -1
    for level, kind, data in control:
        if len(data) != 4:
            continue
        if (level, kind) == (SOL_UDP, UDP_GRO):
            (size,) = _GRO_SIZE.unpack(data)
            if 0 < size <= MAX_SEGMENT_SIZE:
                segment_size = size
        elif (level, kind) == (socket.SOL_SOCKET, SO_RXQ_OVFL):
            (overflows,) = _OVERFLOWS.unpack(data)
    return segment_size, overflows


def find_metadata(control: Iterable[tuple[int, int, bytes]]) -> Metadata:
    """Return what (level, type, data) tell beside the segment size."""
    ecn = timestamp_ns = interface = None
    local, is_no_source = b"", False
    for level, kind, data in control:
        if (level, kind) == (SOL_IP, IP_TOS) and data:
            ecn = data[0] & ECN_BITS
        elif (level, kind) == (SOL_IPV6, IPV6_TCLASS) and len(data) == _GRO_SIZE.size:
            ecn = _GRO_SIZE.unpack(data)[0] & ECN_BITS
        elif (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS) and len(data) == _TIMESPEC.size:
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            if 0 <= seconds <= _MAX_SECONDS and 0 <= nanoseconds < 1_000_000_000:
                timestamp_ns = seconds * 1_000_000_000 + nanoseconds
        elif (level, kind) == (SOL_IP, IP_PKTINFO) and len(data) == IP_PKTINFO_FIELDS.size:
            index, answers_from, host = IP_PKTINFO_FIELDS.unpack(data)
            is_no_source = answers_from not in (bytes(4), host)
            if not local:
                interface, local = index, host
        elif (level, kind) == (SOL_IPV6, IPV6_PKTINFO) and len(data) == IPV6_PKTINFO_FIELDS.size:
            local, interface = IPV6_PKTINFO_FIELDS.unpack(data)
    return Metadata(ecn, timestamp_ns or None, interface or None, local, is_no_source)


def parse_control(control: "Buffer") -> tuple[int, int]:
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes.

    Bytes from the kernel's own writing, yet read as if from the network: whatever
    stands in them, nothing is read past their end.
    """
    return find_fields(_walk(memoryview(control).tobytes()))


def parse_metadata(
    control: "Buffer",
) -> tuple[int | None, int | None, int | None, bytes | None, bool]:
    """Return (ecn, timestamp_ns, interface, local host, is it no source) found in control bytes.

    None: not told.  Of IPv4 the host is v4-mapped.  Bytes as ``parse_control``'s.
    """
    found = find_metadata(_walk(memoryview(control).tobytes()))
    local = MAPPED_PREFIX + found.local if len(found.local) == 4 else found.local or None
    return found.ecn, found.timestamp_ns, found.interface, local, found.is_no_source


def pack_control(control: Iterable[tuple[int, int, bytes]]) -> bytes:
    """Return the bytes that the socket module took (level, type, data) from."""
    packed = bytearray()
    for level, kind, data in control:
        packed += _HEADER.pack(_HEADER.size + len(data), level, kind)
        packed += data
        packed += bytes(-len(packed) % _ALIGNMENT)
    return bytes(packed)


def _walk(raw: bytes) -> Iterator[tuple[int, int, bytes]]:
    start = 0
    while start + _HEADER.size <= len(raw):
        length, level, kind = _HEADER.unpack_from(raw, start)
        if not _HEADER.size <= length <= len(raw) - start:
            return
        yield level, kind, raw[start + _HEADER.size : start + length]
        start += length + -length % _ALIGNMENT
