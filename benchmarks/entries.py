"""A contender at work: its process, those at the other end, and what a round of them yields.

Rule 1: before the clocks run, contents are compared, by ``check``; in the rounds, counts are.
Rule 2: whoever is not under test is the ceiling in C, and the same for all contenders.
Rule 3: the sender's end runs on the first core, the receiver's on the second.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from contenders import Contender, drain, feed
from paths import Ends
from process import Process, Result
from throughput import PREFILL_CYCLES, Setup, live, prefill_calls, prefilled
from work import Work

Sample = dict[str, float]
"""What a round yields: counts, and nanoseconds of wall or CPU time a datagram."""

CHECKED = 1000  # datagrams
ANY_HOST = "0.0.0.0"


def hosts(number: int) -> list[str]:
    """Return as many addresses of loopback: one socket that is bound to all has them all."""
    return [f"127.0.{1 + index // 250}.{1 + index % 250}" for index in range(number)]


@dataclass(slots=True)
class Entry:
    """What all contenders have in common; a context in ``stack``."""

    setup: Setup
    ends: Ends
    work: Work
    contender: Contender
    stack: ExitStack = field(default_factory=ExitStack)

    def left(self, command: list[str]) -> Process:
        """Start a process at the sender's end."""
        return self.stack.enter_context(Process(command, self.setup.cores[0], self.ends.left))

    def right(self, command: list[str], host: str = "") -> Process:
        """Start a process at the receiver's end."""
        bound = host or self.ends.host
        process = Process(command, self.setup.cores[1], self.ends.right, bound)
        return self.stack.enter_context(process)

    def to(self, port: int) -> str:
        return f"{self.ends.host}:{port}"

    def start(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Compare contents; RuntimeError where they are wrong."""
        raise NotImplementedError

    def round(self) -> Sample:
        raise NotImplementedError

    def resident(self) -> int:
        """Return the bytes of the resident set of the process under test."""
        raise NotImplementedError


def compared(sender: Process, receiver: Process, count: int, mark: int = 0) -> None:
    """Send patterns and compare them; RuntimeError unless all arrive as they were sent."""
    receiver.tell("check")
    sent = sender.ask(f"check {count} {mark or ''}")
    got = Result(**receiver.answer())
    if got.wrong or got.datagrams != count or sent.datagrams != count:
        raise RuntimeError(f"check: {sent.datagrams} sent, {got.datagrams} came, {got.wrong} wrong")


@dataclass(slots=True)
class Sending(Entry):
    """To a drain that never sleeps."""

    sender: Process = field(init=False)
    other: Process = field(init=False)

    def start(self) -> None:
        setup, work = self.setup, self.work
        is_many = work.destinations > 1
        self.other = self.right(drain(setup, work), ANY_HOST if is_many else "")
        port = self.other.ports()[0]
        to = [f"{host}:{port}" for host in hosts(work.destinations)] if is_many else [self.to(port)]
        self.sender = self.left(self.contender.command("send", work, *to))
        self.sender.ports()

    def check(self) -> None:
        compared(self.sender, self.other, CHECKED)

    def round(self) -> Sample:
        sent, received = live(self.sender, self.other, self.setup.seconds)
        return {
            "sent": sent.datagrams,
            "received": received.datagrams,
            "wall ns": sent.wall_ns,
            "cpu ns": sent.cpu_ns,
            "other cpu ns": received.cpu_ns,
        }

    def resident(self) -> int:
        return self.sender.resident()


@dataclass(slots=True)
class Receiving(Entry):
    """Trains of 64 from C: at full speed, and from a queue that was filled before."""

    sender: Process = field(init=False)
    receiver: Process = field(init=False)

    def start(self) -> None:
        self.receiver = self.right(self.contender.command("recv", self.work))
        port = self.receiver.ports()[0]
        self.sender = self.left(feed(self.setup, self.work, self.to(port)))
        self.sender.ports()

    def check(self) -> None:
        compared(self.sender, self.receiver, CHECKED, self.contender.mark)

    def round(self) -> Sample:
        mark = b"." * self.contender.mark
        sent, received = live(self.sender, self.receiver, self.setup.seconds, mark)
        sample: Sample = {
            "sent": sent.datagrams,
            "received": received.datagrams,
            "wall ns": received.wall_ns,
            "cpu ns": received.cpu_ns,
            "other cpu ns": sent.cpu_ns,
        }
        if self.ends == Ends():  # a longer path may drop what the queue would have held
            calls = prefill_calls(round(self.work.mean_size))
            emptied = prefilled(self.sender, self.receiver, calls, PREFILL_CYCLES, mark)
            sample["queued cpu ns"] = emptied.cpu_ns
        return sample

    def resident(self) -> int:
        return self.receiver.resident()


ENTRIES: dict[str, Callable[..., Entry]] = {"send": Sending, "receive": Receiving}
