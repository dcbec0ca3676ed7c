"""Addresses as users spell them: what is taken, and with which words the rest is refused."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching._address import Sockaddr, family_of, parse_address

V4, V6 = socket.AF_INET, socket.AF_INET6
MAPPED = bytes(10) + b"\xff\xff"
LOOPBACK = bytes(15) + b"\x01"
LINK_LOCAL = socket.inet_pton(V6, "fe80::1")


def parse(address: object, family: int = V4, *, is_dual_stack: bool = False) -> Sockaddr:
    return parse_address(address, family, is_dual_stack)


@given(st.ip_addresses(v=4), st.integers(0, 0xFFFF))
def test_ipv4_address_comes_back_as_spelled(host: Any, port: int) -> None:
    sockaddr = parse((str(host), port))
    assert sockaddr == Sockaddr(host.packed, port, 0, 0)
    assert sockaddr.spell() == (str(host), port)
    assert sockaddr.is_ipv4


@given(
    st.ip_addresses(v=6),
    st.integers(0, 0xFFFF),
    st.integers(0, 2**20 - 1),
    st.integers(0, 2**32 - 1),
)
def test_ipv6_address_comes_back_as_a_tuple_of_four(
    host: Any, port: int, flowinfo: int, scope_id: int
) -> None:
    sockaddr = parse((str(host), port, flowinfo, scope_id), V6)
    assert sockaddr == Sockaddr(host.packed, port, flowinfo, scope_id)
    spelled = sockaddr.spell()
    assert spelled[1:] == (port, flowinfo, scope_id)
    assert parse(spelled, V6) == sockaddr


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param(("::1", 9), (LOOPBACK, 9, 0, 0), id="two"),
        pytest.param(("::1", 9, 3), (LOOPBACK, 9, 3, 0), id="three"),
        pytest.param(("::1", 9, 3, 4), (LOOPBACK, 9, 3, 4), id="four"),
        pytest.param(("fe80::1%7", 9), (LINK_LOCAL, 9, 0, 7), id="zone as a number"),
        pytest.param(("fe80::1%7", 9, 0, 5), (LINK_LOCAL, 9, 0, 7), id="zone wins"),
        pytest.param(("", 9), (bytes(16), 9, 0, 0), id="wildcard"),
        pytest.param(("::ffff:192.0.2.1", 9), (MAPPED + b"\xc0\0\x02\x01", 9, 0, 0), id="mapped"),
    ],
)
def test_ipv6_address_is_taken_in_its_forms(address: Any, expected: Any) -> None:
    assert parse(address, V6) == expected


def test_zone_may_be_the_name_of_an_interface() -> None:
    index, name = socket.if_nameindex()[0]
    assert parse((f"fe80::1%{name}", 9), V6).scope_id == index


@pytest.mark.parametrize(
    ("host", "packed"), [("", bytes(4)), ("<broadcast>", b"\xff" * 4)], ids=["wildcard", "all"]
)
def test_special_hosts_are_those_of_the_socket_module(host: str, packed: bytes) -> None:
    assert parse((host, 9)) == (packed, 9, 0, 0)


def test_ipv4_address_is_mapped_on_a_dual_stack_socket() -> None:
    sockaddr = parse(("192.0.2.1", 9), V6, is_dual_stack=True)
    assert sockaddr == Sockaddr(MAPPED + b"\xc0\0\x02\x01", 9, 0, 0)
    assert sockaddr.is_ipv4
    assert sockaddr.spell() == ("::ffff:192.0.2.1", 9, 0, 0)


@pytest.mark.parametrize(
    ("address", "family", "match"),
    [
        pytest.param(("localhost", 9), V4, "'localhost' is not numeric: resolve", id="name"),
        pytest.param(("1.2.3", 9), V4, "not numeric", id="three octets"),
        pytest.param(("01.2.3.4", 9), V4, "not numeric", id="leading zero"),
        pytest.param(("1.2.3.4\0", 9), V4, "not numeric", id="NUL"),
        pytest.param(("::1\0", 9), V6, "not numeric", id="NUL in IPv6"),
        pytest.param(("\ud800", 9), V4, "not numeric", id="surrogate"),
        pytest.param(("192.0.2.1", 65536), V4, "port 65536, must be 0 to 65535", id="port"),
        pytest.param(("192.0.2.1", -1), V4, "port -1", id="negative port"),
        pytest.param(("192.0.2.1", 10**30), V4, "port 1000", id="huge port"),
        pytest.param(("192.0.2.1", 9, 0), V4, "tuple of 3", id="IPv4 in three"),
        pytest.param(("::1", 9), V4, "IPv6 address '::1' on an IPv4", id="IPv6 on IPv4"),
        pytest.param(("192.0.2.1", 9), V6, "IPv6 only", id="IPv4 on IPv6 only"),
        pytest.param(("::1", 9, 2**20), V6, "flowinfo", id="flowinfo"),
        pytest.param(("::1", 9, 0, 2**32), V6, "scope_id", id="scope id"),
        pytest.param(("::1", 9, 0, -1), V6, "scope_id", id="negative scope id"),
        pytest.param(("fe80::1%nowhere0", 9), V6, "no interface", id="zone"),
        pytest.param(("fe80::1%", 9), V6, "no interface", id="empty zone"),
        pytest.param(("fe80::1%99999999999", 9), V6, "scope_id", id="zone out of range"),
        pytest.param(("fe80::1%lo\0", 9), V6, "no interface", id="NUL in the zone"),
    ],
)
def test_address_of_wrong_content_is_a_value_error(address: Any, family: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        parse(address, family)


@pytest.mark.parametrize(
    ("address", "match"),
    [
        pytest.param(None, "not NoneType", id="None"),
        pytest.param("192.0.2.1:9", "not str", id="text"),
        pytest.param(["192.0.2.1", 9], "not list", id="list"),
        pytest.param(("192.0.2.1",), "tuple of 1", id="one"),
        pytest.param(("::1", 9, 0, 0, 0), "tuple of 5", id="five"),
        pytest.param((b"192.0.2.1", 9), "host must be str, not bytes", id="bytes"),
        pytest.param(("192.0.2.1", "9"), "port must be int, not str", id="port as text"),
        pytest.param(("192.0.2.1", 9.0), "port must be int, not float", id="port as float"),
        pytest.param(("::1", 9, None), "flowinfo must be int", id="flowinfo"),
        pytest.param(("::1", 9, 0, "lo"), "scope_id must be int", id="scope id"),
    ],
)
def test_what_is_no_address_is_a_type_error(address: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        parse(address, V6)


@given(st.text(max_size=40))
def test_any_text_is_a_host_or_a_value_error(host: str) -> None:
    for family in (V4, V6):
        with contextlib.suppress(ValueError):
            parse((host, 9), family, is_dual_stack=True)


@pytest.mark.parametrize(
    ("host", "family"), [("192.0.2.1", V4), ("", V4), ("::1", V6), ("fe80::1%1", V6)]
)
def test_family_is_told_by_the_host(host: str, family: int) -> None:
    assert family_of((host, 9)) == family
