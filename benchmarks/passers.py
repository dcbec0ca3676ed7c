"""The ways of passing datagrams on in Python, and of asking and being answered.

A passer sends what it receives to one destination, out of another socket, or, where none is
given, back to where it came from.  By hand and by ``send_segments`` trains pass whole.
"""

from __future__ import annotations

import itertools
import operator
import socket
import sys
from collections.abc import Callable

from child import ANY, RECEIVE_BUFFER, Address, bound, host, unbound
from receivers import SLOT, Data, messages, segment_size

import batching
from batching._kernel import SOL_UDP, UDP_GRO, UDP_SEGMENT

Step = Callable[[], object]
Ask = Callable[[], Data]


def _plain(size: int, count: int, to: Address | None) -> tuple[int, Step]:
    sock = bound()
    recvfrom, space = sock.recvfrom, max(2048, size)
    sendto = (unbound() if to else sock).sendto

    def step() -> None:
        data, source = recvfrom(space)
        sendto(data, to or source)

    return sock.getsockname()[1], step


def _by_hand(size: int, count: int, to: Address | None) -> tuple[int, Step]:
    sock = bound()
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    out = unbound() if to else sock
    recvmsg_into, sendmsg = sock.recvmsg_into, out.sendmsg
    buffer = bytearray(SLOT)
    view, space = memoryview(buffer), socket.CMSG_SPACE(4)

    def step() -> None:
        length, control, _, source = recvmsg_into([buffer], space)
        segment = segment_size(control, length)
        if segment < length:
            train = [(SOL_UDP, UDP_SEGMENT, segment.to_bytes(2, sys.byteorder))]
            sendmsg([view[:length]], train, 0, to or source)
        else:
            sendmsg([view[:length]], [], 0, to or source)

    return sock.getsockname()[1], step


def _conns(count: int, to: Address | None) -> tuple[batching.Conn, batching.Conn]:
    conn = batching.open_conn((host(), 0), batch_size=count, receive_buffer=RECEIVE_BUFFER)
    return conn, batching.open_conn(ANY, batch_size=count) if to else conn


def _send_batch(size: int, count: int, to: Address | None) -> tuple[int, Step]:
    conn, out = _conns(count, to)
    if to is None:
        return conn.local_addr()[1], lambda: out.send_batch(conn.recv_batch())
    return conn.local_addr()[1], lambda: out.send_batch([(d, to) for d, _ in conn.recv_batch()])


def _send_segments(size: int, count: int, to: Address | None) -> tuple[int, Step]:
    conn, out = _conns(count, to)
    return conn.local_addr()[1], lambda: out.send_segments(conn.recv_segments(), to=to)


def _write_batch_to(size: int, count: int, to: Address | None) -> tuple[int, Step]:
    conn, out = _conns(count, to)
    slots = messages(size, count)
    source_of = operator.attrgetter("addr")

    def step() -> None:
        filled = slots[: conn.read_batch(slots)]
        if to:
            out.write_batch_to([slot.data for slot in filled], to)
            return
        for source, group in itertools.groupby(filled, source_of):
            out.write_batch_to([slot.data for slot in group], source)

    return conn.local_addr()[1], step


PASSERS: dict[str, Callable[[int, int, Address | None], tuple[int, Step]]] = {
    "sendto": _plain,
    "by hand": _by_hand,
    "send_batch": _send_batch,
    "write_batch_to": _write_batch_to,
    "send_segments": _send_segments,
}


# ---- one request, one response ----


def _ask_plainly(data: bytes, to: Address) -> Ask:
    sock = unbound()
    sendto, recvfrom, space = sock.sendto, sock.recvfrom, max(2048, len(data))

    def ask() -> Data:
        sendto(data, to)
        return recvfrom(space)[0]

    return ask


def _ask_by_batch(data: bytes, to: Address) -> Ask:
    conn = batching.open_conn(ANY)
    pairs = [(data, to)]

    def ask() -> Data:
        conn.send_batch(pairs)
        return conn.recv_batch()[0][0]

    return ask


def _ask_by_segments(data: bytes, to: Address) -> Ask:
    conn = batching.open_conn(ANY)
    trains = [batching.Segments(data, len(data), to)]

    def ask() -> Data:
        conn.send_segments(trains)
        return conn.recv_segments()[0].data

    return ask


def _ask_by_buffers(data: bytes, to: Address) -> Ask:
    conn = batching.open_conn(ANY)
    buffers, slots = [bytearray(data)], messages(len(data), 1)
    view = memoryview(slots[0].buffers[0])

    def ask() -> Data:
        conn.write_batch_to(buffers, to)
        conn.read_batch(slots)
        return view[: slots[0].n]

    return ask


ASKERS: dict[str, Callable[[bytes, Address], Ask]] = {
    "sendto": _ask_plainly,
    "send_batch": _ask_by_batch,
    "write_batch_to": _ask_by_buffers,
    "send_segments": _ask_by_segments,
}
