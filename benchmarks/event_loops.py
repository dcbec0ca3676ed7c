"""asyncio on our loop, against Python's own, uvloop and aiofastnet, round by round.

Each loop under test is a process of its own, see event_loop.py and quic.py.  Before its rounds
each receiver and sender moves ``samples``, which are compared byte by byte.
"""

from __future__ import annotations

import importlib.util
import socket
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from cast import casts
from child import LOOPBACK, RECEIVE_BUFFER
from event_loop import LAST, MARK, digest, is_here, samples
from outcomes import Outcome
from process import Process, Result, python
from throughput import COUNT, SLOTS, Setup, live, prefill_calls, prefilled

import batching
from batching.cli.machine import force_receive_buffer

STOCK, OURS, LISTS = "stock", "ours", "ours, lists"
RECEIVERS = (STOCK, "stock64K", "uvloop", "aiofastnet", OURS, LISTS)
SENDERS = (STOCK, "uvloop", "aiofastnet", OURS)
ECHOES = (STOCK, "stock64K", "uvloop", OURS, LISTS)
PINGERS = (STOCK, "stock64K", "uvloop", OURS)
PREFILL_CYCLES = 8  # a run
WEIGHT = 768  # bytes of the receive buffer that the least datagram takes
PINGS = 1000  # a run
QUIC_LIMIT_S = 120.0  # for one transfer
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Goal:
    """How many times another's rate ours shall reach, or how much of its time it may take."""

    mine: str
    theirs: str
    at_least: float | None = None
    at_most: float | None = None


def installed(ways: Iterable[str]) -> list[str]:
    found = []
    for way in ways:
        if is_here(way):
            found.append(way)
        else:
            print(f"  {way} is not installed", flush=True)
    return found


def _outcomes(
    what: str, goals: Iterable[Goal], results: dict[str, list[Result]], clock: str
) -> list[Outcome]:
    """Return how many times more datagrams a second of a clock, wall or CPU, ours moves."""

    def ns(way: str) -> list[float]:
        return [getattr(result, f"{clock}_ns") for result in results[way]]

    def other(way: str) -> float:
        return median(r.cpu_ns if clock == "wall" else r.wall_ns for r in results[way])

    name = {"wall": "rate", "cpu": "CPU"}[clock]
    beside = {"wall": "CPU", "cpu": "wall"}[clock]
    return [
        Outcome(
            f"{what}: {goal.mine} / {goal.theirs}, {name}",
            [b / a for a, b in zip(ns(goal.mine), ns(goal.theirs), strict=True)],
            at_least=goal.at_least,
            at_most=goal.at_most,
            detail={
                f"{clock} ns": median(ns(goal.mine)),
                "other's": median(ns(goal.theirs)),
                f"{beside} ns": other(goal.mine),
                f"other's {beside}": other(goal.theirs),
            },
        )
        for goal in goals
        if goal.mine in results and goal.theirs in results
    ]


# ---- receiving ----

RECEIVE_GOALS = (
    Goal(OURS, STOCK, 40),
    Goal(OURS, "stock64K"),
    Goal(OURS, "uvloop", 3.5),
    Goal(OURS, "aiofastnet"),
    Goal(LISTS, OURS, 1.5),
)


def receive(setup: Setup, size: int) -> list[Outcome]:
    """Compare protocols that receive trains of 64, fed live and from a queue filled before."""
    calls = prefill_calls(max(size, WEIGHT))
    lively: dict[str, list[Result]] = defaultdict(list)
    filled: dict[str, list[Result]] = defaultdict(list)
    ways = installed(RECEIVERS)
    for cast in setup.casts():
        with ExitStack() as stack:
            pairs = {}
            for way in ways:
                command = python("event_loop.py", "recv", way, size)
                receiver = stack.enter_context(Process(command, setup.cores[1]))
                ports = receiver.ports()
                feed = [*setup.ceiling, "send", str(size), str(COUNT), "64", "train"]
                sender = stack.enter_context(Process([*feed, str(ports[0])], setup.cores[0]))
                sender.ports()
                _check_receiver(receiver, way, size, ports[0])
                pairs[way] = (sender, receiver)
            for way, is_counted in cast.turns(list(pairs)):
                sender, receiver = pairs[way]
                seconds = setup.length(is_counted=is_counted)
                _, received = live(sender, receiver, seconds, MARK)
                emptied = prefilled(sender, receiver, calls, PREFILL_CYCLES, MARK)
                if is_counted:
                    lively[way].append(received)
                    filled[way].append(emptied)
    return [
        *_outcomes(f"{size} B receive", RECEIVE_GOALS, lively, "wall"),
        *_outcomes(f"{size} B receive", RECEIVE_GOALS, lively, "cpu"),
        *_outcomes(f"{size} B receive, queued", RECEIVE_GOALS, filled, "cpu"),
    ]


