"""What is measured on: the machine, the kernel, the versions, the state of the offload."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import socket
import sys
from dataclasses import asdict, dataclass

import batching

__all__ = ["Machine", "force_receive_buffer", "pair_of_cpus", "usable_cpus", "version_of"]


def version_of(distribution: str) -> str:
    """Return the installed version of a distribution, "not installed" when it is not."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def usable_cpus() -> list[int]:
    """Return the numbers of the cores that this process may run on; [] where nobody tells."""
    if sys.platform == "linux":
        return sorted(os.sched_getaffinity(0))
    return []


def pair_of_cpus() -> tuple[int, int] | None:
    """Return two cores, one for the sender and one for the receiver, or None with one core.

    Two threads of one physical core are a pair only where there is nothing better.
    """
    cpus = usable_cpus()
    if len(cpus) < 2:
        return None
    siblings = _siblings(cpus[0])
    others = [cpu for cpu in cpus[1:] if cpu not in siblings]
    return cpus[0], (others or cpus[1:])[0]


def _siblings(cpu: int) -> set[int]:
    found = {cpu}
    path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
    with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        for part in file.read().strip().split(","):
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return found


def force_receive_buffer(sock: socket.socket, size: int) -> None:
    """Ask for a receive buffer of ``size`` bytes, past the system's limit where we may."""
    if sys.platform == "linux":
        from .._kernel import SO_RCVBUFFORCE

        with contextlib.suppress(PermissionError):
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
            return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


@dataclass(frozen=True, slots=True)
class Machine:
    """The facts that a number is worth nothing without."""

    processor: str
    cpus: int
    kernel: str
    python: str
    versions: dict[str, str]
    backend: str
    gso: bool
    gro: bool
    max_segments: int
    reasons: list[str]

    @classmethod
    def look(cls) -> Machine:
        """Return what there is here; opens a ``Conn`` to see what it can do."""
        with batching.open_conn(("127.0.0.1", 0), batch_size=batching.IDEAL_BATCH_SIZE) as conn:
            offload = conn.offload
        return cls(
            processor=_processor(),
            cpus=len(usable_cpus()) or os.cpu_count() or 1,
            kernel=f"{platform.system()} {platform.release()} {platform.machine()}",
            python=f"{platform.python_implementation()} {platform.python_version()}",
            versions={"batching": batching.__version__, "uvloop": version_of("uvloop")},
            backend=offload.backend,
            gso=offload.gso,
            gro=offload.gro,
            max_segments=offload.max_segments,
            reasons=list(offload.reasons),
        )

    def header(self) -> list[str]:
        """Return what is printed above the table, in lines of at most 100 columns."""
        cores = "1 core" if self.cpus == 1 else f"{self.cpus} cores"
        offload = (
            f"GSO {'on' if self.gso else 'off'}, GRO {'on' if self.gro else 'off'},"
            f" {self.max_segments} segments a train"
        )
        ours = f"batching {self.versions['batching']}, {self.backend} back end, {offload}"
        lines = [f"{self.processor}, {cores}; {self.kernel}; {self.python}", ours]
        return [line[:100] for line in (*lines, *self.reasons)]

    def as_dict(self) -> dict[str, object]:
        """Return the facts as JSON takes them."""
        return asdict(self)


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return " ".join(value.split())
    return platform.processor() or platform.machine() or "unknown processor"
