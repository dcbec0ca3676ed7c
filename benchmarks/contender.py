"""A contender in Python: one role, one way, as child.py tells.

contender.py send WAY SIZE COUNT DEST...
contender.py recv WAY SIZE COUNT
contender.py echo WAY SIZE COUNT
contender.py forward WAY SIZE COUNT DEST
contender.py ping WAY SIZE DEST

The ways are those of senders.py, receivers.py and passers.py.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter

from child import (
    CALLS_A_LOOK,
    LONGEST_MARK,
    Address,
    Clocks,
    commands,
    destination,
    pattern,
    say,
    send_mark,
    sizes_of,
    skipped,
    unbound,
)
from pace import say_times, starts
from passers import ASKERS, PASSERS, Ask, Step
from receivers import RECEIVERS, Receiver
from senders import SENDERS, Call, Lay, deal


def send(way: str, sizes: list[int], count: int, to: list[Address]) -> None:
    lay = SENDERS[way](count)
    call = lay(deal(sizes, count, to, Counter()))
    say(ports=[])
    with unbound() as marker:
        for first, second, *rest in commands():
            # check N [MARK], or SECONDS CALLS [MARK]
            if first == "check":
                calls, datagrams, clocks = send_patterns(lay, sizes, count, to, int(second))
            else:
                calls, clocks = send_for(call, float(first), int(second))
                datagrams = calls * count
            send_mark(marker, int(rest[0]) if rest else 0, to)
            clocks.say(datagrams=datagrams, calls=calls, measured=datagrams)


def send_for(call: Call, seconds: float, calls: int) -> tuple[int, Clocks]:
    """Call for so many seconds, or, where these are 0, so many times."""
    clock = time.perf_counter
    clocks = Clocks()
    if seconds > 0:
        calls, end = 0, clocks.wall + seconds
        while clock() < end:
            for _ in range(CALLS_A_LOOK):
                call()
            calls += CALLS_A_LOOK
    else:
        for _ in range(calls):
            call()
    clocks.stop()
    return calls, clocks


def send_patterns(
    lay: Lay, sizes: list[int], count: int, to: list[Address], total: int
) -> tuple[int, int, Clocks]:
    calls, sent, clocks = 0, Counter[Address](), Clocks()
    for start in range(0, total, count):
        lay(deal(sizes, min(count, total - start), to, sent))()
        calls += 1
    clocks.stop()
    return calls, sent.total(), clocks


def receive(way: str, sizes: list[int], count: int) -> None:
    receiver = RECEIVERS[way](max(sizes), count)
    say(ports=[receiver.port()])
    for (command,) in commands():
        if command == "flush":
            receiver.flush()
            say()
        elif command in ("check", "sift"):
            compare(receiver, sizes, may_miss=command == "sift")
        else:
            receive_to_mark(receiver, is_live=command == "live")


def receive_to_mark(receiver: Receiver, *, is_live: bool) -> None:
    step = receiver.step
    total = calls = measured = 0
    ended = False
    if is_live:  # the clocks start behind what came first
        total, ended = step()
    clocks = Clocks()
    while not ended:
        count, ended = step()
        measured += count
        calls += 1
    clocks.stop()
    clocks.say(datagrams=total + measured, calls=calls, measured=measured)


def compare(receiver: Receiver, sizes: list[int], *, may_miss: bool) -> None:
    """Receive up to the mark, and compare with the patterns in their order.

    Where some ``may_miss``, each is held against the next pattern that begins as it does.
    """
    number = came = wrong = calls = 0
    ended, clocks = False, Clocks()
    while not ended:
        calls += 1
        for data in receiver.take():
            if len(data) <= LONGEST_MARK:
                ended = True
                continue
            if may_miss:
                number += skipped(data[0], number)
            wrong += data != pattern(number, sizes[number % len(sizes)])
            number += 1
            came += 1
    clocks.stop()
    clocks.say(datagrams=number, calls=calls, measured=came, wrong=wrong)


def pass_on(way: str, size: int, count: int, to: Address | None) -> None:
    """Pass in a thread, so that this one can sleep until it is asked for the CPU time."""
    port, step = PASSERS[way](size, count, to)
    threading.Thread(target=for_ever, args=(step,), daemon=True).start()
    say(ports=[port])
    for _ in commands():
        say(cpu=time.process_time())


def for_ever(step: Step) -> None:
    while True:
        step()


def ping(way: str, size: int, to: Address) -> None:
    data = pattern(0, size)
    ask = ASKERS[way](data, to)
    say(ports=[])
    for count, *rate in commands():
        measure(ask, data, int(count), float(rate[0]) if rate else 0)


def measure(ask: Ask, data: bytes, count: int, rate: float) -> None:
    times, clock, cpu = [], time.perf_counter_ns, time.process_time()
    for start in starts(count, rate):
        answer = ask()
        times.append(clock() - start)
        if answer != data:
            raise RuntimeError("another answer than the request")
    say_times(times, time.process_time() - cpu)


def main(role: str, way: str, size: str, *rest: str) -> None:
    sizes = sizes_of(size)
    match role, rest:
        case "send", (count, *to):
            send(way, sizes, int(count), [destination(text) for text in to])
        case "recv", (count,):
            receive(way, sizes, int(count))
        case "echo", (count,):
            pass_on(way, max(sizes), int(count), None)
        case "forward", (count, to):
            pass_on(way, max(sizes), int(count), destination(to))
        case "ping", (to,):
            ping(way, sizes[0], destination(to))
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
