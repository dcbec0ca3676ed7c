"""Sending and receiving at full speed, against the ceiling in C, round by round."""

from __future__ import annotations

import socket
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from outcome import Outcome
from process import Process, Result, python

from batching._kernel import max_segments
from batching.cli.machine import force_receive_buffer

SIZES = (1400, 64)
COUNT = 128  # datagrams a batch
SLOTS = 8  # of 64 KiB, in the ceiling's receiver
RECEIVE_BUFFER = 32 << 20
PREFILL = 4 << 20  # bytes: well inside the last level of the cache
PREFILL_CALLS = 200
PREFILL_CYCLES = 8  # a run
MARK_EVERY_S = 0.002


@dataclass(frozen=True, slots=True)
class Setup:
    """What all comparisons share."""

    ceiling: list[str]
    cores: tuple[int, int]
    rounds: int
    seconds: float
    """A run."""

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
    sender: Process, receiver: Process, seconds: float, mark: bytes = b""
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
    sender: Process, receiver: Process, calls: int, cycles: int, mark: bytes = b""
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


def in_turn(names: list[str], number: int) -> list[str]:
    """Return the order of a round: every other one backwards, so that a drift cancels out."""
    return names if number % 2 else names[::-1]


# ---- sending ----


def send(setup: Setup, size: int) -> list[Outcome]:
    """Compare the ways of sending one size."""
    results = {**_send_to(setup, size, sockets=1), **_send_to(setup, size, sockets=2)}
    small = size == 64
    goals = [
        ("write_batch_to", "C, 64", 1.2 if small else 0.95),
        ("write_batch_to", "C, 128", 0.75),
        ("send_batch", "C, 64", 1.0 if small else 0.90),
        ("send_batch, two in turn", "C, two grouped", 0.9),
        ("send_segments", "C, train", 0.95),
    ]
    outcomes = []
    for ours, theirs, goal in goals:
        if ours not in results or theirs not in results:
            continue
        mine, ceiling = results[ours], results[theirs]
        outcomes.append(
            Outcome(
                f"{size} B {ours} / {theirs}, rate",
                [b.wall_ns / a.wall_ns for a, b in zip(mine, ceiling, strict=True)],
                at_least=goal,
                detail={
                    "wall ns": median(a.wall_ns for a in mine),
                    "C": median(b.wall_ns for b in ceiling),
                    "CPU ns": median(a.cpu_ns for a in mine),
                    "C's": median(b.cpu_ns for b in ceiling),
                    "CPU ratio": median(
                        a.cpu_ns / b.cpu_ns for a, b in zip(mine, ceiling, strict=True)
                    ),
                },
            )
        )
    return outcomes


def _send_to(setup: Setup, size: int, *, sockets: int) -> dict[str, list[Result]]:
    def c(segments: int, shape: str) -> list[str]:
        return [*setup.ceiling, "send", str(size), str(COUNT), str(segments), shape]

    def ours(way: str) -> list[str]:
        return python("contender.py", "send", way, size, COUNT)

    if sockets == 1:
        commands = {
            "C, 64": c(64, "buffers"),
            "write_batch_to": ours("write_batch_to"),
            "C, 128": c(128, "buffers"),
            "send_batch": ours("send_batch"),
            "C, train": c(max_segments(), "train"),
            "send_segments": ours("send_segments"),
        }
        if max_segments() < 128:
            del commands["C, 128"]
    else:
        commands = {
            "C, two grouped": c(max_segments(), "buffers"),
            "send_batch, two in turn": ours("send_batch"),
        }
    results: dict[str, list[Result]] = defaultdict(list)
    with ExitStack() as stack:
        drain = stack.enter_context(
            Process(
                [*setup.ceiling, "recv", str(size), str(SLOTS), setup.drain, str(sockets)],
                setup.cores[1],
            )
        )
        ports = drain.ports()
        senders = {
            name: stack.enter_context(Process([*command, *map(str, ports)], setup.cores[0]))
            for name, command in commands.items()
        }
        for process in senders.values():
            process.ports()
        for number in range(setup.rounds + 1):  # the first warms up
            for name in in_turn(list(senders), number):
                sent, _ = live(senders[name], drain, setup.seconds)
                if number:
                    results[name].append(sent)
    return results


