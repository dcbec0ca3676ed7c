"""Offload: what the kernel does for a connection, and why not more."""

# No annotations from __future__: NamedTuple would compile each, 3 ms of the package's import.

import os
from socket import socket
from typing import Literal, NamedTuple

from ._address import Address
from ._kernel import IS_LINUX, SOL_UDP, UDP_GRO, max_segments

__all__ = ["Offload"]


class Offload(NamedTuple):
    """How a ``Conn`` moves datagrams; fixed when it is made, but for ``Conn.disable_gso``."""

    gso: bool
    """Trains go out as one packet (UDP_SEGMENT, Linux 4.18).  A destination may be spared
    all the same: see ``Stats.gso_fallbacks``."""
    gro: bool
    """Trains come in as one packet (UDP_GRO, Linux 5.0)."""
    max_segments: int
    """Datagrams that a train may have on its way out; 1 without GSO."""
    backend: Literal["native", "portable"]
    reasons: tuple[str, ...] = ()
    """Why not, a sentence for each thing that is missing."""
    gso_disabled: tuple[Address, ...] = ()
    """The destinations that ``Conn.disable_gso`` was called for, one by one."""

    def without_gso(self, addresses: list[Address], for_all: bool) -> "Offload":
        """Return the same, told that GSO was disabled for ``addresses``, or for all."""
        if not (addresses or for_all):
            return self
        whom = "for all" if for_all else f"destinations: {len(addresses)}"
        told = self._replace(
            reasons=(*self.reasons, f"gso: switched off by disable_gso, {whom}"),
            gso_disabled=tuple(addresses),
        )
        return told._replace(gso=False, max_segments=1) if for_all else told


def negotiate(
    sock: socket, backend: str, why_not_native: str, gso: str, gro: str, limit: int | None
) -> Offload:
    """Find out what is to be had for ``sock``, and change nothing about it."""
    reasons = [why_not_native] if why_not_native else []
    n_segments, no_gso = _gso(gso)
    no_gro = _no_gro(sock, gro)
    reasons += [reason for reason in (no_gso, no_gro) if reason]
    if limit is not None and n_segments > 1:
        n_segments = min(n_segments, limit)
        if n_segments == 1:
            reasons.append("gso: max_segments=1")
    name: Literal["native", "portable"] = "native" if backend == "native" else "portable"
    return Offload(n_segments > 1, not no_gro, n_segments, name, tuple(reasons))


def enable_gro(sock: socket) -> None:
    """Let trains come in whole.  One way: turned off, queued trains lose their sizes."""
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def _gso(gso: str) -> tuple[int, str]:
    """Return (datagrams a train may have, why only one)."""
    if gso == "off":
        return 1, "gso: switched off by the caller"
    if _is_set("BATCHING_DISABLE_UDP_GSO"):
        return 1, "gso: switched off by BATCHING_DISABLE_UDP_GSO"
    if not IS_LINUX:
        return 1, "gso: needs Linux"
    n = max_segments()
    return n, "" if n > 1 else "gso: the kernel has no UDP_SEGMENT (Linux 4.18)"


def _no_gro(sock: socket, gro: str) -> str:
    if gro == "off":
        return "gro: switched off by the caller"
    if _is_set("BATCHING_DISABLE_UDP_GRO"):
        return "gro: switched off by BATCHING_DISABLE_UDP_GRO"
    if not IS_LINUX:
        return "gro: needs Linux"
    try:
        sock.getsockopt(SOL_UDP, UDP_GRO)
    except OSError as error:
        return f"gro: the kernel has no UDP_GRO (Linux 5.0): {error.strerror}"
    return ""
