"""Contenders from the standard library's ``socket``: plain, and with GSO/GRO by hand.

The second is the honest "I could write it myself": ``sendmsg`` with a UDP_SEGMENT
control message over the separate buffers, ``recvmsg_into`` with UDP_GRO and a slice
of bytes for each datagram.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator

from .._kernel import MAX_PAYLOAD_IPV4, SOL_UDP, UDP_GRO, UDP_SEGMENT, max_segments
from .ends import SLOT, before_end, bind, steps

__all__ = [
    "drain",
    "drain_asleep",
    "lacks_gro",
    "lacks_gso",
    "receive_gro",
    "receive_plain",
    "send_gso",
    "send_plain",
]


def send_plain(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send with one ``sendto`` a datagram."""
    datagrams = [bytes(size) for _ in range(batch)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sendto = sock.sendto
        while True:
            for data in datagrams:
                sendto(data, to)
            yield batch


def send_gso(to: tuple[str, int], size: int, batch: int) -> Iterator[int]:
    """Send trains with ``sendmsg``, as long as the kernel takes them."""
    segments = max(1, min(max_segments(), MAX_PAYLOAD_IPV4 // size))
    datagrams = [bytes(size) for _ in range(batch)]
    trains = [datagrams[start : start + segments] for start in range(0, batch, segments)]
    control = [(SOL_UDP, UDP_SEGMENT, size.to_bytes(2, sys.byteorder))]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sendmsg = sock.sendmsg
        while True:
            for train in trains:
                # Never UDP_SEGMENT on a single datagram: some kernels refuse it.
                sendmsg(train, control if len(train) > 1 else [], 0, to)
            yield batch


def receive_plain(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive with one ``recvfrom`` a datagram."""
    space = max(2048, size)
    with bind() as sock:
        ready(sock.getsockname()[1])
        recvfrom = sock.recvfrom
        for burst in steps(batch):
            for done in range(burst):
                data, _ = recvfrom(space)
                if len(data) != size:
                    before_end([len(data)], size)
                    yield done
                    return
            yield burst


def receive_gro(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Receive trains with ``recvmsg_into`` and cut them into bytes."""
    buffer = bytearray(SLOT)
    view = memoryview(buffer)
    space = socket.CMSG_SPACE(4)
    with bind() as sock:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        ready(sock.getsockname()[1])
        recvmsg_into = sock.recvmsg_into
        while True:
            length, control, _, _ = recvmsg_into([buffer], space)
            # The segment size is a C int, present on merged trains only.
            segment = int.from_bytes(control[0][2], sys.byteorder) if control else length
            data = bytes(view[:length])
            datagrams = [data[at : at + segment] for at in range(0, length, segment or 1)]
            for datagram in datagrams:
                if len(datagram) != size:
                    before_end(map(len, datagrams), size)
            if not datagrams:
                return
            yield len(datagrams)


def drain(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Swallow what a sender sends, whole trains at a time, without ever sleeping.

    A reader that sleeps has to be woken, and waking is charged to the sender: the
    slower a sender, the more often.  So the drain of a bench asks again and again, on
    a core of its own.
    """
    return _swallow(ready, size, spin=True)


def drain_asleep(ready: Callable[[int], None], size: int, batch: int) -> Iterator[int]:
    """Swallow as ``drain`` does, asleep while there is nothing: for a single core."""
    return _swallow(ready, size, spin=False)


def _swallow(ready: Callable[[int], None], size: int, *, spin: bool) -> Iterator[int]:
    buffer = bytearray(SLOT)
    with bind() as sock:
        merged = False
        with contextlib.suppress(OSError):
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            merged = hasattr(sock, "recvmsg_into")
        space = socket.CMSG_SPACE(4) if merged else 0
        sock.setblocking(not spin)
        ready(sock.getsockname()[1])
        while True:
            try:
                if merged:
                    length, control, _, _ = sock.recvmsg_into([buffer], space)
                else:
                    length, control = sock.recv_into(buffer), []
            except BlockingIOError:
                continue
            segment = int.from_bytes(control[0][2], sys.byteorder) if control else length
            if segment != size or length % size:
                before_end([segment, length % size or size] if length else [0], size)
                return
            yield length // size


def lacks_gso() -> str:
    """Return what is missing for trains by hand, "" when nothing."""
    return "" if max_segments() > 1 else "no UDP GSO here"


def lacks_gro() -> str:
    """Return what is missing for UDP_GRO by hand, "" when nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(SOL_UDP, UDP_GRO, 1)
        except OSError:
            return "no UDP GRO here"
    return ""
