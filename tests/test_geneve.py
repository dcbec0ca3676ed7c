"""The Geneve header: its eight bytes, its limits, and hostile bytes."""

from __future__ import annotations

import array
import copy
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching.geneve import (
    GENEVE_FIXED_HEADER_LENGTH,
    GENEVE_PROTOCOL_DISCO,
    GENEVE_PROTOCOL_WIREGUARD,
    GeneveHeader,
    VirtualNetworkID,
)

HEADERS = st.builds(
    GeneveHeader,
    protocol=st.integers(0, 0xFFFF),
    vni=st.builds(VirtualNetworkID, st.integers(0, 2**24 - 1)),
    control=st.booleans(),
    version=st.integers(0, 3),
)
EXAMPLE = GeneveHeader(GENEVE_PROTOCOL_DISCO, VirtualNetworkID(0xABCDEF), control=True, version=2)


def test_constants_are_those_of_the_original() -> None:
    assert GENEVE_FIXED_HEADER_LENGTH == 8
    assert GENEVE_PROTOCOL_DISCO == 0x7A11
    assert GENEVE_PROTOCOL_WIREGUARD == 0x7A12


def test_bytes_are_laid_out_as_in_rfc_8926() -> None:
    buffer = bytearray(b"\xff" * 10)
    EXAMPLE.encode(buffer)
    assert buffer.hex(" ") == "80 80 7a 11 ab cd ef 00 ff ff"


@given(HEADERS, st.binary(max_size=20))
def test_decoding_gives_back_what_was_encoded(header: GeneveHeader, payload: bytes) -> None:
    buffer = bytearray(8) + payload
    header.encode(buffer)
    assert buffer[8:] == payload
    assert GeneveHeader.decode(buffer) == header


@given(st.binary(max_size=24))
def test_any_bytes_decode_or_are_refused_with_a_value_error(data: bytes) -> None:
    if len(data) < 8 or data[0] & 0x3F:
        with pytest.raises(ValueError, match="Geneve header"):
            GeneveHeader.decode(data)
        return
    header = GeneveHeader.decode(data)
    encoded = bytearray(8)
    header.encode(encoded)
    assert encoded == bytes([data[0], data[1] & 0x80, *data[2:7], 0])


@pytest.mark.parametrize("n_words", [1, 63])
def test_options_are_refused_with_their_length(n_words: int) -> None:
    with pytest.raises(ValueError, match=f"{4 * n_words} bytes of options"):
        GeneveHeader.decode(bytes([n_words, *bytes(300)]))


def test_critical_and_reserved_bits_are_ignored() -> None:
    header = GeneveHeader.decode(bytes([0, 0x7F, 0, 0, 0, 0, 7, 0xFF]))
    assert header == GeneveHeader(vni=VirtualNetworkID(7))


def test_any_contiguous_buffer_is_written_to() -> None:
    words = array.array("I", [1, 2, 3])
    EXAMPLE.encode(words)
    assert GeneveHeader.decode(words) == EXAMPLE
    assert words[2] == 3


@pytest.mark.parametrize(
    ("buffer", "error", "match"),
    [
        pytest.param(bytearray(7), ValueError, "in 7 bytes, at least 8", id="short"),
        pytest.param(bytearray(), ValueError, "in 0 bytes, at least 8", id="empty"),
        pytest.param(bytes(8), ValueError, r"\(bytes\) is read-only", id="read-only"),
        pytest.param(memoryview(bytearray(32))[::2], ValueError, "contiguous", id="strided"),
        pytest.param("text too long", TypeError, "bytes-like", id="no buffer"),
        pytest.param(None, TypeError, "bytes-like", id="None"),
    ],
)
def test_unfit_buffer_is_refused(buffer: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        EXAMPLE.encode(buffer)


def test_buffer_is_let_go_of_after_an_error() -> None:
    buffer = bytearray(8)
    with pytest.raises(ValueError, match="unset"):
        GeneveHeader().encode(buffer)
    buffer.append(1)  # BufferError while exported
    assert buffer == bytes(8) + b"\x01"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        pytest.param({"protocol": 0x10000}, ValueError, "protocol 65536.* 65535", id="protocol"),
        pytest.param({"protocol": -1}, ValueError, "protocol -1", id="negative"),
        pytest.param({"version": 4}, ValueError, "version 4, must be 0 to 3", id="version"),
        pytest.param({"protocol": True}, TypeError, "int, not bool", id="bool as int"),
        pytest.param({"version": 1.0}, TypeError, "int, not float", id="float"),
        pytest.param({"control": 1}, TypeError, "bool, not int", id="int as bool"),
        pytest.param({"vni": 5}, TypeError, "VirtualNetworkID, not int", id="bare vni"),
    ],
)
def test_field_out_of_range_or_of_another_type_is_refused(
    arguments: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        GeneveHeader(**arguments)


@pytest.mark.parametrize("value", [-1, 2**24])
def test_vni_out_of_range_is_refused_with_the_limit(value: int) -> None:
    with pytest.raises(ValueError, match=f"vni {value}, must be 0 to 16777215"):
        VirtualNetworkID(value)


@pytest.mark.parametrize("value", [False, 1.5, "7", b"7"])
def test_vni_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="vni must be int"):
        VirtualNetworkID(value)


def test_zero_is_a_vni_and_unset_is_none() -> None:
    unset, zero = VirtualNetworkID(), VirtualNetworkID(0)
    assert not unset.is_set
    assert zero.is_set
    assert zero.value == 0
    assert unset != zero
    with pytest.raises(ValueError, match="unset"):
        unset.value  # noqa: B018


def test_headers_are_values() -> None:
    twin = GeneveHeader.decode(bytes.fromhex("80807a11abcdef00"))
    assert twin == EXAMPLE
    assert hash(twin) == hash(EXAMPLE)
    assert len({twin, EXAMPLE, GeneveHeader()}) == 2
    assert pickle.loads(pickle.dumps(EXAMPLE)) == EXAMPLE
    assert copy.deepcopy(EXAMPLE) == EXAMPLE
    names = {"GeneveHeader": GeneveHeader, "VirtualNetworkID": VirtualNetworkID}
    assert eval(repr(EXAMPLE), names) == EXAMPLE
    assert repr(VirtualNetworkID()) == "VirtualNetworkID()"


@pytest.mark.parametrize("name", ["protocol", "vni", "control", "version"])
def test_header_cannot_be_changed(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(EXAMPLE, name, 0)


def test_vni_cannot_be_changed() -> None:
    vni = VirtualNetworkID(1)
    for name in ("value", "_value", "other"):
        with pytest.raises(AttributeError):
            setattr(vni, name, 2)
    assert vni.value == 1
    assert not hasattr(vni, "__dict__")
    assert pickle.loads(pickle.dumps(vni)) == copy.deepcopy(vni) == vni
