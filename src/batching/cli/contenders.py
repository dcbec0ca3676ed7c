"""Contenders: the ways to send or to receive datagrams that ``batching bench`` compares.

A contender is a generator that yields how many datagrams each of its steps moved.
Rule 1: a sender gets ``(address, size, batch)`` and yields what the kernel took; it
never ends by itself.
Rule 2: a receiver gets ``(ready, size, batch)``, calls ``ready(port)`` when it is
bound, looks at the length of what it gets (a wrong one raises), and returns at the
first empty datagram, which marks the end.
Rule 3: what they send is made once, before the first step: what is measured is the
way of sending, not the making of the data.  All sockets are unconnected and have the
same receive buffer.
Rule 4: the first step of a receiver is short, for the clock starts behind it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from . import aio, by_hand, ours

__all__ = ["CONTENDERS", "RECEIVERS", "SENDERS", "Contender", "Direction", "find"]

Direction: TypeAlias = Literal["send", "receive"]
Address: TypeAlias = tuple[str, int]
Sender: TypeAlias = Callable[[Address, int, int], Iterator[int]]
Receiver: TypeAlias = Callable[[Callable[[int], None], int, int], Iterator[int]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of the table for each size."""

    name: str
    direction: Direction
    sender: Sender | None = None
    receiver: Receiver | None = None
    module: str = ""
    """What has to be installed for it, beyond the standard library and batching."""
    lacks: Callable[[], str] = lambda: ""
    """Return what this system lacks for it, "" when nothing."""

    def note(self) -> str:
        """Return why it cannot run here, "" when it can."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return "not installed"
        return self.lacks()


SENDERS: Final = (
    Contender("socket", "send", by_hand.send_plain),
    Contender("socket, GSO by hand", "send", by_hand.send_gso, lacks=by_hand.lacks_gso),
    Contender("asyncio", "send", aio.send_asyncio),
    Contender("uvloop", "send", aio.send_uvloop, module="uvloop"),
    Contender("asyncio + batching", "send", aio.send_batching),
    Contender("batching send_batch", "send", ours.send_batch),
    Contender("batching write_batch_to", "send", ours.write_batch_to),
    Contender("batching send_segments", "send", ours.send_segments),
)
RECEIVERS: Final = (
    Contender("socket", "receive", None, by_hand.receive_plain),
    Contender("socket, GRO by hand", "receive", None, by_hand.receive_gro, lacks=by_hand.lacks_gro),
    Contender("asyncio", "receive", None, aio.receive_asyncio),
    Contender("uvloop", "receive", None, aio.receive_uvloop, module="uvloop"),
    Contender("asyncio + batching", "receive", None, aio.receive_batching),
    Contender("asyncio + batching, lists", "receive", None, aio.receive_batching_lists),
    Contender("batching recv_batch", "receive", None, ours.recv_batch),
    Contender("batching read_batch", "receive", None, ours.read_batch),
    Contender("batching recv_segments", "receive", None, ours.recv_segments),
)
CONTENDERS: Final = SENDERS + RECEIVERS
# The other ends, which are not measured.
_ENDS: Final = (
    Contender("drain", "receive", None, by_hand.drain),
    Contender("drain, asleep", "receive", None, by_hand.drain_asleep),
    Contender("feed", "send", ours.feed),
)


def find(name: str, direction: Direction) -> Contender:
    """Return the contender, or the other end, of that name."""
    for contender in CONTENDERS + _ENDS:
        if (contender.name, contender.direction) == (name, direction):
            return contender
    raise KeyError(f"{name} ({direction})")
