"""The seam, part 4: what read_batch fills."""

from collections.abc import Sequence
from typing import final

from typing_extensions import Buffer

from .._address import Address

@final
class Message:
    """A datagram's place in ``Conn.read_batch``: a buffer to fill, and what came.

    Fields as golang.org/x/net/ipv6.Message has them.

    Args:
        buffers: One writable, C-contiguous buffer, in a list.
        oob: A writable buffer of ``min_control_message_size()`` bytes or more for the
            control bytes.
    """

    buffers: Sequence[Buffer]
    oob: Buffer
    addr: Address | None
    """The sender."""
    n: int
    """Bytes of the datagram in ``buffers[0]``; 0 is an empty datagram."""
    nn: int
    """Control bytes in ``oob``; a train's first datagram has them."""
    flags: int
    """MSG_TRUNC: the buffer was too short; MSG_CTRUNC: control bytes were cut."""
    def __init__(self, buffers: Sequence[Buffer], oob: Buffer = ...) -> None: ...
    @property
    def data(self) -> memoryview:
        """The ``n`` bytes received, in ``buffers[0]``; not a copy."""
