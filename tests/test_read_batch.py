"""Conn.read_batch and Message, over real sockets on loopback."""

from __future__ import annotations

import array
import ctypes
import errno
import io
import socket
import sys
from typing import Any

import pytest

from batching import Conn, Message, min_control_message_size, open_conn
from batching._kernel import MSG_DONTWAIT, MSG_TRUNC, MSG_WAITFORONE
from loopback import (
    PATIENCE_S,
    PlainPeer,
    assert_nothing_left,
    messages,
    needs_gso,
    needs_ipv6,
    needs_whole_trains,
    start_reader,
    until,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def conn(conn: Conn) -> Conn:
    conn.settimeout(PATIENCE_S)
    return conn


def read(conn: Conn, msgs: list[Message]) -> None:
    """Fill all of ``msgs``, in as many calls as it takes."""
    done = 0
    while done < len(msgs):
        done += conn.read_batch(msgs[done:])


def test_messages_are_filled_from_the_front(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"hello", b"")
    msgs = messages(5)
    read(conn, msgs[:2])
    assert [bytes(msg.data) for msg in msgs[:2]] == [b"hello", b""]
    assert [(msg.n, msg.flags, msg.addr) for msg in msgs[:2]] == [
        (5, 0, peer.address),
        (0, 0, peer.address),
    ]
    assert [(msg.n, msg.addr) for msg in msgs[2:]] == [(0, None)] * 3
    assert_nothing_left(conn)


def test_data_is_in_the_buffer_and_no_copy(conn: Conn, peer: PlainPeer) -> None:
    buffer = bytearray(b"........")
    msg = Message([buffer], bytearray(min_control_message_size()))
    peer.send(conn.local_addr(), b"abc")
    assert conn.read_batch([msg]) == 1
    assert buffer == b"abc....."
    msg.data[0] = ord("A")
    assert buffer == b"Abc....."


@needs_ipv6
def test_a_sender_is_a_tuple_of_four_on_ipv6() -> None:
    with open_conn(("::1", 0)) as conn, PlainPeer("::1") as peer:
        peer.send(conn.local_addr(), b"hello")
        msgs = messages(1)
        assert conn.read_batch(msgs) == 1
        assert msgs[0].addr == peer.address


@needs_gso
def test_a_train_fills_a_message_for_each_datagram(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"aaabbbc", 3)
    msgs = messages(5)
    assert conn.read_batch(msgs) == 3
    assert [bytes(msg.data) for msg in msgs[:3]] == [b"aaa", b"bbb", b"c"]


@needs_whole_trains
def test_control_bytes_come_with_the_first_datagram_of_a_train(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"aaabbbc", 3)
    msgs = messages(3)
    msgs[1].nn = msgs[2].nn = 99
    assert conn.read_batch(msgs) == 3
    # One cmsg: a header of 16 bytes and UDP_GRO's int, as the system pads it.
    assert msgs[0].nn == socket.CMSG_SPACE(4)
    control = memoryview(msgs[0].oob)
    assert int.from_bytes(control[16:20], sys.byteorder) == 3
    assert [msg.nn for msg in msgs[1:]] == [0, 0]
    assert [msg.flags for msg in msgs] == [0, 0, 0]


@needs_whole_trains
def test_the_rest_of_a_train_waits_for_the_next_call(conn: Conn, peer: PlainPeer) -> None:
    n = conn.offload.max_segments
    peer.send_train(conn.local_addr(), bytes(range(n)), 1)
    msgs = messages(3)
    read_back = b""
    while len(read_back) < n:
        filled = conn.read_batch(msgs)
        assert filled == min(3, n - len(read_back))
        read_back += b"".join(bytes(msg.data) for msg in msgs[:filled])
        assert conn.pending == n - len(read_back)
    assert read_back == bytes(range(n))


def test_a_message_can_be_used_again(conn: Conn, peer: PlainPeer) -> None:
    msgs = messages(1)
    for data in (b"long one", b"", b"short"):
        peer.send(conn.local_addr(), data)
        assert conn.read_batch(msgs) == 1
        assert (bytes(msgs[0].data), msgs[0].n) == (data, len(data))


def test_too_short_a_buffer_sets_msg_trunc_in_its_message_only(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"abcdef", b"abc", b"xyz")
    msgs = messages(1, size=3) + messages(1, size=3) + messages(1)
    read(conn, msgs)
    assert [bytes(msg.data) for msg in msgs] == [b"abc", b"abc", b"xyz"]
    assert [msg.flags for msg in msgs] == [MSG_TRUNC, 0, 0]
    assert conn.stats().recv_truncated == 1


@needs_gso
def test_a_train_is_cut_datagram_by_datagram(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"aaaabbbbcc", 4)
    msgs = messages(3, size=2)
    assert conn.read_batch(msgs) == 3
    assert [bytes(msg.data) for msg in msgs] == [b"aa", b"bb", b"cc"]
    assert [msg.flags for msg in msgs] == [MSG_TRUNC, MSG_TRUNC, 0]


def test_a_buffer_of_no_bytes_takes_an_empty_datagram(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"", b"x")
    msgs = messages(2, size=0)
    read(conn, msgs)
    assert [(msg.n, msg.flags) for msg in msgs] == [(0, 0), (0, MSG_TRUNC)]


def test_no_messages_return_0_at_once(conn: Conn) -> None:
    assert conn.read_batch([]) == 0
    assert conn.read_batch((), MSG_DONTWAIT) == 0


def test_messages_may_be_any_sequence(conn: Conn, peer: PlainPeer) -> None:
    msgs = tuple(messages(1))
    peer.send(conn.local_addr(), b"x")
    assert conn.read_batch(msgs) == 1
    assert bytes(msgs[0].data) == b"x"


@pytest.mark.parametrize("flags", [0, MSG_WAITFORONE], ids=["none", "MSG_WAITFORONE"])
def test_a_call_waits_for_the_first_datagram(conn: Conn, peer: PlainPeer, flags: int) -> None:
    msgs = messages(3)
    waiting = start_reader(conn, conn.read_batch, msgs, flags)
    peer.send(conn.local_addr(), b"late")
    assert waiting.result(PATIENCE_S) == 1
    assert bytes(msgs[0].data) == b"late"


@pytest.mark.parametrize("flags", [MSG_DONTWAIT, MSG_DONTWAIT | MSG_WAITFORONE])
def test_msg_dontwait_is_non_blocking_for_this_call(
    conn: Conn, peer: PlainPeer, flags: int
) -> None:
    with pytest.raises(BlockingIOError) as caught:
        conn.read_batch(messages(1), flags)
    assert caught.value.errno == errno.EAGAIN
    assert conn.gettimeout() == PATIENCE_S
    peer.send(conn.local_addr(), b"x")
    until(lambda: conn.read_batch(messages(1), flags) == 1)


def test_a_timeout_ends_a_call(conn: Conn) -> None:
    conn.settimeout(0.01)
    with pytest.raises(TimeoutError):
        conn.read_batch(messages(1))


def oob() -> bytearray:
    return bytearray(min_control_message_size())


BAD_MESSAGES = [
    pytest.param(Message([bytearray(9)]), ValueError, "176", id="no oob"),
    pytest.param(Message([bytearray(9)], bytearray(175)), ValueError, "175.*176", id="short oob"),
    pytest.param(Message([bytearray(9)], bytes(176)), ValueError, "oob", id="read-only oob"),
    pytest.param(Message([b"123"], oob()), ValueError, "", id="read-only buffer"),
    pytest.param(Message([], oob()), ValueError, "1 buffer, has 0", id="no buffer"),
    pytest.param(Message([bytearray(9)] * 2, oob()), ValueError, "1 buffer, has 2", id="two"),
    pytest.param(
        Message([memoryview(bytearray(9))[::2]], oob()), ValueError, "", id="not contiguous"
    ),
    pytest.param(Message([7], oob()), TypeError, "int", id="no buffer at all"),  # type: ignore[list-item]
    pytest.param(Message(7, oob()), TypeError, "int", id="no list of buffers"),  # type: ignore[arg-type]
    pytest.param(bytearray(9), TypeError, "bytearray", id="no Message"),
]


@pytest.mark.parametrize(("bad", "kind", "detail"), BAD_MESSAGES)
@pytest.mark.parametrize("has_come", [True, False], ids=["data waits", "nothing waits"])
def test_a_message_that_cannot_be_filled_is_told_by_its_index(
    conn: Conn, peer: PlainPeer, bad: Any, kind: type[Exception], detail: str, has_come: bool
) -> None:
    if has_come:
        peer.send(conn.local_addr(), b"kept")
    with pytest.raises(kind, match=f"^message 1: .*{detail}"):
        conn.read_batch([*messages(1), bad])
    if has_come:
        assert conn.recv_batch() == [(b"kept", peer.address)]


@pytest.mark.parametrize("flags", [socket.MSG_PEEK, socket.MSG_TRUNC, -1, 1 << 30])
def test_other_flags_are_refused(conn: Conn, flags: int) -> None:
    with pytest.raises(ValueError, match=r"MSG_DONTWAIT and MSG_WAITFORONE"):
        conn.read_batch(messages(1), flags)


@pytest.mark.parametrize(
    "buffer",
    [
        pytest.param(array.array("I", [0] * 3), id="array"),
        pytest.param(memoryview(bytearray(20))[4:16], id="memoryview"),
        pytest.param(memoryview(bytearray(12)).cast("B", (3, 4)), id="2 dimensions"),
    ],
)
def test_any_writable_buffer_will_do(conn: Conn, peer: PlainPeer, buffer: Any) -> None:
    peer.send(conn.local_addr(), b"hello")
    msg = Message([buffer], memoryview(oob()))
    assert conn.read_batch([msg]) == 1
    assert bytes(msg.data) == b"hello"
    assert memoryview(buffer).tobytes() == b"hello" + bytes(7)


def test_a_new_message_is_empty() -> None:
    msg = Message([bytearray(9)])
    assert (msg.n, msg.nn, msg.flags, msg.addr, bytes(msg.data)) == (0, 0, 0, None, b"")
    assert "n=0" in repr(msg)


class Subclass(bytearray):
    pass


@pytest.mark.parametrize("n", [0, 1, 4, 8, 9, 99, -1, -99])
@pytest.mark.parametrize("kind", [bytearray, Subclass, lambda data: memoryview(bytearray(data))])
def test_data_are_a_slice_of_the_buffer(kind: Any, n: int) -> None:
    buffer = kind(b"12345678")
    msg = Message(buffers=[buffer])
    msg.n = n
    expected, data = memoryview(buffer)[:n], msg.data
    assert data == expected
    assert data.tobytes() == expected.tobytes()
    assert data[1:].tobytes() == expected[1:].tobytes()
    assert data.tolist() == expected.tolist()
    names = ("nbytes", "shape", "strides", "format", "ndim", "readonly", "c_contiguous", "obj")
    assert [getattr(data, name) for name in names] == [getattr(expected, name) for name in names]
    assert (len(msg.data), len(memoryview(buffer))) == (len(expected), 8)


def test_data_hold_the_buffer_until_they_are_released() -> None:
    buffer = bytearray(b"12345678")
    msg = Message(buffers=[buffer])
    msg.n = 3
    with msg.data as data, pytest.raises(BufferError):
        buffer.clear()
    with pytest.raises(ValueError, match="released"):
        data.tobytes()
    buffer.clear()
    assert msg.data.tobytes() == b""


def test_data_of_a_buffer_that_holds_nothing_is_empty() -> None:
    rows = ((ctypes.c_char * 3) * 0)()  # of shape (0, 3)
    assert bytes(Message([rows]).data) == b""


def test_min_control_message_size_holds_every_option() -> None:
    words = [4, 4, 4]  # UDP_GRO, SO_RXQ_OVFL, a mark
    others = [16, 12, 20]  # a timespec, in_pktinfo and in6_pktinfo: IPv4 over IPv6 has both
    assert min_control_message_size() == sum(map(socket.CMSG_SPACE, words + others))


def test_a_single_read_is_refused(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"kept")
    with pytest.raises(io.UnsupportedOperation, match="read_batch"):
        conn.read_from_udp_addr_port(bytearray(100))
    assert conn.recv_batch() == [(b"kept", peer.address)]


def test_a_buffer_that_was_replaced_is_let_go(conn: Conn, peer: PlainPeer) -> None:
    old = array.array("B", bytes(100))
    message = Message([old], bytearray(min_control_message_size()))
    for replacement in (old, bytearray(100)):
        message.buffers = [replacement]
        peer.send(conn.local_addr(), b"x")
        assert conn.read_batch([message]) == 1
    old.append(1)  # BufferError while it is exported
