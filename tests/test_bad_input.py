"""Wrong input: a built-in error that tells the index, the value and the limit; nothing is sent."""

from __future__ import annotations

import array
import re
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batching import Conn, Segments, open_conn
from loopback import HOST, PlainPeer, needs_ipv6


def released() -> memoryview:
    view = memoryview(b"abc")
    view.release()
    return view


STRIDED = memoryview(bytes(9))[::2]
BAD_DATA = [
    pytest.param("text", TypeError, "str", id="str"),
    pytest.param(None, TypeError, "NoneType", id="None"),
    pytest.param(7, TypeError, "int", id="int"),
    pytest.param([1, 2], TypeError, "list", id="list"),
    pytest.param(STRIDED, ValueError, "C-contiguous", id="not contiguous"),
    pytest.param(released(), ValueError, "", id="released memoryview"),
]
# On a socket of IPv4.
BAD_ADDRESSES = [
    pytest.param(None, ValueError, "not connected", id="None, unconnected"),
    pytest.param(HOST, TypeError, "tuple.*str", id="str"),
    pytest.param([HOST, 1], TypeError, "tuple.*list", id="list"),
    pytest.param((), TypeError, "tuple of 0", id="empty"),
    pytest.param((HOST,), TypeError, "tuple of 1", id="1-tuple"),
    pytest.param((HOST, 1, 2, 3, 4), TypeError, "tuple of 5", id="5-tuple"),
    pytest.param((b"127.0.0.1", 1), TypeError, "host .*bytes", id="bytes as host"),
    pytest.param((HOST, "1"), TypeError, "port .*str", id="str as port"),
    pytest.param((HOST, 1.0), TypeError, "port .*float", id="float as port"),
    pytest.param((HOST, None), TypeError, "port .*NoneType", id="None as port"),
    pytest.param((HOST, -1), ValueError, "port -1, must be 0 to 65535", id="port -1"),
    pytest.param((HOST, 65536), ValueError, "port 65536, must be 0 to 65535", id="port 65536"),
    pytest.param((HOST, 1 << 70), ValueError, "port .*, must be 0 to 65535", id="port 2**70"),
    pytest.param(("localhost", 1), ValueError, "'localhost'.*resolve it first", id="localhost"),
    pytest.param(("example.com", 1), ValueError, "resolve it first", id="host name"),
    pytest.param(("127.1", 1), ValueError, "resolve it first", id="short IPv4"),
    pytest.param(("127.0.0.1 ", 1), ValueError, "resolve it first", id="a space"),
    pytest.param(("127.0.0.1\0", 1), ValueError, "resolve it first", id="a NUL"),
    pytest.param(("256.0.0.1", 1), ValueError, "resolve it first", id="256"),
    pytest.param(("\ud800", 1), ValueError, "resolve it first", id="lone surrogate"),
    pytest.param(("::1", 1), ValueError, "IPv6 address '::1' on an IPv4", id="IPv6"),
    pytest.param(("::1", 1, 0, 0), ValueError, "on an IPv4 socket", id="IPv6 4-tuple"),
    pytest.param((HOST, 1, 0), ValueError, "tuple of 3", id="IPv4 3-tuple"),
]
# On a socket of IPv6 that is not dual stack.
BAD_IPV6_ADDRESSES = [
    pytest.param((HOST, 1), ValueError, "IPv6 only", id="IPv4"),
    pytest.param(("::g", 1), ValueError, "resolve it first", id="no hexadecimal"),
    pytest.param(("fe80::1%nosuchif0", 1), ValueError, "nosuchif0", id="unknown zone"),
    pytest.param(("fe80::1%", 1), ValueError, "interface", id="empty zone"),
    pytest.param(("::1", 1, "0"), TypeError, "flowinfo .*str", id="str as flowinfo"),
    pytest.param(("::1", 1, 1 << 20), ValueError, "flowinfo 1048576.*1048575", id="flowinfo"),
    pytest.param(("::1", 1, 0, -1), ValueError, "scope_id -1.*4294967295", id="scope_id -1"),
    pytest.param(("::1", 1, 0, 1 << 32), ValueError, "scope_id 4294967296", id="scope_id 2**32"),
    pytest.param(("::1", 1, 0, 0.0), TypeError, "scope_id .*float", id="float as scope_id"),
]
BAD_PAIRS = [
    pytest.param(b"ab", TypeError, "pair.*bytes", id="bytes"),
    pytest.param("ab", TypeError, "pair.*str", id="str"),
    pytest.param(None, TypeError, "pair.*NoneType", id="None"),
    pytest.param((b"a",), TypeError, "of 1", id="1-tuple"),
    pytest.param((b"a", (HOST, 1), 0), TypeError, "of 3", id="3-tuple"),
    pytest.param([b"a"], TypeError, "of 1", id="list of 1"),
    pytest.param({b"a": 1}, TypeError, "pair.*dict", id="dict"),
]


