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
            return [*self.program, role, work.size, *self._ways_of_c(role, work), *to]
        batch = [] if role == "ping" else [str(work.batch)]
        return [*self.program, role, self.way, work.size, *batch, *to]

    def _ways_of_c(self, role: str, work: Work) -> list[str]:
        if role == "send":
            return [str(work.batch), *self.way.split()]
        return [] if role == "ping" else [str(SLOTS), self.way]


def drain(setup: Setup, work: Work) -> list[str]:
    """Return the command of what takes in what a contender sends."""
    return Contender("C", "C", tuple(setup.ceiling), setup.drain).command("recv", work)


def feed(setup: Setup, work: Work, *to: str) -> list[str]:
    """Return the command of what sends to a contender: trains of 64, which all can take."""
    base = Work("send", work.size)
    way = f"{work.segments} train"
    return Contender("C", "C", tuple(setup.ceiling), way).command("send", base, *to)


_OURS = {
    "send": ("send_batch", "write_batch_to", "send_segments"),
    "receive": ("recv_batch", "read_batch", "recv_segments"),
}


def contenders(setup: Setup, work: Work) -> Iterator[Contender]:
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
    go = setup.programs["batching (Go)"].command
    rust = setup.programs["quinn-udp"].command
    yield Contender("Go batching", "batching (Go)", go, "batching", mark=1)
    yield Contender("Go plain", "batching (Go)", go, "plain", mark=1)
    yield Contender("quinn-udp", "quinn-udp", rust, "quinn")
