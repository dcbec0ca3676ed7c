"""Control messages: what client and server of a probe tell each other beside the bursts.

A message is one datagram: a head, a body, a checksum over both.  Requests are answered, and
asked again when no answer comes; each can be answered twice without harm.

Rule 1: no answer is longer than its request, so nobody can have a third one flooded.
Rule 2: whatever bytes come, they are a message, or None; nothing is believed of them.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple

__all__ = [
    "HELLO_SIZE",
    "MAX_BURSTS",
    "MAX_REPORTED",
    "REPORT_SIZE",
    "TOKEN",
    "Kind",
    "Message",
    "Rounds",
]

_MAGIC: Final = b"batprobe"
_VERSION: Final = 1
TOKEN: Final = 16  # bytes
_HEAD: Final = struct.Struct(f"!8sBBH{TOKEN}sH")  # magic, version, kind, number, token, size
_CHECK: Final = struct.Struct("!I")
_ROUNDS: Final = struct.Struct("!BBQ")
MAX_BURSTS: Final = 120  # of each way, that are sent for one request
MAX_REPORTED: Final = 48  # of each way, in one report: 8 bytes of counts for both
REPORT_SIZE: Final = _HEAD.size + 12 + 8 * MAX_REPORTED + _CHECK.size  # bytes, at most
HELLO_SIZE: Final = 64  # bytes: more than COOKIE has
_MAX: Final = 576 - 20 - 8  # bytes of a message: what every IPv4 host takes, RFC 1122 3.3.2


class Kind(IntEnum):
    """What a message is; an answer has the number of its request, and the same token."""

    HELLO = 1
    """The token is the client's own; the body is only there for its length."""
    COOKIE = 2
    """The body is the token that the session will have."""
    START = 3
    """The body is the token of HELLO, and the shapes."""
    READY = 4
    """The body tells the server's longest train, u16."""
    REPORT = 5
    """The body is Rounds: what came of them?"""
    REPORTED = 6
    """The body is a Report of them."""
    SEND = 7
    """The body is Rounds: send them to me."""
    SENDING = 8
    """The body is Rounds, of fewer shapes if the client has not sent that much itself."""
    END = 9
    ENDED = 10
    BUSY = 11
    """As answer to START: there are as many clients as the server takes."""


class Message(NamedTuple):
    """A control message."""

    kind: Kind
    number: int
    """Of a request, and of the answer to it."""
    token: bytes
    body: bytes = b""

    def pack(self, length: int = 0) -> bytes:
        """Return it as it travels, filled up with zeros to ``length`` bytes."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.kind, self.number, self.token, len(self.body))
        padding = bytes(max(0, length - len(head) - len(self.body) - _CHECK.size))
        whole: bytes = head + self.body + padding
        return whole + _CHECK.pack(zlib.crc32(whole))

    @classmethod
    def unpack(cls, data: bytes) -> Message | None:
        """Return what the network brought as a message, None if it is none of ours."""
        if not _HEAD.size + _CHECK.size <= len(data) <= _MAX or not data.startswith(_MAGIC):
            return None
        whole, (check,) = data[: -_CHECK.size], _CHECK.unpack(data[-_CHECK.size :])
        _magic, version, kind, number, token, n_body = _HEAD.unpack_from(whole)
        body = whole[_HEAD.size :][:n_body]
        if check != zlib.crc32(whole) or len(body) != n_body:
            return None
        if version != _VERSION or kind not in set(Kind):
            return None
        return cls(Kind(kind), number, token, body)


class Rounds(NamedTuple):
    """Which bursts an exchange is about: ``n`` rounds, from ``first`` on, of some shapes."""

    first: int
    n: int
    mask: int
    """Bit k stands for the shape of number k."""

    @property
    def shapes(self) -> list[int]:
        """The numbers of the shapes, ascending."""
        return [number for number in range(64) if self.mask >> number & 1]

    def pack(self) -> bytes:
        """Return it as it travels."""
        return _ROUNDS.pack(self.first, self.n, self.mask)

    @classmethod
    def unpack(cls, body: bytes, n_shapes: int) -> Rounds:
        """Return what the network claims to be rounds of ``n_shapes`` shapes.

        Raises:
            ValueError: It is none, or too many.
        """
        try:
            rounds = cls(*_ROUNDS.unpack(body))
        except struct.error:
            raise ValueError(f"{len(body)} bytes, must be {_ROUNDS.size}") from None
        n_bursts = rounds.n * len(rounds.shapes)
        if rounds.mask >> n_shapes or rounds.first + rounds.n > 256:
            raise ValueError(f"{rounds} is beyond the shapes or the rounds that there are")
        if not 0 < n_bursts <= MAX_BURSTS:
            raise ValueError(f"{n_bursts} bursts, must be 1 to {MAX_BURSTS}")
        return rounds