def _check_receiver(receiver: Process, way: str, size: int, port: int) -> None:
    """Send trains and single datagrams; RuntimeError if other ones arrive."""
    receiver.tell("check")
    sent = samples(size)
    to = (LOOPBACK, port)
    with batching.open_conn((LOOPBACK, 0)) as conn:
        for data in sent[:10]:
            conn.send_batch([(data, to)])
        conn.send_batch([*((data, to) for data in sent[10:]), (LAST, to)])
    if receiver.answer()["digest"] != digest(sent):
        raise RuntimeError(f"{way}: what was received is not what was sent")


# ---- sending ----

SEND_GOALS = (Goal(OURS, STOCK, 6), Goal(OURS, "uvloop"), Goal(OURS, "aiofastnet"))


def send(setup: Setup, size: int) -> list[Outcome]:
    """Compare ``sendto`` in a loop, so many a turn, towards a drain in C."""
    results: dict[str, list[Result]] = defaultdict(list)
    ways = installed(SENDERS)
    for cast in setup.casts():
        with ExitStack() as stack:
            command = [*setup.ceiling, "recv", str(size), str(SLOTS), setup.drain]
            drain = stack.enter_context(Process(command, setup.cores[1]))
            ports = drain.ports()
            senders = {}
            for way in ways:
                script = python("event_loop.py", "send", way, size, COUNT, ports[0])
                senders[way] = stack.enter_context(Process(script, setup.cores[0]))
                senders[way].ports()
                _check_sender(senders[way], way, size)
            for way, is_counted in cast.turns(list(senders)):
                seconds = setup.length(is_counted=is_counted)
                sent, _ = live(senders[way], drain, seconds, b"")
                if is_counted:
                    results[way].append(sent)
    return [
        *_outcomes(f"{size} B send", SEND_GOALS, results, "wall"),
        *_outcomes(f"{size} B send", SEND_GOALS, results, "cpu"),
    ]


