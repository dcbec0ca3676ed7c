"""What is to be done: one piece of work, which all contenders do, and the list of them.

Not the full product: one thing is varied at a time, around batches of 128 datagrams of 1400 and
of 64 bytes to one destination over loopback.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from paths import PATHS
from throughput import COUNT

IMIX = "64,576,64,64,576,64,1400,64,576,64,64,576"
"""Seven small, four middle and one large: the simple mixture that routers are measured with."""
BASE_SIZES = ("1400", "64")
SIZES = ("256", "1200", "8900", IMIX)
COUNTS = (1, 8, 32)
MANY = (2, 16, 1000)
"""Destinations."""
PINGS = 2000
LOADS = (0, 1_000, 10_000)
"""Pings a second; 0: each as soon as the one before has come back."""


@dataclass(frozen=True, slots=True)
class Work:
    role: str
    """send, receive, echo, forward or ping: what the contender does."""
    size: str = "1400"
    """Bytes of a datagram, or a list of them that is cycled through."""
    count: int = COUNT
    """Datagrams a batch."""
    destinations: int = 1
    path: str = "loopback"
    load: int = 0
    """Pings a second."""
    segments: int = 64
    """Datagrams of a train that a receiver is fed."""

    @property
    def sizes(self) -> list[int]:
        return [int(size) for size in self.size.split(",")]

    @property
    def mean_size(self) -> float:
        return sum(self.sizes) / len(self.sizes)

    @property
    def size_name(self) -> str:
        return "IMIX" if "," in self.size else f"{self.size} B"

    @property
    def variation(self) -> str:
        """What is not as in the base."""
        parts = []
        if self.role != "ping" and self.count != COUNT:
            parts.append(f"batches of {self.count}")
        if self.destinations > 1:
            parts.append(f"{self.destinations} destinations")
        if self.segments == 1:
            parts.append("fed singly")
        if self.path != "loopback":
            parts.append(PATHS[self.path].title)
        if self.role == "ping":
            parts.append(f"{self.load:,} a second" if self.load else "one after another")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        return ", ".join(filter(None, [f"{self.size_name} {self.role}", self.variation]))

    @property
    def is_base(self) -> bool:
        """Say whether it is shown first; batches of 1 are, too, of which there are fewer rounds."""
        return self in (*base(self.role), *(Work(self.role, size, 1) for size in BASE_SIZES))

    @property
    def is_quick(self) -> bool:
        """Say whether it is done when there is little time."""
        if self.role == "receive" and self.count == 1:
            return False
        return self.is_base or self.destinations == max(MANY) or self.path == "merged"

    @property
    def batch(self) -> int:
        """Datagrams a call: to many destinations, 8 to each."""
        return self.count if self.destinations <= 16 else 8 * self.destinations


def base(role: str) -> list[Work]:
    return [Work(role, size, 1 if role == "ping" else COUNT) for size in BASE_SIZES]


def _varied(role: str) -> Iterator[Work]:
    """Yield the base, then other sizes, then other batches."""
    yield from base(role)
    yield from (Work(role, size) for size in SIZES)
    yield from (Work(role, size, count) for size in BASE_SIZES for count in (1, 32))
    yield Work(role, "64", 8)


def sending() -> list[Work]:
    two = Work("send", "64", destinations=2)
    return [*_varied("send"), two, *(Work("send", destinations=number) for number in MANY)]


def receiving() -> list[Work]:
    return [*_varied("receive"), *(Work("receive", size, segments=1) for size in BASE_SIZES)]


def over_paths() -> list[Work]:
    paths = [path for path in PATHS if path != "loopback"]
    # No train of 1400 bytes goes through an MTU of 1300: the sender in C is refused.
    segments = {"mtu1300": 1}
    return [
        *(Work("send", path=path) for path in paths),
        *(Work("receive", path=path, segments=segments.get(path, 64)) for path in paths),
    ]


def pings() -> list[Work]:
    return [Work("ping", size, 1, load=load) for size in BASE_SIZES for load in LOADS]
