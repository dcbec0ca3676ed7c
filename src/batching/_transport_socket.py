"""TransportSocket: what get_extra_info("socket") gives."""

from __future__ import annotations

import socket
from asyncio import trsock
from collections.abc import Callable
from typing import Any


class TransportSocket(trsock.TransportSocket):
    """A transport's socket, whose options hold for what is sent from then on, and no earlier."""

    __slots__ = ("_flush",)

    def __init__(self, sock: socket.socket, flush: Callable[[], Callable[[], None] | None]) -> None:
        """``flush`` is a weak reference: the transport refers to this."""
        super().__init__(sock)
        self._flush = flush

    def setsockopt(self, *arguments: Any) -> None:
        self._before_change()
        super().setsockopt(*arguments)

    def shutdown(self, how: int) -> None:
        self._before_change()
        super().shutdown(how)

    def _before_change(self) -> None:
        flush = self._flush()
        if flush is not None:
            flush()
