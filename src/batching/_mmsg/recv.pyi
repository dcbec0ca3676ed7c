"""The seam, part 6: receiving."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

from .._address import Address
from .arrivals import Arrivals
from .descriptor import Descriptor
from .message import Message
from .segments import Segments

@final
class RecvSlots(Arrivals):
    """Slabs that the kernel writes into, and the datagrams in them not yet taken.

    Safe from several threads: each method is one step under one lock.
    """

    def fetch(
        self, descriptor: Descriptor, limit: int = 0, sleeps: bool = False
    ) -> list[tuple[bytes, Address]] | int:
        """Make an attempt, and take; return its errno, or 0 where nothing was left to take.

        Where there was nothing, and if it ``sleeps``, do so for the descriptor's
        ``patience_s`` at most, and make another.  Others who sleep are woken if any are left.
        """
    def fetch_segments(self, descriptor: Descriptor, sleeps: bool = False) -> list[Segments] | int:
        """As ``fetch``, of ``take_segments``."""
    def fetch_into(
        self, descriptor: Descriptor, msgs: Sequence[Message], sleeps: bool = False
    ) -> int:
        """As ``fetch``, of ``take_into``; an errno is returned negative.

        ``msgs`` are checked before a sleep.
        """
    def take(self, limit: int = 0) -> list[tuple[bytes, Address]]:
        """Return pending datagrams, ``limit`` at most (0: all)."""
    def take_segments(self) -> list[Segments]:
        """Return all that is pending as trains; those of 4 KiB and more are not copied."""
    def take_into(self, msgs: Sequence[Message]) -> int:
        """Fill ``msgs`` from the front; return how many.  Raises as check()."""
    def check(self, msgs: Sequence[Message]) -> None:
        """Raise TypeError or ValueError ("message INDEX: ...") for what cannot be filled."""

def parse_control(control: Buffer) -> tuple[int, int]:
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes.

    Bytes from the kernel's own writing, yet read as if from the network: whatever
    stands in them, nothing is read past their end.
    """

def parse_metadata(
    control: Buffer,
) -> tuple[int | None, int | None, int | None, bytes | None, bool]:
    """Return (ecn, timestamp_ns, interface, local host, is it no source) found in control bytes.

    None: not told.  Of IPv4 the host is v4-mapped.
    """
