"""The seam, part 3: sending."""

from collections.abc import Sequence
from typing import Final, final

from typing_extensions import Buffer

from .._address import Address
from .descriptor import Counters, Descriptor
from .peers import Peer, Peers
from .segments import Segments

WINDOW: Final = 8192
"""Datagrams, or trains, that one SendPlan.load takes at most."""

@final
class SendPlan:
    """A window of datagrams as messages: who shares one, and how far sending has come.

    Items are what was loaded: datagrams, or Segments.  Loading checks every item and
    holds its buffer until release(); it may run user code.  The messages of one peer
    stand in the order of its items; a train never mixes peers.
    Not for two threads at once.
    """

    position: int
    """The message that goes next."""
    datagrams_sent: int
    """Of this load."""
    @property
    def n_messages(self) -> int: ...
    @property
    def left(self) -> int:
        """Messages from ``position`` on."""
    def __init__(self, peers: Peers, counters: Counters) -> None: ...
    def load(self, datagrams: list[tuple[Buffer, Address | None]], start: int = 0) -> int:
        """Take items from ``start``, WINDOW at most; return how many.

        TypeError, ValueError: "datagram INDEX: ..."; nothing is then held.
        """
    def load_to(
        self,
        buffers: Sequence[Buffer],
        address: object,
        offset: int = 0,
        header: bytes | None = None,
    ) -> None:
        """Take all ``buffers`` (WINDOW at most, else ValueError) for one address.

        Without ``header`` the first ``offset`` bytes of each are left out; with it they
        are overwritten by it, all or none, and sent.
        """
    def load_segments(
        self, segments: list[Segments], start: int = 0, peer: Peer | None = None
    ) -> int:
        """Take trains from ``start``, WINDOW at most; return how many.

        A given ``peer`` overrides each train's address.  "segments INDEX: ...".
        """
    def attempt(self, descriptor: Descriptor, limit: int = 1024) -> tuple[int, int]:
        """Make one system call from ``position``; return (messages sent, errno or 0).

        ``position`` moves on by what was sent.  (0, 0) only when none is left.  A short
        count hides its error: attempt again to learn it.
        """
    def peer(self) -> Peer:
        """Return the peer of the message at ``position``."""
    def segment_size(self) -> int:
        """Return the segment size of the message at ``position``; 0: a single datagram."""
    def split(self, least: int = 0) -> int:
        """Cut the train at ``position`` into single datagrams; return how many.

        ``least``, if not 0: and each later train to the same peer whose segments have as
        many bytes or more.
        """
    def recut(self) -> None:
        """Cut into datagrams each train, from ``position`` on, that its peer refuses."""
    def skip(self, failure: int) -> None:
        """Pass over the message at ``position`` and note ``failure``, an errno, for it."""
    def report(self) -> list[tuple[int, int, int, int]]:
        """Return (item, its first datagram, datagrams, errno) of all that was not sent.

        errno 0: not tried, or would have blocked.  Ascending.
        """
    def release(self) -> None:
        """Let go of all buffers and peers.  May run user code."""