def refuse(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    """Expect the very type, and a message of one line."""
    with pytest.raises(kind) as caught:
        call()
    assert type(caught.value) is kind
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text


def assert_unsent(conn: Conn, peer: PlainPeer) -> None:
    assert conn.stats().send_calls == 0
    conn.send_batch([(b"good", peer.address)])
    assert peer.collect(1) == [b"good"]


@pytest.mark.parametrize(("data", "kind", "message"), BAD_DATA)
@pytest.mark.parametrize("index", [0, 5, 8500])
def test_bad_data_is_told_by_its_index(
    conn: Conn, peer: PlainPeer, data: Any, kind: type[Exception], message: str, index: int
) -> None:
    pairs = [(b"x", peer.address)] * index + [(data, peer.address), (b"x", peer.address)]
    refuse(lambda: conn.send_batch(pairs), kind, f"^datagram {index}: .*{message}")
    assert_unsent(conn, peer)


@pytest.mark.parametrize(("address", "kind", "message"), BAD_ADDRESSES)
@pytest.mark.parametrize("index", [0, 8500])
def test_a_bad_address_is_told_by_its_index(
    conn: Conn, peer: PlainPeer, address: Any, kind: type[Exception], message: str, index: int
) -> None:
    pairs = [(b"x", peer.address)] * index + [(b"x", address)]
    refuse(lambda: conn.send_batch(pairs), kind, f"^datagram {index}: .*{message}")
    assert_unsent(conn, peer)


@pytest.mark.parametrize(("address", "kind", "message"), BAD_ADDRESSES)
def test_a_bad_address_is_told_by_the_other_calls(
    conn: Conn, peer: PlainPeer, address: Any, kind: type[Exception], message: str
) -> None:
    trains = [Segments(b"x", 1, peer.address), Segments(b"x", 1, address)]
    refuse(lambda: conn.send_segments(trains), kind, f"^segments 1: .*{message}")
    refuse(lambda: conn.write_batch_to([b"x"], address), kind, message)
    refuse(lambda: conn.write_to_udp_addr_port(b"x", address), kind, message)
    if address is not None:
        refuse(lambda: conn.send_segments(trains[:1], to=address), kind, message)
    assert_unsent(conn, peer)


@needs_ipv6
@pytest.mark.parametrize(("address", "kind", "message"), BAD_IPV6_ADDRESSES)
def test_a_bad_ipv6_address_is_told_by_its_index(
    address: Any, kind: type[Exception], message: str
) -> None:
    with open_conn(("::1", 0)) as conn, PlainPeer("::1") as peer:
        pairs = [(b"x", peer.address), (b"x", address)]
        refuse(lambda: conn.send_batch(pairs), kind, f"^datagram 1: .*{message}")
        assert_unsent(conn, peer)


@pytest.mark.parametrize(("pair", "kind", "message"), BAD_PAIRS)
def test_what_is_no_pair_is_told_by_its_index(
    conn: Conn, peer: PlainPeer, pair: Any, kind: type[Exception], message: str
) -> None:
    pairs = [(b"x", peer.address), pair]
    refuse(lambda: conn.send_batch(pairs), kind, f"^datagram 1: .*{message}")
    assert_unsent(conn, peer)


@pytest.mark.parametrize(("data", "kind", "message"), BAD_DATA)
def test_bad_buffers_are_told_by_their_index(
    conn: Conn, peer: PlainPeer, data: Any, kind: type[Exception], message: str
) -> None:
    buffers = [b"x", data]
    refuse(lambda: conn.write_batch_to(buffers, peer.address), kind, f"^buffer 1: .*{message}")
    refuse(lambda: conn.write_to_udp_addr_port(data, peer.address), kind, message)
    assert_unsent(conn, peer)


@pytest.mark.parametrize("train", [b"x", ("x", 1), None], ids=["bytes", "tuple", "None"])
def test_what_is_no_segments_is_told_by_its_index(conn: Conn, peer: PlainPeer, train: Any) -> None:
    trains = [Segments(b"x", 1, peer.address), train]
    refuse(lambda: conn.send_segments(trains), TypeError, "^segments 1: .*Segments")
    assert_unsent(conn, peer)


def test_segments_changed_for_the_worse_are_told(conn: Conn, peer: PlainPeer) -> None:
    train = Segments(b"abc", 1, peer.address)
    train.segment_size = 0
    refuse(lambda: conn.send_segments([train]), ValueError, "^segments 0: segment_size 0")
    assert_unsent(conn, peer)


@pytest.mark.parametrize("value", [None, 7, object()], ids=["None", "int", "object"])
@pytest.mark.parametrize("call", ["send_batch", "send_segments"])
def test_what_is_not_iterable_is_a_type_error(conn: Conn, call: str, value: Any) -> None:
    refuse(lambda: getattr(conn, call)(value), TypeError, "iterable")


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        pytest.param(0, ValueError, "max_datagrams 0, must be at least 1", id="0"),
        pytest.param(-5, ValueError, "max_datagrams -5, must be at least 1", id="-5"),
        pytest.param("3", TypeError, "max_datagrams .*str", id="str"),
        pytest.param(1.5, TypeError, "max_datagrams .*float", id="float"),
    ],
)
def test_a_bad_limit_is_told(
    conn: Conn, peer: PlainPeer, value: Any, kind: type[Exception], message: str
) -> None:
    peer.send(conn.local_addr(), b"x")
    refuse(lambda: conn.recv_batch(value), kind, message)
    assert conn.recv_batch(1 << 80) == [(b"x", peer.address)]


