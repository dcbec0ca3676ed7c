"""The native back end: sendmmsg and recvmmsg, planned and called in C.

It plans trains and makes one attempt; it waits only where it is told how long, never
retries, never decides.
The stubs beside the modules say what each method promises; _portable is its twin.
"""

from .descriptor import Counters, Descriptor
from .dispatcher import Dispatcher
from .message import Message
from .peers import Peer, Peers
from .recv import RecvSlots, parse_control, parse_metadata
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