def _check_sender(sender: Process, way: str, size: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        force_receive_buffer(sock, RECEIVE_BUFFER)
        sock.bind((LOOPBACK, 0))
        sock.settimeout(10)
        sender.tell(f"check {sock.getsockname()[1]}")
        sender.answer()
        if any(sock.recv(2048) != data for data in samples(size)):
            raise RuntimeError(f"{way}: what was sent is not what was to be sent")


# ---- echo ----

ECHO_GOALS = (
    Goal(OURS, STOCK, 10),
    Goal(OURS, "stock64K"),
    Goal(OURS, "uvloop"),
    Goal(LISTS, OURS),
)


def echo(setup: Setup, size: int) -> list[Outcome]:
    """Compare echoes of trains; CPU is the echo's, not the client's."""
    results: dict[str, list[Result]] = defaultdict(list)
    ways = installed(ECHOES)
    for cast in setup.casts():
        with ExitStack() as stack:
            client = stack.enter_context(Process(python("trains.py", size), setup.cores[0]))
            client.ports()
            servers = {}
            for way in ways:
                command = python("event_loop.py", "echo", way)
                server = stack.enter_context(Process(command, setup.cores[1]))
                servers[way] = (server, server.ports()[0])
            for way, is_counted in cast.turns(list(servers)):
                server, port = servers[way]
                before = server.cpu()
                echoed = client.ask(f"{port} {setup.length(is_counted=is_counted)}")
                used = server.cpu() - before
                if is_counted:
                    n = echoed.measured
                    results[way].append(Result(n, 0, n, 0, echoed.seconds, used))
    return [
        *_outcomes(f"{size} B echo", ECHO_GOALS, results, "wall"),
        *_outcomes(f"{size} B echo", ECHO_GOALS, results, "cpu"),
    ]


# ---- ping-pong ----


def latency(setup: Setup, size: int) -> list[Outcome]:
    """Compare single pings, one on the way, between two loops of a kind."""
    outcomes, ways = [], installed(PINGERS)
    for manner in ("callbacks", "task"):
        times: dict[str, list[dict[str, float]]] = defaultdict(list)
        for cast in setup.casts(times=2):
            with ExitStack() as stack:
                clients = {}
                for way in ways:
                    server = Process(python("event_loop.py", "echo", way), setup.cores[1])
                    port = stack.enter_context(server).ports()[0]
                    command = python("event_loop.py", "ping", way, manner, size, port)
                    clients[way] = stack.enter_context(Process(command, setup.cores[0]))
                    clients[way].ports()
                for way, is_counted in cast.turns(list(clients)):
                    clients[way].tell(str(PINGS))
                    answer = clients[way].answer()
                    if is_counted:
                        times[way].append(answer)
        for other, limit in ((STOCK, 1.05), ("stock64K", None), ("uvloop", None)):
            if other in times:
                outcomes.append(_latency(f"{size} B {manner}", times[OURS], times[other], limit))
                outcomes[-1].name += f": ours / {other}, p50"
    return outcomes


def _latency(
    name: str, mine: list[dict[str, float]], theirs: list[dict[str, float]], limit: float | None
) -> Outcome:
    return Outcome(
        name,
        [a["p50"] / b["p50"] for a, b in zip(mine, theirs, strict=True)],
        at_most=limit,
        less_is_better=True,
        detail={
            "us": median(a["p50"] for a in mine) / 1000,
            "other's": median(b["p50"] for b in theirs) / 1000,
            "client's CPU us": median(a["cpu"] for a in mine) / 1000,
            "other's CPU": median(b["cpu"] for b in theirs) / 1000,
        },
    )


# ---- QUIC ----


def quic(setup: Setup) -> list[Outcome]:
    """Compare aioquic's transfers, client and server on loops of a kind."""
    needed = ("aioquic", "trustme")
    if lacking := [name for name in needed if importlib.util.find_spec(name) is None]:
        print(f"  not installed: {', '.join(lacking)}", flush=True)
        return []
    is_quick = setup.is_quick
    amounts = {
        "download": (10 if is_quick else 30) * MB,
        "upload": (10 if is_quick else 30) * MB,
        "messages": 300 if is_quick else 1000,
    }
    wall: dict[tuple[str, str], list[float]] = defaultdict(list)
    cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    ways = installed((STOCK, "uvloop", OURS))
    for cast in casts(min(setup.rounds, 5), setup.n_casts):  # a transfer takes seconds
        with ExitStack() as stack:
            ends = {}
            for way in ways:
                command = python("quic.py", "server", way)
                server = stack.enter_context(Process(command, setup.cores[1]))
                port = server.ports()[0]
                client = Process(python("quic.py", "client", way, port), setup.cores[0])
                ends[way] = (server, stack.enter_context(client))
                ends[way][1].ports()
            for what, amount in amounts.items():
                for way, is_counted in cast.turns(ways):
                    server, client = ends[way]
                    before = server.cpu()
                    # What warms up need not be long.
                    client.tell(f"{what} {amount if is_counted else max(1, amount // 100)}")
                    answer = client.answer(QUIC_LIMIT_S)
                    used = server.cpu() - before
                    if is_counted:
                        wall[what, way].append(answer["seconds"])
                        cpu[what, way].append(answer["cpu"] + used)
    outcomes = []
    for what, goal in (("download", 1.3), ("upload", 1.0), ("messages", 1.0)):
        for other in ways:
            if other == OURS:
                continue
            mine, theirs = wall[what, OURS], wall[what, other]
            outcomes.append(
                Outcome(
                    f"aioquic {what}: ours / {other}, rate",
                    [b / a for a, b in zip(mine, theirs, strict=True)],
                    at_least=goal if other == STOCK else None,
                    detail={
                        "s": median(mine),
                        "other's": median(theirs),
                        "CPU s, both ends": median(cpu[what, OURS]),
                        "other's CPU": median(cpu[what, other]),
                        "CPU ratio": median(
                            b / a for a, b in zip(cpu[what, OURS], cpu[what, other], strict=True)
                        ),
                    },
                )
            )
    return outcomes
