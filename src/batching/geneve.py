"""The Geneve header (RFC 8926) that ``Conn.write_batch_to`` can put before each datagram.

It is the fixed part, eight bytes, and no more: options are neither written nor parsed.

=====  ==============================================================
byte   what
=====  ==============================================================
0      version (2 bits), length of the options in 4-byte words (6 bits)
1      O: control packet (0x80), C: critical options (0x40), reserved
2-3    protocol of the payload
4-6    virtual network identifier
7      reserved
=====  ==============================================================

Reserved bits are sent as 0 and ignored when they come in, as the RFC says; so is C, which
means nothing where there are no options.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "GENEVE_FIXED_HEADER_LENGTH",
    "GENEVE_PROTOCOL_DISCO",
    "GENEVE_PROTOCOL_WIREGUARD",
    "GeneveHeader",
    "VirtualNetworkID",
]

GENEVE_FIXED_HEADER_LENGTH: Final = 8
"""Bytes of a header without options."""
GENEVE_PROTOCOL_DISCO: Final = 0x7A11
"""The payload is a Tailscale disco message."""
GENEVE_PROTOCOL_WIREGUARD: Final = 0x7A12
"""The payload is a WireGuard message."""

_FIXED_HEADER = struct.Struct(">BBHI")  # the last word: 24 bits of VNI, 8 reserved
_CONTROL = 0x80
_OPTION_WORDS = 0x3F
_MAX_VERSION = 3
_MAX_PROTOCOL = 0xFFFF
_MAX_VNI = 2**24 - 1


@dataclass(frozen=True, init=False, repr=False)
class VirtualNetworkID:
    """A virtual network identifier, or none: ``VirtualNetworkID()`` is unset, 0 is a value.

    Immutable and hashable.

    Args:
        value: 0 to 2**24 - 1; None leaves it unset.

    Raises:
        TypeError: ``value`` is no int.
        ValueError: ``value`` is out of range.
    """

    # By hand: with slots=True the class is made twice, and CPython's frozen __setattr__ then
    # trips over its super() for a name that is no field.
    __slots__ = ("_value",)

    _value: int | None

    def __init__(self, value: int | None = None) -> None:
        if value is not None:
            _check("vni", value, _MAX_VNI)
        object.__setattr__(self, "_value", value)

    @property
    def is_set(self) -> bool:
        """Tell whether there is a value."""
        return self._value is not None

    @property
    def value(self) -> int:
        """The identifier, 0 to 2**24 - 1; ValueError when it is unset."""
        if self._value is None:
            raise ValueError("the virtual network identifier is unset")
        return self._value

    def __reduce__(self) -> tuple[type[VirtualNetworkID], tuple[int | None]]:
        return VirtualNetworkID, (self._value,)

    def __repr__(self) -> str:
        return f"VirtualNetworkID({'' if self._value is None else self._value})"


@dataclass(frozen=True, slots=True)
class GeneveHeader:
    """A Geneve header without options.  Immutable and hashable.

    Raises:
        TypeError: A field of another type.
        ValueError: A number out of range.
    """

    protocol: int = 0
    """Of the payload: an EtherType, 0 to 0xFFFF."""
    vni: VirtualNetworkID = VirtualNetworkID()
    """The virtual network; unset means that there is no header to write."""
    control: bool = False
    """The O bit: the payload is for the tunnel's endpoint itself."""
    version: int = 0
    """0 to 3; RFC 8926 is version 0."""

    def __post_init__(self) -> None:
        _check("protocol", self.protocol, _MAX_PROTOCOL)
        _check("version", self.version, _MAX_VERSION)
        if not isinstance(self.vni, VirtualNetworkID):
            raise TypeError(f"vni must be VirtualNetworkID, not {type(self.vni).__name__}")
        if not isinstance(self.control, bool):
            raise TypeError(f"control must be bool, not {type(self.control).__name__}")

    def encode(self, buffer: Buffer) -> None:
        """Write the header into the first 8 bytes of ``buffer``; the rest stays as it is.

        Raises:
            TypeError: ``buffer`` has no buffer protocol.
            ValueError: It is read-only, shorter than 8 bytes or not C-contiguous, or ``vni``
                is unset.  Nothing is written then.
        """
        with memoryview(buffer) as view:
            _check_header(view)
            if view.readonly:
                raise ValueError(f"the buffer ({type(buffer).__name__}) is read-only")
            control = _CONTROL if self.control else 0
            _FIXED_HEADER.pack_into(
                view, 0, self.version << 6, control, self.protocol, self.vni.value << 8
            )

    @classmethod
    def decode(cls, data: Buffer) -> GeneveHeader:
        """Return the header that ``data``, bytes from the network, begins with.

        Its ``vni`` is always set.  What follows the first 8 bytes is not looked at.

        Raises:
            TypeError: ``data`` has no buffer protocol.
            ValueError: It is shorter than 8 bytes or not C-contiguous, or there are options:
                the payload would begin elsewhere.
        """
        with memoryview(data) as view:
            _check_header(view)
            first, second, protocol, last = _FIXED_HEADER.unpack_from(view)
        if first & _OPTION_WORDS:
            n_bytes = 4 * (first & _OPTION_WORDS)
            raise ValueError(f"a Geneve header with {n_bytes} bytes of options, must be 0")
        vni = VirtualNetworkID(last >> 8)
        return cls(protocol, vni, control=bool(second & _CONTROL), version=first >> 6)


def _check(name: str, value: int, limit: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be int, not {type(value).__name__}")
    if not 0 <= value <= limit:
        raise ValueError(f"{name} {value}, must be 0 to {limit}")


def _check_header(view: memoryview) -> None:
    if not view.c_contiguous:
        raise ValueError("the buffer is not C-contiguous")
    if view.nbytes < GENEVE_FIXED_HEADER_LENGTH:
        raise ValueError(
            f"a Geneve header in {view.nbytes} bytes, at least {GENEVE_FIXED_HEADER_LENGTH}"
        )
