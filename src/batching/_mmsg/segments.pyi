"""The seam, part 7: trains as the user has them."""

from collections.abc import Iterator

from typing_extensions import Buffer, disjoint_base

from .._address import Address

@disjoint_base
class Segments:
    """A train: datagrams of ``segment_size`` bytes each, the last of which may be shorter."""

    data: memoryview
    """All datagrams, read-only, of bytes."""
    segment_size: int
    addr: Address | None
    local_addr: Address | None
    """Of a received train, where it was sent to, perhaps a group; else where to send it from."""
    interface: int | None
    """Of a received train, the index of where it came in; else of where to send it through."""
    _is_way_out: bool
    ecn: int | None
    """0 to 3 (RFC 3168)."""
    timestamp_ns: int | None
    """When the kernel received its first datagram: CLOCK_REALTIME, nanoseconds."""
    truncated: bool
    """The kernel cut the end off (MSG_TRUNC); only of received trains."""

    def __init__(
        self,
        data: Buffer,
        segment_size: int,
        addr: Address | None = None,
        *,
        local_addr: Address | None = None,
        interface: int | None = None,
        ecn: int | None = None,
    ) -> None: ...
    @property
    def nbytes(self) -> int:
        """Bytes of all datagrams."""
    def __len__(self) -> int:
        """Return the number of datagrams; that of no data is 1, an empty one."""
    def __getitem__(self, index: int, /) -> memoryview: ...
    def __iter__(self) -> Iterator[memoryview]: ...
    def tolist(self) -> list[bytes]:
        """Return the datagrams as bytes: the quick way to look inside."""
    def common_header(self, n_bytes: int) -> bytes | None:
        """Return the first ``n_bytes`` of every datagram; None where they differ or one is shorter.

        One call a train, whatever its length: for who forwards trains by what they begin with.

        Raises:
            ValueError: ``n_bytes`` < 1.
        """