@pytest.mark.parametrize("value", ["8", 8.0, None], ids=repr)
def test_an_offset_is_an_int(conn: Conn, peer: PlainPeer, value: Any) -> None:
    refuse(
        lambda: conn.write_batch_to([b"123456789"], peer.address, offset=value),
        TypeError,
        f"offset .*{type(value).__name__}",
    )
    assert_unsent(conn, peer)


def test_an_offset_beyond_any_number_is_told(conn: Conn, peer: PlainPeer) -> None:
    refuse(lambda: conn.write_batch_to([b"x"], peer.address, offset=1 << 80), ValueError, "offset")
    assert_unsent(conn, peer)


@pytest.mark.parametrize("value", [b"geneve", None, 7], ids=repr)
def test_geneve_is_a_header(conn: Conn, peer: PlainPeer, value: Any) -> None:
    refuse(
        lambda: conn.write_batch_to([bytearray(9)], peer.address, value, 8),
        TypeError,
        f"geneve .*{type(value).__name__}",
    )
    assert_unsent(conn, peer)


def test_an_error_in_users_code_comes_through(conn: Conn, peer: PlainPeer) -> None:
    class Port(int):
        def __index__(self) -> int:
            raise LookupError("asked")

    class Host(str):
        __slots__ = ()

        def __hash__(self) -> int:
            raise LookupError("hashed")

    for address in ((HOST, Port(9)), (Host(HOST), 9)):
        try:
            conn.send_batch([(b"x", address)])
        except LookupError:
            continue
    assert conn.send_batch([(b"good", peer.address)]) == 1
    assert peer.collect(1) == [b"good"]


def test_data_that_changes_the_list_does_no_harm(conn: Conn, peer: PlainPeer) -> None:
    pairs: list[Any] = [(array.array("B", b"x"), peer.address)] * 10

    def emptying() -> Iterator[Any]:
        for pair in list(pairs):
            pairs.clear()
            yield pair

    assert conn.send_batch(emptying()) == 10
    assert peer.collect(10) == [b"x"] * 10


def test_a_bool_is_no_worse_a_port_than_for_socket(conn: Conn) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", (HOST, True))
    assert conn.send_batch([(b"x", (HOST, True))]) == 1
