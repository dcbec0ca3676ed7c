"""A ``Conn`` beside the plain socket, or another one, in one process, block by block."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from outcomes import Outcome
from process import Process, python
from throughput import SIZES, Setup

TRAINS = 32  # what is queued at a time: 2 MB


def single(setup: Setup) -> list[Outcome]:
    outcomes = []
    blocks, calls = 4 * setup.rounds + 1, 2000
    for size in SIZES:
        with ExitStack() as stack:
            command = [*setup.ceiling, "recv", str(size), "8", setup.drain]
            drain = stack.enter_context(Process(command, setup.cores[1]))
            ports = drain.ports()
            drain.tell("live")
            script = python("single.py", ports[0], size, blocks, calls)
            answer = stack.enter_context(Process(script, setup.cores[0])).answer()
        for key, name in (("send", "send_batch / sendto"), ("receive", "recv_batch / recvfrom")):
            pairs = answer[key]
            both = ("wall", "cpu") if key == "send" else ("wall",)
            outcomes += [
                Outcome(
                    f"{size} B: {name}, one, {clock}",
                    [pair[clock] / pair[f"plain_{clock}"] for pair in pairs],
                    at_most=1.1 if key == "send" else 1.15,
                    detail={
                        "ns a call": median(pair[clock] for pair in pairs),
                        "plain": median(pair[f"plain_{clock}"] for pair in pairs),
                    },
                )
                for clock in both
            ]
    return outcomes


def latency(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in SIZES:
        with ExitStack() as stack:
            ports = [
                stack.enter_context(
                    Process(python("latency.py", "echo", way), setup.cores[1])
                ).ports()[0]
                for way in ("plain", "conn")
            ]
            script = python("latency.py", "ping", *ports, size, 2 * setup.rounds + 1, 1000)
            pairs = stack.enter_context(Process(script, setup.cores[0])).answer()["pairs"]
        outcomes.append(
            Outcome(
                f"{size} B: ping-pong / plain, p50",
                [pair["ours"] / pair["plain"] for pair in pairs],
                at_most=1.05,
                detail={
                    "us": median(pair["ours"] for pair in pairs) / 1000,
                    "plain": median(pair["plain"] for pair in pairs) / 1000,
                },
            )
        )
    return outcomes


def metadata(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in SIZES:
        script = python("metadata.py", size, 8 * setup.rounds + 1, TRAINS)
        with Process(script, setup.cores[0]) as process:
            pairs = process.answer()["pairs"]
        outcomes.append(
            Outcome(
                f"{size} B: recv_segments, everything told / nothing, CPU, queue filled",
                [pair["on"] / pair["off"] for pair in pairs],
                at_most=1.1 if size == SIZES[0] else None,
                less_is_better=True,
                detail={
                    "ns a datagram": median(pair["on"] for pair in pairs),
                    "nothing": median(pair["off"] for pair in pairs),
                },
            )
        )
    return outcomes
