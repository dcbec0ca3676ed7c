"""What is pending in RecvSlots: trains as they came, and parts of them.  None is ever changed."""

from typing import NamedTuple

from .._address import Address
from .._kernel import MSG_CTRUNC, MSG_TRUNC
from .control import pack_control
from .message import Message

Control = list[tuple[int, int, bytes]]


class Train(NamedTuple):
    """A message that came: one datagram or several."""

    slab: list[bytearray]
    data: memoryview  # of its slab
    segment_size: int  # of all but the last
    n_datagrams: int
    address: Address
    flags: int  # MSG_TRUNC is its last datagram's, MSG_CTRUNC its first one's
    control: Control

    def part(self, first: int, count: int) -> memoryview:
        size = self.segment_size
        return self.data[first * size : (first + count) * size]

    def flags_of(self, index: int) -> int:
        flags = self.flags & MSG_CTRUNC if index == 0 else 0
        return flags | (self.flags & MSG_TRUNC if index == self.n_datagrams - 1 else 0)


class Piece(NamedTuple):
    """What a taking call takes of one train."""

    train: Train
    first: int
    n_datagrams: int


class State(NamedTuple):
    """What is pending.  Each change makes a new one, whose identity tells of the change."""

    trains: list[Train]  # of which none is changed any more
    first: int  # datagram of the first of them that goes next
    pending: int


def next_pieces(state: State, limit: int) -> list[Piece]:
    """Return what the next ``limit`` pending datagrams are."""
    pieces = []
    first = state.first
    for train in state.trains:
        if limit < 1:
            break
        count = min(limit, train.n_datagrams - first)
        pieces.append(Piece(train, first, count))
        limit -= count
        first = 0
    return pieces


def fill(message: Message, buffer: memoryview, oob: memoryview, train: Train, index: int) -> bool:
    """Fill ``message`` with a train's datagram; tell whether its buffer cut that first."""
    data = train.part(index, 1)
    n = min(data.nbytes, buffer.nbytes)
    buffer[:n] = data[:n]
    flags = train.flags_of(index)
    is_cut = n < data.nbytes and not flags & MSG_TRUNC
    control = pack_control(train.control) if index == 0 else b""
    nn = min(len(control), oob.nbytes)
    oob[:nn] = control[:nn]
    if n < data.nbytes:
        flags |= MSG_TRUNC
    if nn < len(control):
        flags |= MSG_CTRUNC
    message.addr = train.address
    message.n = n
    message.nn = nn
    message.flags = flags
    return is_cut
