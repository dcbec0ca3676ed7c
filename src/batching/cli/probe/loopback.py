"""GRO, measured: a train is sent over loopback, and comes whole, cut, or not as it was sent."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from batching import Conn, Segments, open_conn

from ..._kernel import IS_LINUX
from .finding import Finding, checked

__all__ = ["look_at_loopback"]

_HOSTS: Final = ("127.0.0.1", "::1")
_SIZE: Final = 100  # bytes a datagram: 128 of them fit the smallest receive buffer there is
_PATIENCE_S: Final = 1.0


def look_at_loopback() -> list[Finding]:
    """Return the finding."""
    return checked("GRO", _gro)


def _gro() -> list[Finding]:
    with _bound() as receiver, _bound() as sender:
        offload = receiver.offload
        if not offload.gro:
            reason = next(each for each in offload.reasons if each.startswith("gro: "))
            change = "unset BATCHING_DISABLE_UDP_GRO" if "BATCHING" in reason else ""
            if IS_LINUX and not change:
                change = "run Linux 5.0 or later"
            found = f"off: {reason.removeprefix('gro: ')}"
            return [Finding("GRO", "slow", found, change, {"on": False})]
        if not sender.offload.gso:
            found = "on; not measured: no train can be sent"
            return [Finding("GRO", "unknown", found, facts={"on": True})]
        return [_measure(sender, receiver)]


def _bound() -> Conn:
    """Return a connection on loopback, of IPv6 where there is no IPv4."""
    try:
        return open_conn((_HOSTS[0], 0), batch_size=128)
    except OSError:
        return open_conn((_HOSTS[1], 0), batch_size=128)


def _measure(sender: Conn, receiver: Conn) -> Finding:
    n = sender.offload.max_segments
    train = b"".join(number.to_bytes(2, "big") * (_SIZE // 2) for number in range(n))
    sender.send_segments([Segments(train, _SIZE, receiver.local_addr())])
    receiver.set_read_deadline(time.monotonic() + _PATIENCE_S)
    datagrams: list[bytes] = []
    messages = 0
    with contextlib.suppress(TimeoutError):
        while len(datagrams) < n:
            for each in receiver.recv_segments():
                messages += 1
                datagrams += each.tolist()
    facts: dict[str, object] = {"on": True, "sent": n, "came": len(datagrams), "messages": messages}
    if not datagrams:
        found = f"a train of {n} datagrams over loopback did not arrive"
        change = "look whether a firewall drops what loopback carries"
        return Finding("GRO", "broken", found, change, facts)
    if b"".join(datagrams) != train or len(datagrams) != n:
        found = f"{n} datagrams over loopback came damaged: {len(datagrams)}"
        change = "set BATCHING_DISABLE_UDP_GRO=1, and report it with the kernel's version"
        return Finding("GRO", "broken", found, change, facts)
    if messages == 1:
        found = f"on: {n} datagrams over loopback came as one train"
        return Finding("GRO", "ok", found, facts=facts)
    found = f"on, but loopback cuts trains: {n} datagrams came as {messages} messages"
    change = "run Linux 6.1 or later, where loopback and veth deliver trains whole"
    return Finding("GRO", "slow", found, change, facts)
