"""What was dropped so far: by sockets, and by the system's counters of UDP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..._kernel import IS_LINUX
from .finding import Finding, checked

__all__ = ["look_at_drops"]

_TABLES: Final = ("/proc/net/udp", "/proc/net/udp6")
_COUNTERS: Final = ("RcvbufErrors", "SndbufErrors", "InCsumErrors", "InDatagrams", "OutDatagrams")
_NOTABLE: Final = 1e-4  # of what was received or sent since the system started
_MAX_PORTS: Final = 5  # shown


def look_at_drops() -> list[Finding]:
    """Return what sockets that are open have dropped, and what all have since the start."""
    if not IS_LINUX:
        found = "only Linux tells what its sockets have dropped"
        return [Finding(name, "unknown", found) for name in ("drops", "counters")]
    return [*checked("drops", _drops), *checked("counters", _counters)]


def _drops() -> list[Finding]:
    ports: dict[int, int] = {}
    errors = []
    for table in _TABLES:
        try:
            with open(table, encoding="ascii") as file:
                for port, drops in read_table(file):
                    ports[port] = ports.get(port, 0) + drops
        except OSError as missing:  # udp6 where there is no IPv6
            errors.append(missing)
    if len(errors) == len(_TABLES):
        raise errors[0]
    dropping = sorted(((n, port) for port, n in ports.items() if n), reverse=True)
    facts: dict[str, object] = {"ports": {str(port): n for n, port in dropping}}
    if not dropping:
        return [Finding("drops", "ok", "no open UDP socket has dropped anything", facts=facts)]
    shown = ", ".join(f"{port} ({n:,})" for n, port in dropping[:_MAX_PORTS])
    more = len(dropping) - _MAX_PORTS
    found = f"sockets dropped packets, by local port: {shown}" + f" and {more} more" * (more > 0)
    change = "there: read faster, receive_buffer=, or more readers with reuse_port=True"
    return [Finding("drops", "slow", found, change, facts)]


def read_table(lines: Iterator[str] | list[str]) -> Iterator[tuple[int, int]]:
    """Yield (local port, packets dropped) of each socket; a line of another form is passed over."""
    for line in lines:
        fields = line.split()
        if len(fields) >= 13 and fields[0].endswith(":") and fields[-1].isdigit():
            _, _, port = fields[1].rpartition(":")
            try:
                yield int(port, 16), int(fields[-1])
            except ValueError:
                continue


def _counters() -> list[Finding]:
    with open("/proc/net/snmp", encoding="ascii") as file:
        counts = read_snmp(file.read())
    try:
        with open("/proc/net/snmp6", encoding="ascii") as file:
            for name, value in read_snmp6(file.read()).items():
                counts[name] = counts.get(name, 0) + value
    except OSError:  # no IPv6
        pass
    facts: dict[str, object] = {name: counts.get(name, 0) for name in _COUNTERS}
    lost, unsent, damaged, received, sent = (counts.get(name, 0) for name in _COUNTERS)
    found = f"{lost:,} dropped for want of room, {damaged:,} by checksum, {received:,} received"
    if lost > _NOTABLE * received:
        change = "raise receive buffers, read faster: see the rows of buffers and drops"
        return [Finding("counters", "slow", found, change, facts)]
    if damaged > _NOTABLE * received:
        change = "look for the device that damages: ethtool -S, a cable, rx-checksum"
        return [Finding("counters", "slow", found, change, facts)]
    if unsent > _NOTABLE * sent:
        found = f"{unsent:,} of {sent:,} could not be sent for want of room"
        change = "raise send buffers or the device's queue (txqueuelen), send less at once"
        return [Finding("counters", "slow", found, change, facts)]
    return [Finding("counters", "ok", found, facts=facts)]


def read_snmp(text: str) -> dict[str, int]:
    """Return the counters of UDP in /proc/net/snmp: a line of names, and one of values."""
    rows = [line.split()[1:] for line in text.splitlines() if line.startswith("Udp: ")]
    if len(rows) != 2:
        raise ValueError("/proc/net/snmp has no two lines of Udp")
    names, values = rows
    return {name: int(value) for name, value in zip(names, values, strict=False)}


def read_snmp6(text: str) -> dict[str, int]:
    """Return the counters of UDP in /proc/net/snmp6, under the names of /proc/net/snmp."""
    pairs = (line.split() for line in text.splitlines() if line.startswith("Udp6"))
    return {name.removeprefix("Udp6"): int(value) for name, value in pairs}
