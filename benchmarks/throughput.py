"""Sending and receiving at full speed: a run of two processes, and what all runs share."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace

from cast import Cast, casts
from peers.programs import Program
from process import Process, Result

from batching.cli.machine import force_receive_buffer

SIZES = (1400, 64)
COUNT = 128  # datagrams a batch
SLOTS = 8  # of 64 KiB, in the ceiling's receiver
RECEIVE_BUFFER = 32 << 20
PREFILL = 4 << 20  # bytes: well inside the last level of the cache
PREFILL_CALLS = 200
PREFILL_CYCLES = 8  # a run, or fewer:
PREFILL_ENOUGH_S = 0.1
MARK_EVERY_S = 0.002
MARK = b"."  # of the end: an empty one would go unseen by Go's batching


@dataclass(frozen=True, slots=True)
class Setup:
    """What all comparisons share."""

    programs: dict[str, Program]
    """The peers that are not Python."""
    cores: tuple[int, int]
    rounds: int
    """In all casts together, beside those that warm up."""
    seconds: float
    """A run."""
    is_quick: bool = False
    """Less work, not only shorter."""
    n_casts: int = 1

    def casts(self, times: int = 1) -> list[Cast]:
        """Return the casts, with so many times the rounds."""
        return casts(times * self.rounds, self.n_casts)

    def length(self, *, is_counted: bool) -> float:
        """Return the seconds of a run: one that warms up need not be long."""
        return self.seconds if is_counted else self.seconds / 3

    def shorter(self) -> Setup:
        """Return what is enough beside the base."""
        return replace(
            self,
            rounds=min(self.rounds, 4),
            seconds=min(self.seconds, 0.1),
            n_casts=min(self.n_casts, 2),
        )

    @property
    def ceiling(self) -> tuple[str, ...]:
        """The command of the program in C."""
        return self.programs["C"].command

    @property
    def drain(self) -> str:
        """A drain that never sleeps, where there is a core for it."""
        return "spin" if self.cores[0] != self.cores[1] else "sleep"


def mark_until_answer(sender: Process, receiver: Process, mark: bytes) -> Result:
    """Repeat the mark of the end, which may have met a full queue, until the receiver answers."""
    for _ in range(int(30 / MARK_EVERY_S)):
        try:
            return Result(**receiver.answer(MARK_EVERY_S))
        except TimeoutError:
            sender.ask(f"0 0 {len(mark) or ''}")
    raise TimeoutError(f"{receiver.name} does not see the mark of the end")


def live(
    sender: Process, receiver: Process, seconds: float, mark: bytes = MARK
) -> tuple[Result, Result]:
    """Send for ``seconds``; return what the sender and what the receiver measured.

    Senders other than ceiling.c know no mark but the empty one.
    """
    receiver.tell("flush")
    receiver.answer()
    receiver.tell("live")
    sent = sender.ask(f"{seconds} 0 {len(mark) or ''}")
    received = mark_until_answer(sender, receiver, mark)
    if received.wrong or received.datagrams > sent.datagrams:
        raise RuntimeError(f"{sender.name} -> {receiver.name}: {sent}, {received}")
    return sent, received


def prefilled(
    sender: Process, receiver: Process, calls: int, cycles: int, mark: bytes = MARK
) -> Result:
    """Fill the queue, then let the receiver empty it; return the sum of several times."""
    parts = []
    for _ in range(cycles):
        receiver.tell("flush")
        receiver.answer()
        sent = sender.ask(f"0 {calls} {len(mark) or ''}")
        got = receiver.ask("full")
        if got.wrong or got.datagrams != sent.datagrams:
            raise RuntimeError(f"{sender.name} -> {receiver.name}: {sent}, {got}")
        parts.append(got)
        if sum(part.seconds for part in parts) > PREFILL_ENOUGH_S:
            break
    return Result(
        datagrams=sum(part.datagrams for part in parts),
        calls=sum(part.calls for part in parts),
        measured=sum(part.measured for part in parts),
        wrong=0,
        seconds=sum(part.seconds for part in parts),
        cpu=sum(part.cpu for part in parts),
    )


def prefill_calls(size: int) -> int:
    """Return how many batches surely fit in the receive buffer that we get."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        force_receive_buffer(sock, RECEIVE_BUFFER)
        room = min(PREFILL, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 4)
    return max(1, min(PREFILL_CALLS, room // (COUNT * size)))
