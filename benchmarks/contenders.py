"""Who does the work: name, program and way of each contender, role by role."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from process import python
from throughput import SLOTS, Setup
from work import Work

from batching._kernel import max_segments

OURS, PLAIN, ANYIO, C, GO, RUST, IPERF3 = (
    "batching",
    "Python",
    "anyio",
    "C",
    "batching (Go)",
    "quinn-udp",
    "iperf3",
)
"""Who is behind a contender: as in peers/programs.py, or this Python."""
COPYING = "C, copying"
"""C that does what ``read_batch`` has to do at the least, and nothing else."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who does one kind of work in one way."""

    name: str
    peer: str
    program: tuple[str, ...]
    way: str
    receiving: str = ""
    """How the same peer receives, where both ends are its own."""
    holds: int | None = None
    """Datagrams that it keeps while nobody asks for them, and drops others; None: all."""
    missing: str = ""
    """Why it cannot take part."""

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
        ("anyio", ANYIO, "anyio"),
    ),
    "receive": (
        ("recv_segments", OURS, "recv_segments"),
        ("read_batch", OURS, "read_batch"),
        ("recv_batch", OURS, "recv_batch"),
        ("C", C, "sleep"),
        (COPYING, C, "copy"),
        ("Go batching", GO, "batching"),
        ("Go plain", GO, "plain"),
        ("quinn-udp", RUST, "quinn"),
        ("by hand", PLAIN, "by hand"),
        ("socket", PLAIN, "recvfrom"),
        ("anyio", ANYIO, "anyio"),
    ),
    "echo": _PASSING,
    "forward": (*_PASSING, ("anyio", ANYIO, "anyio")),
    "ping": tuple(each for each in (*_PASSING, ("anyio", ANYIO, "anyio")) if each[0] != "by hand"),
    "pair": (
        ("send_segments, recv_segments", OURS, "send_segments"),
        ("send_batch, recv_batch", OURS, "send_batch"),
        ("write_batch_to, read_batch", OURS, "write_batch_to"),
        ("C", C, f"{max_segments()} train"),
        ("Go batching", GO, "batching"),
        ("Go plain", GO, "plain"),
        ("quinn-udp", RUST, "quinn"),
        ("iperf3", IPERF3, ""),
        ("by hand", PLAIN, "by hand"),
        ("socket", PLAIN, "sendto"),
    ),
}
_RECEIVING = {
    "send_segments": "recv_segments",
    "send_batch": "recv_batch",
    "write_batch_to": "read_batch",
    "sendto": "recvfrom",
    f"{max_segments()} train": "sleep",
}


_ASIDE = (COPYING, "Go plain", "anyio")
"""Shown with the base only."""


def contenders(setup: Setup, work: Work) -> Iterator[Contender]:
    """Yield who takes part in a piece of work, or would if it were here."""
    for name, peer, way in _WAYS[work.role]:
        if peer == C and way == "128 buffers" and max_segments() < 128:
            continue
        if name in _ASIDE and not work.is_base:
            continue
        program, missing = _program(setup, peer)
        receiving = _RECEIVING.get(way, way)
        # anyio._backends._asyncio: a deque of 100
        holds = 100 if peer == ANYIO else None
        yield Contender(name, peer, program, way, receiving, holds, missing)


def _program(setup: Setup, peer: str) -> tuple[tuple[str, ...], str]:
    """Return the command of a peer, and why there is none."""
    if peer in (OURS, PLAIN):
        return tuple(python("contender.py")), ""
    if peer == ANYIO:
        is_here = importlib.util.find_spec("anyio") is not None
        return tuple(python("anyio_socket.py")), "" if is_here else "anyio is not installed"
    return setup.programs[peer].command, setup.programs[peer].missing
