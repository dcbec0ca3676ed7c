"""Who does the work: name, command and way of each contender, role by role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from process import python
from throughput import SLOTS, Setup
from work import Work

from batching._kernel import max_segments

OURS = "batching"


@dataclass(frozen=True, slots=True)
class Contender:
    """A peer that does one kind of work in one way."""

    name: str
    peer: str
    program: tuple[str, ...]
    way: str
    mark: int = 0
    """Bytes of the mark of the end: who cannot tell an empty datagram gets another."""

    @property
    def is_ours(self) -> bool:
        return self.peer == OURS

    def command(self, role: str, work: Work, *to: str) -> list[str]:
        if self.peer == "C":
            size = work.size
            if role == "send":
                segments, shape = self.way.split()
                to = tuple(each.removeprefix("127.0.0.1:") for each in to)
                return [*self.program, role, size, str(work.batch), segments, shape, *to]
            return [*self.program, role, size, str(SLOTS), self.way]
        return [*self.program, role, self.way, work.size, str(work.batch), *to]


def drain(setup: Setup, work: Work) -> list[str]:
    """Return the command of what takes in what a contender sends."""
    return Contender("C", "C", tuple(setup.ceiling), setup.drain).command("recv", work)


def feed(setup: Setup, work: Work, *to: str) -> list[str]:
    """Return the command of what sends to a contender: trains of 64, which all can take."""
    base = Work("send", work.size)
    return Contender("C", "C", tuple(setup.ceiling), "64 train").command("send", base, *to)


_OURS = {
    "send": ("send_batch", "write_batch_to", "send_segments"),
    "receive": ("recv_batch", "read_batch", "recv_segments"),
}


def of(setup: Setup, work: Work) -> Iterator[Contender]:
    """Yield who is here for a piece of work."""
    program = tuple(python("contender.py"))
    for way in _OURS[work.role]:
        yield Contender(way, OURS, program, way)
    ceiling = tuple(setup.ceiling)
    if work.role == "send":
        for segments in (64, 128):
            if segments <= max_segments():
                yield Contender(f"C, {segments}", "C", ceiling, f"{segments} buffers")
        yield Contender("C, train", "C", ceiling, f"{max_segments()} train")
        yield Contender("socket", "socket", program, "sendto")
    else:
        yield Contender("C", "C", ceiling, "sleep")
        yield Contender("socket", "socket", program, "recvfrom")
