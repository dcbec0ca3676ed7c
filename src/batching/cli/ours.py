"""Contenders of this package: each way of using a ``Conn``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import batching

from .._kernel import MAX_PAYLOAD_IPV4
from .ends import LOOPBACK, RECEIVE_BUFFER, before_end

__all__ = [
    "feed",
    "read_batch",
    "recv_batch",
    "recv_segments",
    "send_batch",
    "send_segments",
    "write_batch_to",
]


def send_batch(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send pairs of data and address."""
    pairs = [(bytes(size), to) for _ in range(batch)]
    with batching.open_conn((LOOPBACK, 0), batch_size=batch) as conn:
        while True:
            yield conn.send_batch(pairs)


def write_batch_to(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send separate buffers to one address, as the Go original does."""
    buffers = [bytearray(size) for _ in range(batch)]
    with batching.open_conn((LOOPBACK, 0), batch_size=batch) as conn:
        while True:
            conn.write_batch_to(buffers, to)
            yield batch


def send_segments(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send trains that lie in memory one datagram after the other."""
    return _trains(to, size, batch)


def feed(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send as fast as we can, for a receiver that is measured."""
    return _trains(to, size, max(batch, 128))


def _trains(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    with batching.open_conn((LOOPBACK, 0), batch_size=batch) as conn:
        longest = max(1, min(conn.offload.max_segments, MAX_PAYLOAD_IPV4 // size))
        data = bytes(size * batch)
        step = size * longest
        trains = [
            batching.Segments(data[start : start + step], size, to)
            for start in range(0, len(data), step)
        ]
        while True:
            yield conn.send_segments(trains)


def recv_batch(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive a list of bytes and address, and look at each."""
    with _bound(ready, batch) as conn:
        while True:
            datagrams = conn.recv_batch()
            for data, _ in datagrams:
                if len(data) != size:
                    yield before_end([len(data) for data, _ in datagrams], size)
                    return
            yield len(datagrams)


def read_batch(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive into buffers that are used again and again, and look at each."""
    control = batching.min_control_message_size()
    messages = [
        batching.Message(buffers=[bytearray(max(2048, size))], oob=bytearray(control))
        for _ in range(batch)
    ]
    with _bound(ready, batch) as conn:
        while True:
            count = conn.read_batch(messages)
            for index in range(count):
                if messages[index].n != size:
                    yield before_end([message.n for message in messages[:count]], size)
                    return
            yield count


def recv_segments(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive whole trains, and look at nothing but the train's own sizes."""
    with _bound(ready, batch) as conn:
        while True:
            count = 0
            for train in conn.recv_segments():
                length = train.data.nbytes
                if train.segment_size != size or length % size:
                    before_end([train.segment_size, length % size or size] if length else [0], size)
                    yield count
                    return
                count += length // size
            yield count


def _bound(ready: Callable[[int], None], batch: int) -> batching.Conn:
    conn = batching.open_conn((LOOPBACK, 0), batch_size=batch, receive_buffer=RECEIVE_BUFFER)
    ready(conn.local_addr()[1])
    return conn
