"""The seam, part 5: what the kernel gave, until RecvSlots takes it."""

from typing_extensions import disjoint_base

from .descriptor import Counters, Descriptor
from .peers import Peers

@disjoint_base
class Arrivals:
    """Slabs that the kernel writes into, and what it wrote; RecvSlots takes it."""

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
        metadata: bool = False,
        port: int = 0,
    ) -> None: ...
    def attempt(self, descriptor: Descriptor) -> tuple[int, int]:
        """Make one recvmmsg(MSG_DONTWAIT); return (datagrams pending, errno or 0).

        With datagrams pending it makes no call.  EBADMSG: a message that may have been
        a merged train lost its segment size to MSG_CTRUNC and was not delivered; others
        of the same call may be pending.  ESHUTDOWN: the socket was shut down.
        """
    def shrink(self) -> None:
        """Give back all slabs but one, unless something is pending."""
    def after_fork(self) -> None:
        """Make the lock new, in a forked child."""