# ---- receiving ----


def receive(setup: Setup, size: int) -> list[Outcome]:
    """Compare the ways of receiving trains of 64, fed live and from a queue filled before."""
    limits = {"recv_segments": 1.1, "read_batch": 1.5, "recv_batch": 2.1 if size == 64 else 1.9}
    calls = prefill_calls(size)
    lively: dict[str, list[tuple[Result, Result]]] = defaultdict(list)
    filled: dict[str, list[Result]] = defaultdict(list)
    ceiling = [*setup.ceiling, "recv", str(size), str(SLOTS), "sleep"]
    commands = {"C": ceiling} | {
        way: python("contender.py", "recv", way, size, COUNT) for way in limits
    }
    with ExitStack() as stack:
        pairs = _pairs(stack, setup, size, 64, commands)
        for number in range(setup.rounds + 1):  # the first warms up
            for name in in_turn(list(pairs), number):
                sender, receiver = pairs[name]
                result = live(sender, receiver, setup.seconds)
                emptied = prefilled(sender, receiver, calls, PREFILL_CYCLES)
                if number:
                    lively[name].append(result)
                    filled[name].append(emptied)
    outcomes = []
    for name, limit in limits.items():
        mine = [received for _, received in lively[name]]
        theirs = [received for _, received in lively["C"]]
        outcomes += [
            _cpu(f"{size} B {name} / C, CPU, live", mine, theirs, limit),
            _cpu(f"{size} B {name} / C, CPU, queue filled", filled[name], filled["C"], limit),
        ]
    for name in [*limits, "C"] if size == 1400 else []:
        outcomes.append(
            Outcome(
                f"{size} B {name}, received of sent",
                [got.datagrams / sent.datagrams for sent, got in lively[name]],
                at_least=0.9 if name in limits else None,
                detail={"sender's wall ns": median(sent.wall_ns for sent, _ in lively[name])},
            )
        )
    return outcomes


def _pairs(
    stack: ExitStack, setup: Setup, size: int, segments: int, commands: dict[str, list[str]]
) -> dict[str, tuple[Process, Process]]:
    """Start each receiver, and for each a sender in C."""
    pairs = {}
    for name, command in commands.items():
        receiver = stack.enter_context(Process(command, setup.cores[1]))
        ports = receiver.ports()
        feed = [*setup.ceiling, "send", str(size), str(COUNT), str(segments), "train"]
        sender = stack.enter_context(Process([*feed, *map(str, ports)], setup.cores[0]))
        sender.ports()
        pairs[name] = (sender, receiver)
    return pairs


def _cpu(name: str, mine: list[Result], theirs: list[Result], limit: float | None) -> Outcome:
    return Outcome(
        name,
        [a.cpu_ns / b.cpu_ns for a, b in zip(mine, theirs, strict=True)],
        at_most=limit,
        detail={
            "CPU ns": median(a.cpu_ns for a in mine),
            "other's": median(b.cpu_ns for b in theirs),
            "wall ns": median(a.wall_ns for a in mine),
            "other's wall": median(b.wall_ns for b in theirs),
        },
    )


def receive_singles(setup: Setup, size: int) -> list[Outcome]:
    """Compare ``recv_batch`` with ``recvfrom`` on a queue of datagrams that came singly."""
    commands = {
        way: python("contender.py", "recv", way, size, COUNT) for way in ("recvfrom", "recv_batch")
    }
    # A datagram of 64 B weighs 768 bytes in the queue.
    calls = max(1, min(40, prefill_calls(max(size, 768))))
    results: dict[str, list[Result]] = defaultdict(list)
    with ExitStack() as stack:
        pairs = _pairs(stack, setup, size, 1, commands)
        for number in range(setup.rounds + 1):
            for name in in_turn(list(pairs), number):
                sender, receiver = pairs[name]
                result = prefilled(sender, receiver, calls, 4 * PREFILL_CYCLES)
                if number:
                    results[name].append(result)
    name = f"{size} B recv_batch / recvfrom, CPU, queue filled"
    return [_cpu(name, results["recv_batch"], results["recvfrom"], 1.15)]
