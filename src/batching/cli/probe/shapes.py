"""Shapes: what a burst consists of, and which of them a path is tested with.

A shape goes out in two ways: its datagrams one by one, and as a train.  What harms the one
and not the other is no matter of the path's capacity.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

from ..._kernel import MAX_PAYLOAD_IPV4, MAX_SEGMENTS

__all__ = ["MAX_SHAPES", "WAYS", "Shape", "Way", "plan_shapes"]

Way = Literal["plain", "train"]
WAYS: Final[tuple[Way, Way]] = ("plain", "train")
MAX_SHAPES: Final = 40  # 3 sizes x 6 numbers x 2 tails are 36; a mask of 64 bits names them
_MIN_SIZE: Final = 16  # bytes: one stamp
_SIZES: Final = (64, 1200)  # bytes: small, and what a QUIC datagram has
_LARGEST: Final = 9000 - 20 - 8  # bytes: what a jumbo frame carries; loopback would carry more
_NUMBERS: Final = (2, 3, 16, 64, MAX_SEGMENTS)
_FORM: Final = struct.Struct("!HHH")


class Shape(NamedTuple):
    """Datagrams of ``size`` bytes, ``segments`` of them, of which the last has ``tail``."""

    size: int
    segments: int
    tail: int

    @property
    def nbytes(self) -> int:
        """Bytes of all its datagrams."""
        return self.size * (self.segments - 1) + self.tail

    def length(self, index: int) -> int:
        """Return the bytes of the datagram of that index."""
        return self.tail if index == self.segments - 1 else self.size

    def __str__(self) -> str:
        kind = "equal" if self.tail == self.size else "short tail"
        return f"{self.segments} x {self.size} B, {kind}"

    def pack(self) -> bytes:
        """Return it as it travels."""
        return _FORM.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> list[Shape]:
        """Return what the network claims to be shapes.

        Raises:
            ValueError: They are too many, or none that could be sent.
        """
        if len(data) % _FORM.size or not 0 < len(data) // _FORM.size <= MAX_SHAPES:
            raise ValueError(f"{len(data)} bytes of shapes, must be 1 to {MAX_SHAPES} of them")
        shapes = [cls(*fields) for fields in _FORM.iter_unpack(data)]
        for shape in shapes:
            if not (
                _MIN_SIZE <= shape.tail <= shape.size
                and 1 < shape.segments <= MAX_SEGMENTS
                and shape.nbytes <= MAX_PAYLOAD_IPV4
            ):
                raise ValueError(f"{tuple(shape)} is no shape that could be sent")
        return shapes


def plan_shapes(room: int, max_segments: int) -> list[Shape]:
    """Return the shapes for a path.

    Args:
        room: Bytes of the longest datagram that goes in one packet.
        max_segments: Datagrams of the longest train that either side can send.
    """
    largest = min(room, _LARGEST)
    sizes = sorted({size for size in _SIZES if size < largest} | {largest})
    return [
        Shape(size, segments, tail)
        for size in sizes
        for segments in _numbers(size, max_segments)
        for tail in (size, size // 2 + 1)
    ]


def _numbers(size: int, max_segments: int) -> Iterable[int]:
    """Return the numbers of datagrams, up to the most that a train of this size may have."""
    most = min(max_segments, MAX_PAYLOAD_IPV4 // size)
    return sorted({number for number in _NUMBERS if number <= most} | {most} - {1, 0})
