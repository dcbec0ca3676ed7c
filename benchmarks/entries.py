"""A contender at work: its process, those at the other end, and what a round of them yields.

Rule 1: before the clocks run, contents are compared, by ``check``; in the rounds, counts are.
Rule 2: whoever is not under test is the ceiling in C, and the same for all contenders.
Rule 3: the sender's end runs on the first core, the receiver's on the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from child import ANY
from contenders import IPERF3, Contender, drain, feed
from order import arrives_in_order, hosts
from paths import Ends
from peers.iperf3 import Pair
from process import Process, Result, python
from throughput import MARK, PREFILL_CYCLES, Setup, live, prefill_calls, prefilled
from work import PINGS, Work

Sample = dict[str, float]
"""What a round yields: counts, and nanoseconds of wall or CPU time a datagram."""

CHECKED = 1000  # datagrams
LEAST_WEIGHT = 768  # bytes of the receive buffer that a message takes at least


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
        process = Process(command, self.setup.cores[1], self.ends.right, host or self.ends.host)
        return self.stack.enter_context(process)

    def to(self, port: int) -> str:
        return f"{self.ends.host}:{port}" if self.ends.host else str(port)

    @property
    def checked(self) -> int:
        """Datagrams of a check: no more than a contender keeps."""
        holds = self.contender.holds
        return CHECKED if holds is None else holds // 2

    def start(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        """Compare contents; RuntimeError where they are wrong."""
        raise NotImplementedError

    def round(self, seconds: float) -> Sample:
        """Work for so long, or about as much."""
        raise NotImplementedError

    def resident(self) -> int:
        """Return the bytes of the resident set of the process under test."""
        raise NotImplementedError


def compared(sender: Process, receiver: Process, count: int) -> None:
    """Send patterns and compare them; RuntimeError unless all arrive as they were sent."""
    receiver.tell("check")
    sent = sender.ask(f"check {count} {len(MARK)}")
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
        self.other = self.right(drain(setup, work, setup.drain), ANY[0] if is_many else "")
        port = self.other.ports()[0]
        to = [f"{host}:{port}" for host in hosts(work.destinations)] if is_many else [self.to(port)]
        self.sender = self.left(self.contender.command("send", work, *to))
        self.sender.ports()

    def check(self) -> None:
        if self.work.destinations > 1:
            arrives_in_order(self.contender, self.work)
        else:
            compared(self.sender, self.other, self.checked)

    def round(self, seconds: float) -> Sample:
        sent, received = live(self.sender, self.other, seconds)
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
        compared(self.sender, self.receiver, self.checked)

    def round(self, seconds: float) -> Sample:
        sent, received = live(self.sender, self.receiver, seconds)
        sample: Sample = {
            "sent": sent.datagrams,
            "received": received.datagrams,
            "wall ns": received.wall_ns,
            "cpu ns": received.cpu_ns,
            "other cpu ns": sent.cpu_ns,
        }
        # A longer path may drop what the queue would have held.
        if self.ends == Ends() and self.contender.holds is None:
            size = round(self.work.mean_size)
            calls = prefill_calls(size if self.work.segments > 1 else max(size, LEAST_WEIGHT))
            emptied = prefilled(self.sender, self.receiver, calls, PREFILL_CYCLES)
            sample["queued cpu ns"] = emptied.cpu_ns
        return sample

    def resident(self) -> int:
        return self.receiver.resident()


@dataclass(slots=True)
class Echoing(Entry):
    """Trains from a client that has 8 of them on the way, and compares all that comes back."""

    client: Process = field(init=False)
    echo: Process = field(init=False)
    port: int = field(init=False)

    def start(self) -> None:
        self.echo = self.right(self.contender.command("echo", self.work))
        self.port = self.echo.ports()[0]
        self.client = self.left(python("trains.py", self.work.size))
        self.client.ports()

    def check(self) -> None:
        """Do nothing: the client compares in the rounds."""

    def round(self, seconds: float) -> Sample:
        before = self.echo.cpu()
        echoed = self.client.ask(f"{self.port} {seconds}")
        used = self.echo.cpu() - before
        return {
            "sent": echoed.datagrams,
            "received": echoed.measured,
            "wall ns": echoed.wall_ns,
            "cpu ns": used * 1e9 / max(1, echoed.measured),
            "other cpu ns": echoed.cpu_ns,
        }

    def resident(self) -> int:
        return self.echo.resident()


@dataclass(slots=True)
class Forwarding(Entry):
    """Trains of 64 from C, forwarded to a drain: as many at a time as fit in the queues."""

    sender: Process = field(init=False)
    forwarder: Process = field(init=False)
    other: Process = field(init=False)

    def start(self) -> None:
        # The drain shares the sender's core, which is idle once all is sent.
        self.other = self.left(drain(self.setup, self.work, "sleep"))
        to = self.to(self.other.ports()[0])
        self.forwarder = self.right(self.contender.command("forward", self.work, to))
        port = self.forwarder.ports()[0]
        self.sender = self.left(feed(self.setup, self.work, self.to(port)))
        self.sender.ports()

    def check(self) -> None:
        compared(self.sender, self.other, self.checked)

    def round(self, seconds: float) -> Sample:
        calls = prefill_calls(round(self.work.mean_size))
        sent = received = 0
        spent = other = 0.0
        before = self.forwarder.cpu()
        while spent < seconds:
            self.other.tell("live")
            start = time.perf_counter()
            put = self.sender.ask(f"0 {calls} {len(MARK)}")
            got = Result(**self.other.answer())
            spent += time.perf_counter() - start
            sent += put.datagrams
            received += got.datagrams
            other += put.cpu + got.cpu
        used = self.forwarder.cpu() - before
        return {
            "sent": sent,
            "received": received,
            "wall ns": spent * 1e9 / received,
            "cpu ns": used * 1e9 / received,
            "other cpu ns": other * 1e9 / received,
        }

    def resident(self) -> int:
        return self.forwarder.resident()


@dataclass(slots=True)
class Pinging(Entry):
    """Requests and responses between two of a kind."""

    client: Process = field(init=False)
    echo: Process = field(init=False)

    def start(self) -> None:
        self.echo = self.right(self.contender.command("echo", self.work))
        to = self.to(self.echo.ports()[0])
        self.client = self.left(self.contender.command("ping", self.work, to))
        self.client.ports()

    def check(self) -> None:
        """Do nothing: a ping that is not the one that was sent ends the client."""

    def round(self, seconds: float) -> Sample:
        load = self.work.load
        pings = min(PINGS, round(load * seconds)) if load else PINGS
        before = self.echo.cpu()
        self.client.tell(f"{pings} {load or ''}")
        answer = self.client.answer()
        used = self.echo.cpu() - before
        return {
            **{key: answer[key] for key in ("p50", "p99", "p999")},
            "cpu ns": answer["cpu"],
            "other cpu ns": used * 1e9 / pings,
        }

    def resident(self) -> int:
        return self.client.resident()


@dataclass(slots=True)
class Pairing(Entry):
    """Both ends of one peer: what its user would see."""

    sender: Process = field(init=False)
    receiver: Process = field(init=False)

    def start(self) -> None:
        receiving = replace(self.contender, way=self.contender.receiving)
        self.receiver = self.right(receiving.command("recv", self.work))
        to = self.to(self.receiver.ports()[0])
        self.sender = self.left(self.contender.command("send", self.work, to))
        self.sender.ports()

    def check(self) -> None:
        compared(self.sender, self.receiver, self.checked)

    def round(self, seconds: float) -> Sample:
        sent, received = live(self.sender, self.receiver, seconds)
        return {
            "sent": sent.datagrams,
            "received": received.datagrams,
            "wall ns": received.wall_ns,
            "cpu ns": sent.cpu_ns * sent.datagrams / received.datagrams + received.cpu_ns,
        }

    def resident(self) -> int:
        return self.sender.resident() + self.receiver.resident()


@dataclass(slots=True)
class Iperf3(Entry):
    """iperf3's client and server, new ones in each round; it knows nothing shorter than 1 s."""

    pair: Pair = field(init=False)

    def start(self) -> None:
        self.pair = Pair(self.contender.program[0], self.setup.cores)

    def check(self) -> None:
        """Do nothing: it has numbers in its datagrams, and no contents."""

    def round(self, seconds: float) -> Sample:
        sent, received = self.pair.run(self.work.sizes[0], 1)
        return {
            "sent": sent.datagrams,
            "received": received.datagrams,
            "wall ns": received.wall_ns,
            "cpu ns": (sent.cpu + received.cpu) * 1e9 / max(1, received.datagrams),
        }

    def resident(self) -> int:
        return 0


ENTRIES: dict[str, Callable[..., Entry]] = {
    "send": Sending,
    "receive": Receiving,
    "echo": Echoing,
    "forward": Forwarding,
    "ping": Pinging,
    "pair": Pairing,
}


def entry(setup: Setup, ends: Ends, work: Work, contender: Contender) -> Entry:
    """Return what a contender's part in a piece of work is."""
    kind = Iperf3 if contender.peer == IPERF3 else ENTRIES[work.role]
    return kind(setup, ends, work, contender)
