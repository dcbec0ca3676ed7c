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
from typing import TYPE_CHECKING, Any, Final

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


class _Frozen:
    """A value made of its slots: equal, hashed, copied by them, and never changed.

    By hand, since importing dataclasses takes a third of the time of importing batching.
    """

    __slots__: tuple[str, ...] = ()

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._values() == self._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._values()

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed ({name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed ({name})")


class VirtualNetworkID(_Frozen):
    """A virtual network identifier, or none: ``VirtualNetworkID()`` is unset, 0 is a value.

    Immutable and hashable.

    Args:
        value: 0 to 2**24 - 1; None leaves it unset.

    Raises:
        TypeError: ``value`` is no int.
        ValueError: ``value`` is out of range.
    """

    __slots__ = ("_value",)

    _value: int | None

    def __init__(self, value: int | None = None) -> None:
        if value is not None:
            _check("vni", value, _MAX_VNI)
        self._set("_value", value)

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

    def __repr__(self) -> str:
        return f"VirtualNetworkID({'' if self._value is None else self._value})"


class GeneveHeader(_Frozen):
    """A Geneve header without options.  Immutable and hashable.

    Args:
        protocol: Of the payload: an EtherType, 0 to 0xFFFF.
        vni: The virtual network; unset means that there is no header to write.
        control: The O bit: the payload is for the tunnel's endpoint itself.
        version: 0 to 3; RFC 8926 is version 0.

    Raises:
        TypeError: A field of another type.
        ValueError: A number out of range.
    """

    __slots__ = ("protocol", "vni", "control", "version")  # noqa: RUF023 - __init__'s order

    protocol: int
    vni: VirtualNetworkID
    control: bool
    version: int

    def __init__(
        self,
        protocol: int = 0,
        vni: VirtualNetworkID = VirtualNetworkID(),  # noqa: B008 - immutable
        control: bool = False,
        version: int = 0,
    ) -> None:
        _check("protocol", protocol, _MAX_PROTOCOL)
        _check("version", version, _MAX_VERSION)
        if not isinstance(vni, VirtualNetworkID):
            raise TypeError(f"vni must be VirtualNetworkID, not {type(vni).__name__}")
        if not isinstance(control, bool):
            raise TypeError(f"control must be bool, not {type(control).__name__}")
        self._set("protocol", protocol)
        self._set("vni", vni)
        self._set("control", control)
        self._set("version", version)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"GeneveHeader({fields})"

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
