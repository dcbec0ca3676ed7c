"""A ``Conn`` beside the plain socket, or another one, in one process, block by block.

Where its memory lies decides there, too, so each cast is a process; its rounds are its blocks.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from outcomes import Outcome
from process import Process, python
from throughput import SIZES, Setup

TRAINS = 32  # what is queued at a time: 2 MB
CALLS = 2000  # a block
PINGS = 1000  # a block
Pairs = list[dict[str, float]]
"""Of each block what ours took, and what the other did."""


def single(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in SIZES:
        answers = [_single(setup, size, len(cast.rounds)) for cast in setup.casts(times=4)]
        for key, name in (("send", "send_batch / sendto"), ("receive", "recv_batch / recvfrom")):
            pairs = [pair for answer in answers for pair in answer[key]]
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


def _single(setup: Setup, size: int, blocks: int) -> dict[str, Pairs]:
    with ExitStack() as stack:
        command = [*setup.ceiling, "recv", str(size), "8", setup.drain]
        drain = stack.enter_context(Process(command, setup.cores[1]))
        ports = drain.ports()
        drain.tell("live")
        script = python("single.py", ports[0], size, blocks, CALLS)
        return stack.enter_context(Process(script, setup.cores[0])).answer()


def latency(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in SIZES:
        pairs = [
            pair
            for cast in setup.casts(times=2)
            for pair in _latency(setup, size, len(cast.rounds))
        ]
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


def _latency(setup: Setup, size: int, blocks: int) -> Pairs:
    with ExitStack() as stack:
        ports = [
            stack.enter_context(Process(python("latency.py", "echo", way), setup.cores[1])).ports()
            for way in ("plain", "conn")
        ]
        script = python("latency.py", "ping", *(port for (port,) in ports), size, blocks, PINGS)
        pairs: Pairs = stack.enter_context(Process(script, setup.cores[0])).answer()["pairs"]
        return pairs


def metadata(setup: Setup) -> list[Outcome]:
    outcomes = []
    for size in SIZES:
        pairs = [
            pair
            for cast in setup.casts(times=8)
            for pair in _metadata(setup, size, len(cast.rounds))
        ]
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


def _metadata(setup: Setup, size: int, blocks: int) -> Pairs:
    with Process(python("metadata.py", size, blocks, TRAINS), setup.cores[0]) as process:
        pairs: Pairs = process.answer()["pairs"]
        return pairs
