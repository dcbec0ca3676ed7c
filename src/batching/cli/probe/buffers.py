"""Socket buffers: what is granted of what is asked for, and the sysctl that limits it."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from batching import Conn, open_conn

from ..._kernel import IS_LINUX
from ..._open import IDEAL_BUFFER
from .finding import Finding, checked

__all__ = ["granted", "look_at_buffers"]

_KIB: Final = 1 << 10
_KINDS: Final = {
    "receive buffer": (socket.SO_RCVBUF, "rmem_max"),
    "send buffer": (socket.SO_SNDBUF, "wmem_max"),
}


def look_at_buffers() -> list[Finding]:
    """Return a finding for each direction."""
    return [finding for name in _KINDS for finding in checked(name, lambda name=name: _look(name))]  # type: ignore[misc]


def granted(conn: Conn, option: int) -> int:
    """Return the bytes that a socket was granted: on Linux half of what it tells."""
    with socket.socket(fileno=os.dup(conn.fileno())) as twin:
        told = twin.getsockopt(socket.SOL_SOCKET, option)
    return told // 2 if IS_LINUX else told


def _look(name: str) -> list[Finding]:
    option, sysctl = _KINDS[name]
    with open_conn(batch_size=128) as conn:
        has = granted(conn, option)
    plain = _unforced(option)
    limit = _read_limit(sysctl)
    facts: dict[str, object] = {
        "asked": IDEAL_BUFFER,
        "granted": has,
        "without_privilege": plain,
        f"net.core.{sysctl}": limit,
    }
    found = f"{_spell(has)} of {_spell(IDEAL_BUFFER)}"
    change = f"sysctl -w net.core.{sysctl}={IDEAL_BUFFER}" if IS_LINUX else ""
    if IS_LINUX and limit is None:
        change += ", on the host: it is not shown in here"
    if has < IDEAL_BUFFER:
        if limit is not None:
            found += f": net.core.{sysctl} is {limit:,}"
        return [Finding(name, "slow", found, change, facts)]
    if plain < IDEAL_BUFFER:
        found += f", forced with CAP_NET_ADMIN; without it {_spell(plain)}"
        return [Finding(name, "ok", found, f"for programs without it: {change}", facts)]
    return [Finding(name, "ok", found, facts=facts)]


def _unforced(option: int) -> int:
    """Return what a process without a privilege is granted."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with contextlib.suppress(OSError):  # some systems refuse what is too much
            sock.setsockopt(socket.SOL_SOCKET, option, IDEAL_BUFFER)
        told = sock.getsockopt(socket.SOL_SOCKET, option)
    return told // 2 if IS_LINUX else told


def _read_limit(sysctl: str) -> int | None:
    try:
        with open(f"/proc/sys/net/core/{sysctl}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):  # not shown in every network namespace
        return None


def _spell(n_bytes: int) -> str:
    return f"{n_bytes // _KIB:,} KiB"
