"""The seam, part 2: remote addresses."""

from typing import final

from .._address import Address

@final
class Peer:
    """A remote address and what sending to it has taught us."""

    address: Address
    """As received addresses are spelled; one tuple object a peer."""
    max_segments: int
    """Datagrams a train to it may have; 1: no GSO.  Policy writes, the planner reads.

    Stays 1, whatever is written, once GSO was disabled for it.
    """
    max_segment_size: int
    """Bytes that a datagram of a train to it may have.  Likewise."""

@final
class Peers:
    """The peers of one Conn, bounded: who was not used lately is forgotten first.

    Safe from several threads.
    """

    tos: int
    """The socket's traffic class for IPv4, of which a train with a mark of its own keeps DSCP."""
    tclass: int
    """Likewise for IPv6."""
    def __init__(
        self, family: int, is_dual_stack: bool, max_segments: int, capacity: int = 2048
    ) -> None: ...
    def __len__(self) -> int: ...
    def get(self, address: object) -> Peer:
        """Return the peer of an address as users spell it; None is the connected one.

        TypeError and ValueError as ``_address.parse_address``.
        """
    def disable_gso(self, address: object) -> None:
        """Let no more trains go to ``address``, for good, also when it was forgotten meanwhile.

        None: to the connected one; without one, to anybody.  TypeError and ValueError as
        ``get``; ValueError for the 65537th address.
        """
    @property
    def gso_disabled(self) -> list[Address]:
        """The addresses that it is disabled for, one by one."""
    @property
    def is_gso_disabled(self) -> bool:
        """Whether it is disabled for all."""
    def connect(self, address: Address) -> None:
        """Make ``address`` the peer that None means; datagrams to it carry no address."""
