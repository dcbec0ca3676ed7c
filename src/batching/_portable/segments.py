"""Segments: a train of datagrams of one size, in one buffer, to or from one address."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

from .._address import Address
from .._checks import check_number
from .._kernel import ECN_BITS

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Segments"]

_WORDS: Final[dict[int, Literal["B", "H", "I", "Q"]]] = {1: "B", 2: "H", 4: "I", 8: "Q"}  # by size


class Segments:
    """A train: datagrams of ``segment_size`` bytes each, the last of which may be shorter.

    It is a sequence of memoryviews into ``data``, which is shared and not copied: who
    keeps one of them keeps the whole buffer.  ``tolist()`` copies the datagrams out.

    Args:
        data: The datagrams, one after the other: anything with the buffer protocol,
            C-contiguous.  It is not copied and must not change until it was sent.
        segment_size: Bytes of every datagram but the last.  For empty ``data`` (one
            empty datagram) it has no meaning and may be 0.
        addr: Where the train goes or came from; None on a connected ``Conn``.
        local_addr: The address to send it from, as tuple; its port is not looked at.
        interface: The index of the interface to send it through.
        ecn: The mark to send it with, 0 to 3 (RFC 3168).

    Raises:
        TypeError: ``data`` has no buffer, a number is not an int.
        ValueError: ``data`` is not contiguous; ``segment_size`` < 1 with data; ``ecn`` or
            ``interface`` out of its limits.
    """

    __slots__ = (
        "__weakref__",
        "_ecn",
        "_interface",
        "_is_way_out",
        "addr",
        "data",
        "local_addr",
        "segment_size",
        "timestamp_ns",
        "truncated",
    )

    data: memoryview
    """All datagrams, read-only, of bytes."""
    segment_size: int
    addr: Address | None
    local_addr: Address | None
    """Of a received train, where it was sent to, perhaps a group; else where to send it from.

    None: not told (``open_conn(pktinfo=True)``), or not wished for."""
    timestamp_ns: int | None
    """When the kernel received its first datagram, CLOCK_REALTIME in nanoseconds.

    One a train; None: not told (``open_conn(timestamps=True)``)."""
    truncated: bool
    """The kernel cut the end off (MSG_TRUNC); only of received trains."""
    _is_way_out: bool  # the interface was asked for, and is not where a train came in

    def __init__(
        self,
        data: Buffer,
        segment_size: int,
        addr: Address | None = None,
        *,
        local_addr: Address | None = None,
        interface: int | None = None,
        ecn: int | None = None,
    ) -> None:
        view = memoryview(data)
        if not view.c_contiguous:
            raise ValueError("data is not C-contiguous")
        if not isinstance(segment_size, int):
            raise TypeError(f"segment_size must be int, not {type(segment_size).__name__}")
        if segment_size < 1 and (view.nbytes or segment_size < 0):
            raise ValueError(f"segment_size {segment_size}, must be at least 1")
        # A view with a zero in its shape cannot be cast; it holds nothing anyway.
        self.data = view.cast("B").toreadonly() if view.nbytes else memoryview(b"")
        self.segment_size = segment_size
        self.addr = addr
        self.local_addr = local_addr
        self.interface = interface
        self.ecn = ecn
        self.timestamp_ns = None
        self.truncated = False

    @property
    def ecn(self) -> int | None:
        """The mark of all its datagrams, 0 to 3 (RFC 3168).

        None: not told (``open_conn(ecn=True)``), or sent as the socket has it.
        """
        return self._ecn

    @ecn.setter
    def ecn(self, value: int | None) -> None:
        self._ecn = None if value is None else check_number("ecn", value, 0, ECN_BITS, or_none=True)

    @property
    def interface(self) -> int | None:
        """Of a received train, the index of where it came in; else of where to send it through.

        A received train that is sent back may leave by another, as routes have it.
        """
        return self._interface

    @interface.setter
    def interface(self, value: int | None) -> None:
        self._interface = (
            None if value is None else check_number("interface", value, 1, 0x7FFFFFFF, or_none=True)
        )
        self._is_way_out = value is not None

    @property
    def nbytes(self) -> int:
        """Bytes of all datagrams."""
        return self.data.nbytes

    def __len__(self) -> int:
        """Return the number of datagrams; that of no data is 1, an empty one."""
        if not self.data.nbytes:
            return 1
        if self.segment_size < 1:
            raise ValueError(f"segment_size {self.segment_size}, must be at least 1")
        return -(-self.data.nbytes // self.segment_size)

    def __getitem__(self, index: int) -> memoryview:
        if isinstance(index, slice):
            raise TypeError("Segments cannot be sliced; tolist() gives a list")
        n = len(self)
        position = index + n if index < 0 else index
        if not 0 <= position < n:
            raise IndexError(f"datagram {index} of {n}")
        start = position * self.segment_size
        return self.data[start : start + self.segment_size]

    def __iter__(self) -> Iterator[memoryview]:
        data, size = self.data, self.segment_size
        if not data.nbytes:
            yield data
        for start in range(0, data.nbytes, size or 1):
            yield data[start : start + size]

    def tolist(self) -> list[bytes]:
        """Return the datagrams as bytes: the quick way to look inside."""
        data, size = self.data.tobytes(), self.segment_size
        if not data:
            return [data]
        return [data[start : start + size] for start in range(0, len(data), size)]

    def common_header(self, n_bytes: int) -> bytes | None:
        """Return the first ``n_bytes`` of every datagram; None where they differ or one is shorter.

        One call a train, whatever its length: for who forwards trains by what they begin with.

        Raises:
            ValueError: ``n_bytes`` < 1.
        """
        if n_bytes < 1:
            raise ValueError(f"n_bytes {n_bytes}, must be at least 1")
        data, size, total = self.data, self.segment_size, self.data.nbytes
        if size < 1 and total:
            raise ValueError(f"segment_size {size}, must be at least 1")
        if min(total, size, total % (size or 1) or size) < n_bytes:
            return None
        # By words of the largest size that divides both: if each is as that of the datagram
        # before, all are as the first.
        unit = math.gcd(size, n_bytes, 8)
        words, step = data[: total - total % unit].cast(_WORDS[unit]), size // unit
        for column in range(n_bytes // unit):
            if words[column + step :: step] != words[column : column - step : step]:
                return None
        return data[:n_bytes].tobytes()

    def __repr__(self) -> str:
        return (
            f"<Segments of {len(self)} datagrams, {self.data.nbytes} bytes in segments of"
            f" {self.segment_size}, addr={self.addr!r}>"
        )
