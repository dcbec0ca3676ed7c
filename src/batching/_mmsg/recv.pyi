"""The seam, part 5: receiving."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

from .._address import Address
from .descriptor import Counters, Descriptor
from .message import Message
from .peers import Peers
from .segments import Segments

@final
class RecvSlots:
    """Slabs that the kernel writes into, and the datagrams in them not yet taken.

    Safe from several threads: each method is one step under one lock.
    """

    pending: int
    """Datagrams received and not yet taken."""
    @property
    def has_pending(self) -> bool:
        """Whether any are; told without memory, unlike their number."""
    overflows: int
    """The last SO_RXQ_OVFL (u32, cumulative, wraps)."""
    ticket: int
    """The descriptor's ticket when the kernel was last asked, with nothing pending: to
    sleep on after an attempt that brought nothing."""
    def __init__(
        self,
        peers: Peers,
        counters: Counters,
        max_slots: int = 16,
        gro: bool = True,
        control_size: int = 512,
        min_oob: int = 48,
    ) -> None: ...
    def attempt(self, descriptor: Descriptor) -> tuple[int, int]:
        """Make one recvmmsg(MSG_DONTWAIT); return (datagrams pending, errno or 0).

        With datagrams pending it makes no call.  EBADMSG: a message that may have been
        a merged train lost its segment size to MSG_CTRUNC and was not delivered; others
        of the same call may be pending.  ESHUTDOWN: the socket was shut down.
        """
    def fetch(
        self, descriptor: Descriptor, limit: int = 0, patience_s: float = 0
    ) -> list[tuple[bytes, Address]] | int:
        """Make an attempt, and take; return its errno if it met one.

        Where there was nothing, sleep for ``patience_s`` at most, and make another.  May
        return an empty list where another thread was quicker.
        """
    def fetch_segments(self, descriptor: Descriptor, patience_s: float = 0) -> list[Segments] | int:
        """As ``fetch``, of ``take_segments``."""
    def take(self, limit: int = 0) -> list[tuple[bytes, Address]]:
        """Return pending datagrams, ``limit`` at most (0: all)."""
    def take_segments(self) -> list[Segments]:
        """Return all that is pending as trains; those of 4 KiB and more are not copied."""
    def take_into(self, msgs: Sequence[Message]) -> int:
        """Fill ``msgs`` from the front; return how many.  Raises as check()."""
    def check(self, msgs: Sequence[Message]) -> None:
        """Raise TypeError or ValueError ("message INDEX: ...") for what cannot be filled."""
    def shrink(self) -> None:
        """Give back all slabs but one, unless something is pending."""
    def after_fork(self) -> None:
        """Make the lock new, in a forked child."""

def parse_control(control: Buffer) -> tuple[int, int]:
    """Return (segment size of UDP_GRO or 0, SO_RXQ_OVFL or -1) found in control bytes.

    Bytes from the kernel's own writing, yet read as if from the network: whatever
    stands in them, nothing is read past their end.
    """
