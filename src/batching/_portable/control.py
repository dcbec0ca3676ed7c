"""Control bytes: the cmsgs beside a message, as the kernel lays them out.

A cmsg is a header (its length with the header, level, type) and data, and begins at a
multiple of the length field's size.

Rule: what is read was written by the kernel, and is read as if it came from the network.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from .._kernel import MAX_SEGMENT_SIZE, SO_RXQ_OVFL, SOL_UDP, UDP_GRO

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["find_fields", "pack_control", "parse_control"]

# struct cmsghdr: cmsg_len is a size_t on Linux and a socklen_t, of 4 bytes, on macOS.
_HEADER: Final = struct.Struct("@Iii" if sys.platform == "darwin" else "@Nii")
_ALIGNMENT: Final = _HEADER.size - 8
_GRO_SIZE: Final = struct.Struct("=i")  # an int; only the sender's UDP_SEGMENT is a u16
_OVERFLOWS: Final = struct.Struct("=I")


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


def parse_control(control: Buffer) -> tuple[int, int]:
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes.

    Bytes from the kernel's own writing, yet read as if from the network: whatever
    stands in them, nothing is read past their end.
    """
    return find_fields(_walk(memoryview(control).tobytes()))


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
