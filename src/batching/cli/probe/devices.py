"""Network devices: the offloads of each that is up, or of the one that leads to a host."""

from __future__ import annotations

import socket
from typing import Any, Final

from ..._kernel import IS_LINUX
from .finding import Finding, checked
from .route import HEADERS, Route, find_route

if IS_LINUX:
    from .ethtool import Device, read_device

__all__ = ["look_at_devices", "look_at_route"]

_CHECKSUMS: Final = ("tx-checksum-ip-generic", "tx-checksum-ipv4", "tx-checksum-ipv6")
_SHOWN: Final = ("tx-udp-segmentation", "rx-gro", "rx-udp-gro-forwarding")
_WHOLE: Final = "veth"  # hands trains over as they are, with GRO or without
_USUAL: Final = 1200  # bytes: the least that a QUIC datagram may need (RFC 9000, section 14)


def look_at_devices() -> list[Finding]:
    """Return a finding for each device that is up, but loopback; equal ones share one."""
    if not IS_LINUX:
        return [Finding("devices", "unknown", "only Linux tells the offloads of a device")]
    return checked("devices", _devices)


def _devices() -> list[Finding]:
    groups: dict[str, list[Finding]] = {}
    for _, name in socket.if_nameindex():
        device = read_device(name)
        if device.is_up and not device.is_loopback:
            finding = _judge(device)
            groups.setdefault(f"{finding.facts | {'device': ''}}", []).append(finding)
    if not groups:
        return [Finding("devices", "ok", "none is up, but loopback")]
    return [_shared(findings) for findings in groups.values()]


def _shared(findings: list[Finding]) -> Finding:
    """Return one finding for devices that differ by their names only."""
    first = findings[0]
    names = [finding.facts["device"] for finding in findings]
    if len(names) == 1:
        return first
    name = f"{first.name} (+{len(names) - 1})"
    return Finding(name, first.state, first.found, first.change, first.facts | {"devices": names})


def _judge(device: Device) -> Finding:
    features = device.features
    on = {name: feature.is_on for name, feature in features.items()}
    has_checksum = any(on.get(name) for name in _CHECKSUMS)
    facts: dict[str, object] = {
        "device": device.name,
        "driver": device.driver,
        "mtu": device.mtu,
        "tx-checksum": has_checksum if features else None,
        **{name: on.get(name) for name in _SHOWN},
    }
    title = f"device {device.name}"
    what = f"{device.driver or 'no driver'}, MTU {device.mtu}"
    if not features:
        return Finding(title, "unknown", f"{what}; it does not tell its offloads", facts=facts)
    shown = [f"tx-checksum {_spell(has_checksum)}"]
    shown += [f"{name} {_spell(on[name])}" for name in _SHOWN if name in on]
    found = f"{what}; {', '.join(shown)}"
    changes = _changes(device, has_checksum)
    return Finding(title, "slow" if changes else "ok", found, "; ".join(changes), facts)


def _changes(device: Device, has_checksum: bool) -> list[str]:
    features = device.features
    switches = []
    if not has_checksum:
        switches.append("tx on")
    if "rx-gro" in features and not features["rx-gro"].is_on and device.driver != _WHOLE:
        switches.append("gro on")
    cutting = features.get("tx-udp-segmentation")
    if cutting and cutting.is_available and not cutting.is_on and has_checksum:
        switches.append("tx-udp-segmentation on")
    if not switches:
        return []
    why = ": up to Linux 6.10 it takes no train without" if not has_checksum else ""
    return [f"ethtool -K {device.name} {' '.join(switches)}{why}"]


def _spell(is_on: bool) -> str:
    return "on" if is_on else "off"


def look_at_route(family: int, address: tuple[Any, ...]) -> tuple[list[Finding], Route | None]:
    """Return what there is to say of the route and its device, and the route if there is one."""
    try:
        route = find_route(family, address)
    except OSError as error:
        found = f"none to {address[0]}: {error.strerror or error}"
        change = "ip route get shows what is missing: an address, a route, a device that is up"
        return [Finding("route", "broken", found, change)], None
    findings = [_judge_route(family, address, route)]
    if IS_LINUX and route.device:
        name = f"device {route.device}"
        findings += checked(name, lambda: [_judge(read_device(route.device))])
    return findings, route


def _judge_route(family: int, address: tuple[Any, ...], route: Route) -> Finding:
    facts: dict[str, object] = {
        "address": address[0],
        "source": route.source,
        "device": route.device or None,
        "mtu": route.mtu,
    }
    found = f"to {address[0]} from {route.source}"
    if route.device:
        found += f" by {route.device}"
    if route.mtu is None:
        return Finding("route", "unknown", f"{found}; its MTU is not told here", facts=facts)
    room = route.mtu - HEADERS[socket.AddressFamily(family)]
    found += f"; MTU {route.mtu}: trains of datagrams up to {room} bytes"
    if room < _USUAL:
        change = (
            f"raise the MTU: longer datagrams go out one by one, in fragments ({_USUAL} is usual)"
        )
        return Finding("route", "slow", found, change, facts)
    return Finding("route", "ok", found, facts=facts)
