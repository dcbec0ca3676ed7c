"""Stamps: what a datagram of a burst is filled with, so that any part of it tells its place.

Every 16 bytes are a number that counts up, and a stamp of 14: who sent it (a session), in
which burst, as which datagram, how long that was, and a checksum that needs the session's
token.  A piece of a datagram that was cut, shifted or merged so tells where it belongs, and
nobody else can make one.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final, NamedTuple

from .shapes import Shape

__all__ = ["Burst", "Stamps"]

_PLACE: Final = struct.Struct("!4sHHH")  # session, burst, index, length
_CHECK: Final = struct.Struct("!I")
_STAMP: Final = _PLACE.size + _CHECK.size
_NUMBERS: Final = [number.to_bytes(2, "big") for number in range(65536 // 16 + 1)]


class Burst(NamedTuple):
    """A burst's name: its round (0 to 255), its shape's number (0 to 127), its way (0 or 1)."""

    round: int
    shape: int
    way: int

    @property
    def code(self) -> int:
        """The 16 bits that stand for it."""
        return self.round << 8 | self.shape << 1 | self.way

    @classmethod
    def of(cls, code: int) -> Burst:
        """Return the burst that 16 bits stand for."""
        return cls(code >> 8, code >> 1 & 0x7F, code & 1)


class Stamps:
    """The stamps of one session."""

    def __init__(self, token: bytes) -> None:
        self._session = token[:4]
        self._seed = zlib.crc32(token)

    def datagram(self, burst: int, index: int, length: int) -> bytes:
        """Return a datagram of that length, whole."""
        stamp = self._stamp(burst, index, length)
        # Between every two numbers a stamp: one call makes a datagram of any length.
        return stamp.join(_NUMBERS[: -(-length // 16) + 1])[:length]

    def datagrams(self, burst: Burst, shape: Shape) -> list[bytes]:
        """Return those of a burst."""
        code = burst.code
        return [self.datagram(code, n, shape.length(n)) for n in range(shape.segments)]

    def place(self, data: bytes) -> tuple[int, int, bool] | None:
        """Return (burst, index, whether it is whole) of what was received, None if of nobody."""
        start = data.find(self._session)
        while start >= 0:
            stamp = data[start : start + _STAMP]
            if len(stamp) == _STAMP:
                _, burst, index, length = _PLACE.unpack_from(stamp)
                if stamp == self._stamp(burst, index, length):
                    return burst, index, data == self.datagram(burst, index, length)
            start = data.find(self._session, start + 1)
        return None

    def _stamp(self, burst: int, index: int, length: int) -> bytes:
        place = _PLACE.pack(self._session, burst, index, length)
        return place + _CHECK.pack(zlib.crc32(place, self._seed))
