"""anyio's UDP socket as a contender: the roles of contender.py, on anyio's asyncio.

anyio_socket.py send|recv|echo|forward|ping anyio SIZE ...

Its socket keeps 100 datagrams that nobody has asked for yet and drops the oldest then, without
a word; what is lost so is lost in the comparison, too.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter

import anyio
from anyio.abc import SocketAttribute, UDPSocket
from child import (
    LONGEST_MARK,
    RECEIVE_BUFFER,
    Address,
    Clocks,
    commands,
    destination,
    host,
    pattern,
    say,
    send_mark,
    sizes_of,
    unbound,
)
from event_loop import answer_cpu
from pace import say_times, starts
from senders import Pair, deal

from batching.cli.machine import force_receive_buffer

FLUSH_S = 0.02  # of quiet


async def bound() -> tuple[UDPSocket, int]:
    udp = await anyio.create_udp_socket(socket.AF_INET, local_host=host())
    force_receive_buffer(udp.extra(SocketAttribute.raw_socket), RECEIVE_BUFFER)
    return udp, udp.extra(SocketAttribute.local_port)


async def unbound_anyio() -> UDPSocket:
    return await anyio.create_udp_socket(socket.AF_INET)


# ---- sending ----


async def send_pairs(udp: UDPSocket, pairs: list[Pair]) -> None:
    sendto = udp.sendto
    for data, (address, port) in pairs:
        await sendto(data, address, port)


async def send_for(
    udp: UDPSocket, pairs: list[Pair], seconds: float, calls: int
) -> tuple[int, Clocks]:
    clock, clocks = time.perf_counter, Clocks()
    if seconds > 0:
        calls, end = 0, clocks.wall + seconds
        while clock() < end:
            await send_pairs(udp, pairs)
            calls += 1
    else:
        for _ in range(calls):
            await send_pairs(udp, pairs)
    clocks.stop()
    return calls, clocks


def send(runner: asyncio.Runner, sizes: list[int], count: int, to: list[Address]) -> None:
    udp = runner.run(unbound_anyio())
    batch = deal(sizes, count, to, Counter())
    say(ports=[])
    with unbound() as marker:
        for first, second, *rest in commands():
            if first == "check":
                pairs = deal(sizes, int(second), to, Counter())
                _, clocks = runner.run(send_for(udp, pairs, 0, 1))
                calls, datagrams = 1, len(pairs)
            else:
                calls, clocks = runner.run(send_for(udp, batch, float(first), int(second)))
                datagrams = calls * count
            send_mark(marker, int(rest[0]) if rest else 0, to)
            clocks.say(datagrams=datagrams, calls=calls, measured=datagrams)


# ---- receiving ----


async def receive_to_mark(udp: UDPSocket, *, is_live: bool) -> None:
    receive = udp.receive
    measured, data = 0, b""
    if is_live:  # the clocks start behind what came first
        data, _ = await receive()
    total = int(len(data) > LONGEST_MARK)
    clocks = Clocks()
    while not is_live or total:
        data, _ = await receive()
        if len(data) <= LONGEST_MARK:
            break
        measured += 1
    clocks.stop()
    clocks.say(datagrams=total + measured, calls=measured, measured=measured)


async def compare(udp: UDPSocket, sizes: list[int]) -> None:
    number, wrong, clocks = 0, 0, Clocks()
    while len(data := (await udp.receive())[0]) > LONGEST_MARK:
        wrong += data != pattern(number, sizes[number % len(sizes)])
        number += 1
    clocks.stop()
    clocks.say(datagrams=number, calls=number, measured=number, wrong=wrong)


async def flush(udp: UDPSocket) -> None:
    """Throw away what is queued, in the kernel and in the socket."""
    is_quiet = False
    while not is_quiet:
        with anyio.move_on_after(FLUSH_S) as scope:
            await udp.receive()
        is_quiet = scope.cancelled_caught
    say()


def receive(runner: asyncio.Runner, sizes: list[int]) -> None:
    udp, port = runner.run(bound())
    say(ports=[port])
    for (command,) in commands():
        if command == "flush":
            runner.run(flush(udp))
        elif command == "check":
            runner.run(compare(udp, sizes))
        else:
            runner.run(receive_to_mark(udp, is_live=command == "live"))


# ---- passing on, asking ----


def pass_on(runner: asyncio.Runner, to: Address | None) -> None:
    udp, port = runner.run(bound())
    out = runner.run(unbound_anyio()) if to else udp
    loop = runner.get_loop()

    async def run() -> None:
        async for data, source in udp:
            await out.sendto(data, *(to or source))

    task = loop.create_task(run())
    say(ports=[port])
    answer_cpu(loop)
    loop.run_forever()
    task.cancel()


async def measure(udp: UDPSocket, data: bytes, to: Address, count: int, rate: float) -> None:
    times, clock, cpu = [], time.perf_counter_ns, time.process_time()
    for start in starts(count, rate):  # sleeps, for nothing else is to run
        await udp.sendto(data, *to)
        answer, _ = await udp.receive()
        times.append(clock() - start)
        if answer != data:
            raise RuntimeError("another answer than the request")
    say_times(times, time.process_time() - cpu)


def ping(runner: asyncio.Runner, size: int, to: Address) -> None:
    udp = runner.run(unbound_anyio())
    data = pattern(0, size)
    say(ports=[])
    for count, *rate in commands():
        runner.run(measure(udp, data, to, int(count), float(rate[0]) if rate else 0))


def main(role: str, way: str, size: str, *rest: str) -> None:
    sizes = sizes_of(size)
    with asyncio.Runner() as runner:
        match role, rest:
            case "send", (count, *to):
                send(runner, sizes, int(count), [destination(text) for text in to])
            case "recv", (_,):
                receive(runner, sizes)
            case "echo", (_,):
                pass_on(runner, None)
            case "forward", (_, to):
                pass_on(runner, destination(to))
            case "ping", (to,):
                ping(runner, sizes[0], destination(to))
            case _:
                raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
