"""What the system and the process bring along: kernel, back end, GSO, switches, limits."""

from __future__ import annotations

import os
import platform
from typing import Final

from batching import open_conn

from ..._backend import NAME, WHY_NOT_NATIVE
from ..._kernel import IS_LINUX, MAX_SEGMENTS, measure_max_segments
from ..machine import usable_cpus
from .finding import Finding, checked

__all__ = ["look_at_system"]

_DESCRIPTORS: Final = 3  # of a Conn: socket, wake-up, and a watch of routes now and then
_FEW: Final = 1024  # descriptors, a usual limit
_BATCH: Final = 128  # given, so that a wrong BATCHING_BATCH_SIZE is told by its own row only
_SWITCHES: Final = {  # what slows down where it is set
    "BATCHING_BACKEND": ("portable",),
    "BATCHING_BATCH_SIZE": (),
    "BATCHING_DISABLE_UDP_GRO": None,
    "BATCHING_DISABLE_UDP_GSO": None,
}


def look_at_system() -> list[Finding]:
    """Return a finding for each."""
    checks = {
        "kernel": _kernel,
        "back end": _back_end,
        "GSO": _gso,
        "environment": _environment,
        "cores": _cores,
        "open files": _open_files,
    }
    return [finding for name, check in checks.items() for finding in checked(name, check)]


def _kernel() -> list[Finding]:
    name = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts: dict[str, object] = {"system": platform.system(), "release": platform.release()}
    if IS_LINUX:
        return [Finding("kernel", "ok", name, facts=facts)]
    change = "Linux moves many datagrams a call, as trains; elsewhere it is one datagram a call"
    return [Finding("kernel", "slow", name, change, facts)]


def _back_end() -> list[Finding]:
    facts: dict[str, object] = {"name": NAME, "reason": WHY_NOT_NATIVE}
    if NAME == "native":
        return [Finding("back end", "ok", "native", facts=facts)]
    change = "install a C compiler and Python's headers, then: pip install --force-reinstall"
    if not IS_LINUX:
        change = ""
    elif os.environ.get("BATCHING_BACKEND"):
        change = "unset BATCHING_BACKEND"
    found = f"portable, one datagram or train a system call; {WHY_NOT_NATIVE}"
    return [Finding("back end", "slow", found, change, facts)]


def _gso() -> list[Finding]:
    with open_conn(batch_size=_BATCH) as conn:
        offload = conn.offload
    reason = next((each for each in offload.reasons if each.startswith("gso: ")), "")
    limit = measure_max_segments()
    facts: dict[str, object] = {"on": offload.gso, "max_segments": limit or None}
    if not offload.gso:
        found = f"off: {reason.removeprefix('gso: ')}"
        change = "unset BATCHING_DISABLE_UDP_GSO" if "BATCHING" in reason else _UPGRADE
        return [Finding("GSO", "slow", found, change if IS_LINUX else "", facts)]
    if not limit:
        return [Finding("GSO", "unknown", "on; not measured: loopback is down", _LO_UP, facts)]
    found = f"on: up to {limit} datagrams a train"
    if limit < MAX_SEGMENTS:
        found += f", newer kernels take {MAX_SEGMENTS}"
    return [Finding("GSO", "ok", found, facts=facts)]


_UPGRADE: Final = "run Linux 5.0 or later"
_LO_UP: Final = "ip link set lo up"


def _environment() -> list[Finding]:
    here = {name: os.environ[name] for name in _SWITCHES if os.environ.get(name)}
    facts: dict[str, object] = {"variables": here}
    found = ", ".join(f"{name}={value}" for name, value in here.items())
    if not here:
        return [Finding("environment", "ok", "no BATCHING_ variable is set", facts=facts)]
    try:
        open_conn().close()
    except ValueError as error:
        change = "unset BATCHING_BATCH_SIZE: no connection opens with it"
        return [Finding("environment", "broken", str(error), change, facts)]
    slow = [name for name, value in here.items() if _slows(name, value)]
    if slow:
        return [Finding("environment", "slow", found, f"unset {' '.join(slow)}", facts)]
    return [Finding("environment", "ok", found, facts=facts)]


def _slows(name: str, value: str) -> bool:
    values = _SWITCHES[name]
    return value != "0" if values is None else value in values


def _cores() -> list[Finding]:
    n = len(usable_cpus()) or os.cpu_count() or 1
    facts: dict[str, object] = {"usable": n}
    if n > 1:
        return [Finding("cores", "ok", f"{n} may be used", facts=facts)]
    change = "give it a second core: sender, receiver and the kernel share this one"
    return [Finding("cores", "slow", "1 may be used", change, facts)]


def _open_files() -> list[Finding]:
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return [Finding("open files", "ok", "no limit", facts={"soft": None, "hard": None})]
    known = None if hard == resource.RLIM_INFINITY else hard
    facts: dict[str, object] = {"soft": soft, "hard": known}
    found = f"{soft:,} descriptors: {soft // _DESCRIPTORS:,} connections at most"
    if soft < _FEW:
        return [Finding("open files", "slow", found, f"ulimit -n {known or _FEW}", facts)]
    return [Finding("open files", "ok", found, facts=facts)]
