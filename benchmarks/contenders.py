"""Who does the work: name, program and way of each contender, role by role."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from process import python
from throughput import SLOTS, Setup
from work import Work

from batching._kernel import max_segments

OURS, PLAIN, C, GO, RUST = "batching", "Python", "C", "batching (Go)", "quinn-udp"
"""Who is behind a contender: as in peers/programs.py, or this Python."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does one kind of work in one way."""

    name: str
    peer: str
    program: tuple[str, ...]
    way: str

    def command(self, role: str, work: Work, *to: str) -> list[str]:
        """Return what is to be run; the protocol of the children is in peers/README.md."""
        if self.peer == C:
            return [*self.program, role, work.size, *self._ways_of_c(role, work), *to]
        batch = [] if role == "ping" else [str(work.batch)]
        return [*self.program, role, self.way, work.size, *batch, *to]

    def _ways_of_c(self, role: str, work: Work) -> list[str]:
        if role == "send":
            return [str(work.batch), *self.way.split()]
        return [] if role == "ping" else [str(SLOTS), self.way]


def drain(setup: Setup, work: Work, way: str) -> list[str]:
    """Return the command of what takes in what a contender sends."""
    return Contender("", C, setup.ceiling, way).command("recv", work)


def feed(setup: Setup, work: Work, *to: str) -> list[str]:
    """Return the command of what sends to a contender."""
    way = f"{work.segments} train"
    return Contender("", C, setup.ceiling, way).command("send", Work("send", work.size), *to)


_PASSING = (
    ("recv_segments, send_segments", OURS, "send_segments"),
    ("recv_batch, send_batch", OURS, "send_batch"),
    ("read_batch, write_batch_to", OURS, "write_batch_to"),
    ("C", C, "sleep"),
    ("Go batching", GO, "batching"),
    ("Go plain", GO, "plain"),
    ("quinn-udp", RUST, "quinn"),
    ("by hand", PLAIN, "by hand"),
    ("socket", PLAIN, "sendto"),
)
_WAYS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "send": (
        ("send_segments", OURS, "send_segments"),
        ("send_batch", OURS, "send_batch"),
        ("write_batch_to", OURS, "write_batch_to"),
        ("C, train", C, f"{max_segments()} train"),
        ("C, 128", C, "128 buffers"),
        ("C, 64", C, "64 buffers"),
        ("Go batching", GO, "batching"),
        ("Go plain", GO, "plain"),
        ("quinn-udp", RUST, "quinn"),
        ("by hand", PLAIN, "by hand"),
        ("socket", PLAIN, "sendto"),
    ),
    "receive": (
        ("recv_segments", OURS, "recv_segments"),
        ("read_batch", OURS, "read_batch"),
        ("recv_batch", OURS, "recv_batch"),
        ("C", C, "sleep"),
        ("Go batching", GO, "batching"),
        ("Go plain", GO, "plain"),
        ("quinn-udp", RUST, "quinn"),
        ("by hand", PLAIN, "by hand"),
        ("socket", PLAIN, "recvfrom"),
    ),
    "echo": _PASSING,
    "forward": _PASSING,
    "ping": tuple(each for each in _PASSING if each[0] != "by hand"),
}


def contenders(setup: Setup, work: Work) -> Iterator[Contender]:
    """Yield who is here for a piece of work."""
    script = tuple(python("contender.py"))
    for name, peer, way in _WAYS[work.role]:
        if peer == C and way == "128 buffers" and max_segments() < 128:
            continue
        program = script if peer in (OURS, PLAIN) else setup.programs[peer].command
        if program:
            yield Contender(name, peer, program, way)
