"""What the tests of the seam share: the back ends, and a sender and a receiver around one."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest

from batching._kernel import SOL_UDP, UDP_GRO, UDP_SEGMENT, max_segments

needs_gso = pytest.mark.skipif(
    max_segments() < 64, reason="no UDP GSO and GRO here: needs Linux 5.0"
)
A, B, C = (("127.0.0.1", port) for port in (1001, 1002, 1003))


class Rig:
    """A sender and a receiver on loopback, with the back end's objects around them."""

    def __init__(self, backend: Any, gro: bool = False, **slots: int) -> None:
        self.backend = backend
        self.sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if gro:
            self.sink.setsockopt(SOL_UDP, UDP_GRO, 1)
        self.sink.bind(("127.0.0.1", 0))
        self.address = self.sink.getsockname()
        self.source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.source.bind(("127.0.0.1", 0))
        self.counters = backend.Counters()
        self.peers = backend.Peers(socket.AF_INET, False, 64)
        self.plan = backend.SendPlan(self.peers, self.counters)
        self.slots = backend.RecvSlots(self.peers, self.counters, **slots)
        self.tx = backend.Descriptor(self.source)
        self.rx = backend.Descriptor(self.sink)
        self.dispatcher = self.dispatcher_of(self.tx)

    def dispatcher_of(self, descriptor: Any) -> Any:
        return self.backend.Dispatcher(descriptor, self.peers, self.counters)

    def train(self, data: bytes, size: int) -> None:
        """Send ``data`` as one message, cut by the kernel."""
        control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        self.source.sendmsg([data], control, 0, self.address)

    def send(self, *datagrams: bytes) -> None:
        for data in datagrams:
            self.source.sendto(data, self.address)

    def layout(self) -> list[tuple[int, int, int]]:
        """Send what is planned; return (port, segment size, datagrams) of each message."""
        messages = []
        while self.plan.position < self.plan.n_messages:
            peer, size = self.plan.peer(), self.plan.segment_size()
            before = self.n_sent()
            assert self.plan.attempt(self.tx, 1) == (1, 0)
            messages.append((peer.address[1], size, self.n_sent() - before))
        return messages

    def n_sent(self) -> int:
        """Return how many datagrams went out."""
        n: int = self.counters.snapshot()["send_datagrams"]
        return n

    def close(self) -> None:
        self.plan.release()
        self.tx.close()
        self.rx.close()
