"""Message: a datagram's place in ``read_batch``, and what may stand in one.

Rule: its fields are the user's to set, so they are looked at when it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from .._address import Address
from .buffer import byte_view

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Message", "pin"]

_NO_OOB: Final = b""


@final
class Message:
    """A datagram's place in ``Conn.read_batch``: a buffer to fill, and what came.

    Fields as golang.org/x/net/ipv6.Message has them.  What is passed in is looked at
    when the message is used.

    Args:
        buffers: One writable, C-contiguous buffer, in a list.
        oob: A writable buffer of ``min_control_message_size()`` bytes or more for the
            control bytes.
    """

    __slots__ = ("__weakref__", "addr", "buffers", "flags", "n", "nn", "oob")

    def __init__(self, buffers: Sequence[Buffer], oob: Buffer = _NO_OOB) -> None:
        self.buffers = buffers
        self.oob: Buffer = bytearray() if oob is _NO_OOB else oob
        self.addr: Address | None = None
        self.n = 0
        self.nn = 0
        self.flags = 0

    @property
    def data(self) -> memoryview:
        """The ``n`` bytes received, in ``buffers[0]``; not a copy."""
        return byte_view(self.buffers[0])[: self.n]

    def __repr__(self) -> str:
        return f"<Message n={self.n} nn={self.nn} flags={self.flags:#x} addr={self.addr!r}>"


def pin(messages: Sequence[object], min_oob: int, views: list[memoryview]) -> None:
    """Append two views a message, of its buffer and its oob; runs user code.

    Raises:
        TypeError, ValueError: "message INDEX: ..."; what is in ``views`` is to be released.
    """
    for index, message in enumerate(messages):
        try:
            if not isinstance(message, Message):
                raise TypeError(f"must be a Message, not {type(message).__name__}")
            n_buffers = len(message.buffers)
            if n_buffers != 1:
                raise ValueError(f"must have exactly 1 buffer, has {n_buffers}")
            views.append(_writable("the buffer", message.buffers[0]))
            oob = _writable("oob", message.oob)
            views.append(oob)
            if oob.nbytes < min_oob:
                raise ValueError(f"oob of {oob.nbytes} bytes, must be at least {min_oob}")
        except TypeError as error:
            raise TypeError(f"message {index}: {error}") from error.__cause__
        except ValueError as error:
            raise ValueError(f"message {index}: {error}") from error.__cause__


def _writable(what: str, data: object) -> memoryview:
    view = byte_view(data)
    if view.readonly:
        view.release()
        raise ValueError(f"{what} is read-only")
    return view
