"""The ways of receiving in Python: a plain socket, by hand, and a ``Conn``.

Each has ``step``, which is measured and looks at the last datagram only, and ``take``, which
receives in the same way and yields the datagrams, to be compared.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterable
from typing import Protocol

from child import LONGEST_MARK, RECEIVE_BUFFER, bound, host

import batching
from batching._kernel import SOL_UDP, UDP_GRO

SLOT = 65536  # no UDP message, merged or not, is longer than 65535
Data = bytes | memoryview


class Receiver(Protocol):
    def __init__(self, size: int, count: int) -> None: ...
    def port(self) -> int: ...
    def flush(self) -> None:
        """Throw away what is queued."""

    def step(self) -> tuple[int, bool]:
        """Return the datagrams of one call, and whether the mark was among them."""

    def take(self) -> Iterable[Data]: ...


class Plain:
    """``socket.recvfrom``."""

    def __init__(self, size: int, count: int) -> None:
        self.size = max(2048, size)
        self.socket = bound()

    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def flush(self) -> None:
        flush(self.socket)

    def step(self) -> tuple[int, bool]:
        data, _ = self.socket.recvfrom(self.size)
        return (1, False) if len(data) > LONGEST_MARK else (0, True)

    def take(self) -> Iterable[Data]:
        data, _ = self.socket.recvfrom(self.size)
        return [data]


def flush(sock: socket.socket) -> None:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.recv(1)
    sock.setblocking(True)


def segment_size(control: list[tuple[int, int, bytes]], length: int) -> int:
    """Return the bytes of each datagram of a message: a C int, on merged trains only."""
    return int.from_bytes(control[0][2], sys.byteorder) if control else length


class ByHand(Plain):
    """``recvmsg_into`` with UDP_GRO, and a slice of bytes for each datagram."""

    def __init__(self, size: int, count: int) -> None:
        super().__init__(size, count)
        self.socket.setsockopt(SOL_UDP, UDP_GRO, 1)
        self.buffer = bytearray(SLOT)
        self.view = memoryview(self.buffer)
        self.space = socket.CMSG_SPACE(4)

    def step(self) -> tuple[int, bool]:
        datagrams = self.take()
        if len(datagrams[-1]) > LONGEST_MARK:
            return len(datagrams), False
        return len(datagrams) - 1, True

    def take(self) -> list[bytes]:
        length, control, _, _ = self.socket.recvmsg_into([self.buffer], self.space)
        segment = segment_size(control, length)
        data = bytes(self.view[:length])
        return [data[at : at + segment] for at in range(0, length, segment)] if length else [data]


class Ours:
    """What the ways of receiving through a ``Conn`` share."""

    def __init__(self, size: int, count: int) -> None:
        self.conn = batching.open_conn((host(), 0), batch_size=count, receive_buffer=RECEIVE_BUFFER)

    def port(self) -> int:
        port: int = self.conn.local_addr()[1]
        return port

    def flush(self) -> None:
        self.conn.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.conn.recv_batch()
        self.conn.settimeout(None)


class RecvBatch(Ours):
    def step(self) -> tuple[int, bool]:
        datagrams = self.conn.recv_batch()
        if len(datagrams[-1][0]) > LONGEST_MARK:
            return len(datagrams), False
        return sum(1 for data, _ in datagrams if len(data) > LONGEST_MARK), True

    def take(self) -> Iterable[Data]:
        return [data for data, _ in self.conn.recv_batch()]


class RecvSegments(Ours):
    def step(self) -> tuple[int, bool]:
        trains = self.conn.recv_segments()
        count = 0
        for train in trains:
            count += len(train)
        if trains[-1].data.nbytes > LONGEST_MARK:
            return count, False
        return sum(len(train) for train in trains if train.data.nbytes > LONGEST_MARK), True

    def take(self) -> Iterable[Data]:
        return [data for train in self.conn.recv_segments() for data in train]


def messages(size: int, count: int) -> list[batching.Message]:
    control = batching.min_control_message_size()
    return [
        batching.Message(buffers=[bytearray(max(2048, size))], oob=bytearray(control))
        for _ in range(count)
    ]


class ReadBatch(Ours):
    def __init__(self, size: int, count: int) -> None:
        super().__init__(size, count)
        self.messages = messages(size, count)
        self.views = [memoryview(message.buffers[0]) for message in self.messages]

    def step(self) -> tuple[int, bool]:
        count = self.conn.read_batch(self.messages)
        if self.messages[count - 1].n > LONGEST_MARK:
            return count, False
        return sum(1 for message in self.messages[:count] if message.n > LONGEST_MARK), True

    def take(self) -> Iterable[Data]:
        count = self.conn.read_batch(self.messages)
        return [self.views[index][: self.messages[index].n] for index in range(count)]


RECEIVERS: dict[str, type[Receiver]] = {
    "recvfrom": Plain,
    "by hand": ByHand,
    "recv_batch": RecvBatch,
    "recv_segments": RecvSegments,
    "read_batch": ReadBatch,
}
