"""Conn.write_batch_to, with and without a Geneve header, over real sockets on loopback."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from batching import (
    GENEVE_FIXED_HEADER_LENGTH,
    GENEVE_PROTOCOL_WIREGUARD,
    Conn,
    GeneveHeader,
    SendError,
    VirtualNetworkID,
    open_conn,
)
from loopback import (
    ANY_PORT,
    HOST,
    PlainPeer,
    gather,
    needs_gso,
    needs_linux,
    needs_room,
)

pytestmark = pytest.mark.kernel

UNSET = GeneveHeader(protocol=GENEVE_PROTOCOL_WIREGUARD)
HEADER = GeneveHeader(GENEVE_PROTOCOL_WIREGUARD, VirtualNetworkID(0xABCDEF), control=True)
LENGTH = GENEVE_FIXED_HEADER_LENGTH


def encoded(header: GeneveHeader) -> bytes:
    buffer = bytearray(LENGTH)
    header.encode(buffer)
    return bytes(buffer)


def test_each_buffer_is_a_datagram(conn: Conn, peer: PlainPeer) -> None:
    conn.write_batch_to([b"a", bytearray(b"bc"), b"", memoryview(b"def")], peer.address)
    assert peer.collect(4) == [b"a", b"bc", b"", b"def"]


def test_no_buffers_are_no_error(conn: Conn, peer: PlainPeer) -> None:
    conn.write_batch_to([], peer.address)
    assert peer.collect(0) == []


@needs_gso
def test_equal_buffers_are_one_train(conn: Conn, peer: PlainPeer) -> None:
    n = conn.offload.max_segments
    conn.write_batch_to([bytes(100)] * n, peer.address)
    stats = conn.stats()
    assert (stats.send_calls, stats.send_trains, stats.send_datagrams) == (1, 1, n)
    assert peer.collect(n) == [bytes(100)] * n


def test_none_is_the_connected_peer(peer: PlainPeer) -> None:
    with open_conn(None, peer.address) as conn:
        conn.write_batch_to([b"a", b"b"], None)
        assert peer.collect(2) == [b"a", b"b"]


@pytest.mark.parametrize("offset", [0, 3, LENGTH])
def test_without_a_header_the_first_bytes_are_left_out(
    conn: Conn, peer: PlainPeer, offset: int
) -> None:
    buffers = [b"12345678payload", b"12345678"]
    conn.write_batch_to(buffers, peer.address, UNSET, offset)
    assert peer.collect(2) == [data[offset:] for data in buffers]


def test_an_offset_of_the_whole_buffer_is_an_empty_datagram(conn: Conn, peer: PlainPeer) -> None:
    conn.write_batch_to([b"abc", b"abcd"], peer.address, offset=3)
    assert peer.collect(2) == [b"", b"d"]


def test_a_header_is_written_into_every_buffer_and_sent(conn: Conn, peer: PlainPeer) -> None:
    buffers = [bytearray(b"????????one"), bytearray(LENGTH), bytearray(b"????????three")]
    conn.write_batch_to(buffers, peer.address, HEADER, LENGTH)
    assert buffers == [encoded(HEADER) + tail for tail in (b"one", b"", b"three")]
    received = peer.collect(3)
    assert received == buffers
    assert GeneveHeader.decode(received[0]) == HEADER


def test_the_virtual_network_0_is_a_set_one(conn: Conn, peer: PlainPeer) -> None:
    header = GeneveHeader(vni=VirtualNetworkID(0))
    conn.write_batch_to([bytearray(b"????????x")], peer.address, header, LENGTH)
    assert peer.collect(1) == [encoded(header) + b"x"]


BAD = [
    pytest.param([bytearray(9), bytearray(7)], HEADER, 8, "buffer 1: offset 8.*7", id="short"),
    pytest.param([b"abcd", b"abc"], UNSET, 4, "buffer 1: offset 4.*3", id="short without header"),
    pytest.param([bytearray(9), bytes(9)], HEADER, 8, "buffer 1: ", id="read-only"),
    pytest.param(
        [bytearray(9), memoryview(bytearray(18))[::2]], HEADER, 8, "buffer 1: ", id="strided"
    ),
    pytest.param([bytearray(9)], HEADER, 0, "offset 0, must be 8", id="a header at 0"),
    pytest.param([bytearray(19)], HEADER, 16, "offset 16, must be 8", id="a header at 16"),
    pytest.param([bytearray(9)], UNSET, -1, "offset -1", id="negative"),
    pytest.param([bytearray(9)] * 129, HEADER, 8, "129 buffers, at most 128", id="129 buffers"),
]


@pytest.mark.parametrize(("buffers", "geneve", "offset", "message"), BAD)
def test_a_bad_call_writes_no_header_and_sends_nothing(
    conn: Conn,
    peer: PlainPeer,
    buffers: list[Any],
    geneve: GeneveHeader,
    offset: int,
    message: str,
) -> None:
    before = [bytes(data) for data in buffers]
    with pytest.raises(ValueError, match=f"^{message}"):
        conn.write_batch_to(buffers, peer.address, geneve, offset)
    assert [bytes(data) for data in buffers] == before
    assert conn.stats().send_calls == 0
    conn.write_batch_to([b"after"], peer.address)
    assert peer.collect(1) == [b"after"]


def test_a_bad_address_writes_no_header(conn: Conn) -> None:
    buffer = bytearray(9)
    with pytest.raises(ValueError, match="resolve it first"):
        conn.write_batch_to([buffer], ("localhost", 1), HEADER, LENGTH)
    assert buffer == bytes(9)


@pytest.mark.parametrize("batch_size", [1, 5, 1024])
@needs_room
def test_batch_size_is_the_limit(peer: PlainPeer, batch_size: int) -> None:
    with open_conn(ANY_PORT, batch_size=batch_size) as conn:
        conn.write_batch_to([b"x"] * batch_size, peer.address)
        assert conn.batch_size == batch_size
        with pytest.raises(ValueError, match=f"{batch_size + 1} buffers, at most {batch_size}"):
            conn.write_batch_to([b"x"] * (batch_size + 1), peer.address)
        assert peer.collect(batch_size) == [b"x"] * batch_size


def test_too_long_a_buffer_keeps_no_other_back(conn: Conn, peer: PlainPeer) -> None:
    with pytest.raises(SendError) as caught:
        conn.write_batch_to([b"a", bytes(65508), b"c"], peer.address)
    error = caught.value
    assert (error.sent, error.unsent, list(error.errors)) == (2, [], [1])
    assert error.errors[1].errno == errno.EMSGSIZE
    assert peer.collect(2) == [b"a", b"c"]


@needs_linux
def test_a_destination_that_takes_nothing_is_not_blamed_on_gso(conn: Conn) -> None:
    with pytest.raises(SendError) as caught:
        conn.write_batch_to([b"x"] * 3, (HOST, 0))
    error = caught.value
    assert (error.sent, error.unsent, list(error.errors)) == (0, [], [0, 1, 2])
    assert not conn.stats().gso_fallbacks


class WithoutTruth(list[bytes]):
    """As an array of numpy: its truth value is refused."""

    def __bool__(self) -> bool:
        raise ValueError("the truth value is ambiguous")


def test_buffers_need_no_truth_value(conn: Conn) -> None:
    conn.write_batch_to(WithoutTruth([b"a", b"b"]), conn.local_addr())
    assert gather(conn, 2) == [b"a", b"b"]
