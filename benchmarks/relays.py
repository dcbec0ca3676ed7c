"""Relays of Geneve flows, and plain forwarders, side by side: CPU time of the relay a datagram.

One process in C, relay.c, is both peers; each contender stands between the two in its turn.
*Live*: so many trains are on the way that the relay has always something to do; nothing is lost
unless the relay loses it.  A relay that is quicker than the peers sleeps between trains.
*Queue filled*: the relay is stopped while the peer fills its queue, then it empties it.
Before the rounds every byte of some trains is compared, in the rounds every datagram's header,
length and serial number.  CPU time is that of the relay's process, all threads, by the kernel.
"""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import replace
from statistics import median

from outcomes import Outcome
from peers.programs import BUILD, MissingError, go, run, tool
from process import HERE, Process, Result, python
from throughput import SIZES, Setup

VNI = 1
HEADER = 8  # bytes, of Geneve without options
PAYLOAD = 65535 - 20 - 8  # IPv4 total length less IP and UDP headers
SEGMENTS = 64  # udprelay takes no longer trains: its ReadBatch fails with "overflow"
WINDOW = 32  # trains on the way: 2 MiB, less than a relay's receive buffer
CHECKED_TRAINS = 200
PREFILL = 4 << 20  # bytes: they fit in 7 MiB, which the kernel doubles for what it adds itself
PREFILL_TRAINS = 500
PREFILL_CYCLES = 8


class Relay(Process):
    """A relay's process, whose CPU time is asked of the kernel, and which can be stopped."""

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads so far."""
        # include/linux/posix-timers_types.h: CPUCLOCK_SCHED of a process
        return time.clock_gettime(~self._process.pid << 3 | 2)

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)


def relay(setup: Setup) -> list[Outcome]:
    """Compare relays and forwarders at each size of payload."""
    return [found for size in SIZES for found in _relay(setup, size)]


def build_relay() -> str:
    """Compile relay.c; return the program."""
    BUILD.mkdir(parents=True, exist_ok=True)
    program = str(BUILD / "relay")
    sources = [str(HERE / name) for name in ("relay.c", "child.c")]
    run([tool(os.environ.get("CC", "cc")), "-O2", "-Wall", "-Wextra", "-o", program, *sources])
    return program


def build_udprelay() -> str:
    """Build Tailscale's relay; return the program, "" where that cannot be, and say why."""
    program = BUILD / "udprelay"
    try:
        go(HERE / "peers" / "udprelay", program)
    except MissingError as why:
        print(f"  udprelay: {why}", flush=True)
        return ""
    return str(program)


def _relay(setup: Setup, size: int) -> list[Outcome]:
    lively: dict[str, list[Result]] = defaultdict(list)
    filled: dict[str, list[Result]] = defaultdict(list)
    program, tailscale = build_relay(), build_udprelay()
    for cast in setup.casts():
        with ExitStack() as stack:
            ends, relays = _start(stack, setup, size, program, tailscale)
            for name, (_, port) in relays.items():
                _expect(name, ends.ask(f"check {port} {CHECKED_TRAINS}"))
            for name, is_counted in cast.turns(list(relays)):
                each, port = relays[name]
                live = _live(name, ends, each, port, setup.length(is_counted=is_counted))
                emptied = _prefilled(name, ends, each, port, size)
                if is_counted:
                    lively[name].append(live)
                    filled[name].append(emptied)
    return [
        outcome
        for kind, results in (("live", lively), ("queue filled", filled))
        for outcome in _judge(size, kind, results)
    ]


def _start(
    stack: ExitStack, setup: Setup, size: int, program: str, tailscale: str
) -> tuple[Process, dict[str, tuple[Relay, int]]]:
    """Start the peers and all relays between them; return them, the latter with their ports."""
    relays: dict[str, tuple[Relay, int]] = {}
    bound: list[int] = []
    if tailscale:  # it chooses the peers' ports: it has shaken hands with them
        process = Relay([tailscale], setup.cores[1])
        answer = stack.enter_context(process).answer()
        port, *bound = answer["ports"]
        if answer["vni"] != VNI:
            raise RuntimeError(f"udprelay binds VNI {answer['vni']}, must be {VNI}")
        relays["udprelay"] = (process, port)
    arguments = [str(each) for each in (size, SEGMENTS, VNI, *bound)]
    ends = stack.enter_context(Process([program, "ends", *arguments], setup.cores[0]))
    one, other = ends.ports()
    commands = {
        "C": [program, "relay", *map(str, (VNI, one, other))],
        "ours": python("relay_ways.py", "ours", VNI, one, other),
        "by hand": python("relay_ways.py", "by-hand", VNI, one, other),
        "C, forward": [program, "forward", str(other)],
        "send_segments(recv_segments())": python("relay_ways.py", "forward", other),
    }
    for name, command in commands.items():
        process = Relay(command, setup.cores[1])
        relays[name] = (process, stack.enter_context(process).ports()[0])
    return ends, relays


def _expect(name: str, result: Result) -> None:
    if result.wrong or result.measured != result.datagrams:
        raise RuntimeError(f"relaying by {name}: {result}")


def _live(name: str, ends: Process, each: Relay, port: int, seconds: float) -> Result:
    before = each.cpu_s()
    result = ends.ask(f"run {port} {seconds} {WINDOW}")
    if result.wrong:
        raise RuntimeError(f"relaying by {name}: {result}")
    return replace(result, cpu=each.cpu_s() - before)


def _prefilled(name: str, ends: Process, each: Relay, port: int, size: int) -> Result:
    train = min(SEGMENTS * (size + HEADER), PAYLOAD)
    trains = min(PREFILL_TRAINS, PREFILL // train)
    cpu, sent, received = 0.0, 0, 0
    for _ in range(PREFILL_CYCLES):
        each.pause()
        before = each.cpu_s()
        sent += ends.ask(f"fill {port} {trains}").datagrams
        each.resume()
        result = ends.ask("collect")
        if result.wrong:
            raise RuntimeError(f"relaying by {name}: {result}")
        received += result.measured
        cpu += each.cpu_s() - before
    return Result(sent, 0, received, 0, 0.0, cpu)


def _judge(size: int, kind: str, results: dict[str, list[Result]]) -> list[Outcome]:
    goals = [
        ("send_segments(recv_segments())", "C, forward", 1.15),
        ("ours", "udprelay", 0.5),
        ("C", "udprelay", None),
        ("ours", "C", None),
        ("ours", "by hand", None),
    ]
    return [
        Outcome(
            f"{size} B {mine} / {theirs}, CPU, {kind}",
            [a.cpu_ns / b.cpu_ns for a, b in zip(results[mine], results[theirs], strict=True)],
            at_most=limit,
            less_is_better=True,
            detail={
                "CPU ns": median(a.cpu_ns for a in results[mine]),
                "other's": median(b.cpu_ns for b in results[theirs]),
                "lost %": _loss(results[mine]),
                "other's %": _loss(results[theirs]),
            },
        )
        for mine, theirs, limit in goals
        if theirs in results
    ]


def _loss(results: list[Result]) -> float:
    sent = sum(each.datagrams for each in results)
    return 100 * (1 - sum(each.measured for each in results) / max(1, sent))
