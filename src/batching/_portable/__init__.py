"""The portable back end: the seam of _mmsg/*.pyi in Python, over the socket module.

It is what runs where the native one was not built (macOS, Windows, a Linux without
a compiler), and what the tests hold the native one against.

Rule 1: one message a system call; on Linux a message may still be a train (GSO and
GRO need nothing but control bytes), elsewhere it is a datagram.
Rule 2: exactly the stub's names, signatures and errors; policy cannot tell which of
the two it drives.
Rule 3: clarity before speed.  It plans by the same rules, written to be read.
Rule 4: what the kernel took or gave is put away in C (``list.extend`` over ``map``),
so that a signal handler that raises never comes between a call and its record.
"""

from __future__ import annotations

from .control import parse_control, parse_metadata
from .counters import Counters
from .descriptor import Descriptor
from .dispatcher import Dispatcher
from .message import Message
from .peers import Peer, Peers
from .recv import RecvSlots
from .segments import Segments
from .send import WINDOW, SendPlan

__all__ = [
    "WINDOW",
    "Counters",
    "Descriptor",
    "Dispatcher",
    "Message",
    "Peer",
    "Peers",
    "RecvSlots",
    "Segments",
    "SendPlan",
    "parse_control",
    "parse_metadata",
]
