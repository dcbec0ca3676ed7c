"""The seam, part 8: a sending call's first attempt."""

from collections.abc import Iterable, Sequence
from typing import Any, final

from typing_extensions import Buffer

from .._address import Address
from .descriptor import Counters, Descriptor
from .peers import Peers
from .segments import Segments
from .send import SendPlan

_Done = int | tuple[SendPlan, list[Any], int]

@final
class Dispatcher:
    """Makes the first attempt of a sending call, with a plan that no other call has.

    Each way to send returns how many datagrams went out if these were all; then nothing is
    held any more.  Else it returns the plan, which is to be given back, the items that it was
    to take, and what the attempt met: an errno or 0, or -1 if there was none, and the plan is
    empty: more than WINDOW items, or ``holds_back``.  What is unfit raises as
    ``SendPlan.load`` does.
    """

    def __init__(self, descriptor: Descriptor, peers: Peers, counters: Counters) -> None: ...
    def take(self) -> SendPlan:
        """Return a plan for the caller alone, empty."""
    def give(self, plan: SendPlan) -> None:
        """Take a plan back, and let go of what it holds."""
    def send(
        self, datagrams: Iterable[tuple[Buffer, Address | None]], holds_back: bool = False
    ) -> _Done:
        """Send pairs of (data, address)."""
    def send_to(
        self,
        buffers: Sequence[Buffer],
        address: object,
        offset: int = 0,
        header: bytes | None = None,
        holds_back: bool = False,
    ) -> _Done:
        """Send buffers, WINDOW at most, to one address, as ``SendPlan.load_to`` takes them."""
    def send_segments(
        self, segments: Iterable[Segments], to: object = None, holds_back: bool = False
    ) -> _Done:
        """Send trains; ``to`` overrides their addresses."""
