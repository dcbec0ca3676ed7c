"""What a network device says of itself, by ioctl: flags, MTU, driver, offloads.

It needs no privilege.  Numbers are from include/uapi/linux/sockios.h, if.h and ethtool.h.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import socket
import struct
from dataclasses import dataclass
from typing import Final

__all__ = ["Device", "Feature", "read_device"]

_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_SIOCETHTOOL: Final = 0x8946
_IFF_UP: Final = 0x1
_IFF_LOOPBACK: Final = 0x8
_GDRVINFO: Final = 0x03
_GSTRINGS: Final = 0x1B
_GSSET_INFO: Final = 0x37
_GFEATURES: Final = 0x3A
_SS_FEATURES: Final = 4  # enum ethtool_stringset
_STRING: Final = 32  # ETH_GSTRING_LEN
_MAX_FEATURES: Final = 1024  # there are 64; whoever claims more is not believed


@dataclass(frozen=True, slots=True)
class Feature:
    """An offload: whether it is on, and whether it may be switched."""

    is_on: bool
    is_available: bool


@dataclass(frozen=True, slots=True)
class Device:
    """A network device as it stands."""

    name: str
    is_up: bool
    is_loopback: bool
    mtu: int
    driver: str
    """Empty where the device does not tell."""
    features: dict[str, Feature]
    """By the name that ``ethtool -k`` has; empty where the device does not tell."""


def read_device(name: str) -> Device:
    """Return what the device of that name says.

    Raises:
        OSError: There is none, or the sandbox forbids to ask.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        (flags,) = struct.unpack_from("H", _ask(sock, name, _SIOCGIFFLAGS))
        (mtu,) = struct.unpack_from("i", _ask(sock, name, _SIOCGIFMTU))
        driver, features = "", {}
        with contextlib.suppress(OSError):  # EOPNOTSUPP, as from loopback
            driver = _read_driver(sock, name)
        with contextlib.suppress(OSError):
            features = _read_features(sock, name)
    return Device(name, bool(flags & _IFF_UP), bool(flags & _IFF_LOOPBACK), mtu, driver, features)


def _ask(sock: socket.socket, name: str, request: int) -> bytes:
    """Return the union of a struct ifreq as the kernel has filled it in."""
    answer = fcntl.ioctl(sock, request, struct.pack("16s24x", name.encode()))
    return answer[16:]


def _ethtool(sock: socket.socket, name: str, command: bytes) -> bytes:
    """Return a command's structure as the kernel has filled it in."""
    room = ctypes.create_string_buffer(command, len(command))
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(room))
    fcntl.ioctl(sock, _SIOCETHTOOL, request)
    return room.raw


def _read_driver(sock: socket.socket, name: str) -> str:
    answer = _ethtool(sock, name, struct.pack("=I192x", _GDRVINFO))
    return _text(answer[4 : 4 + _STRING])


def _read_features(sock: socket.socket, name: str) -> dict[str, Feature]:
    wanted = struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _SS_FEATURES, 0)
    *_, n = struct.unpack("=IIQI", _ethtool(sock, name, wanted))
    if n > _MAX_FEATURES:
        return {}
    wanted = struct.pack("=III", _GSTRINGS, _SS_FEATURES, n) + bytes(n * _STRING)
    strings = _ethtool(sock, name, wanted)[12:]
    n_blocks = (n + 31) // 32
    wanted = struct.pack("=II", _GFEATURES, n_blocks) + bytes(n_blocks * 16)
    blocks = list(struct.iter_unpack("=IIII", _ethtool(sock, name, wanted)[8:]))
    features = {}
    for number in range(n):
        available, _requested, active, never_changed = (
            bool(word >> number % 32 & 1) for word in blocks[number // 32]
        )
        title = _text(strings[number * _STRING : (number + 1) * _STRING])
        features[title] = Feature(active, available and not never_changed)
    return features


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("ascii", "replace")
