"""The groups of a run, by name: what each does, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import beside
import event_loops
import footprint
import relays
import work
from contenders import contenders
from contest import Table, compete
from goals import judge
from outcomes import Outcome
from throughput import SIZES, Setup
from work import Work

Found = Table | Outcome
Group = Callable[[Setup], Iterable[Found]]


def side_by_side(works: Iterable[Work]) -> Group:
    """Return a group of pieces of work, each done by all peers, and the goals that it decides."""

    def run(setup: Setup) -> Iterator[Found]:
        for each in works:
            if setup.is_quick and not each.is_quick:
                continue
            how = setup if each in work.base(each.role) else setup.shorter()
            table = compete(how, each, contenders(how, each))
            yield table
            yield from judge(table)

    return run


def each_size(compare: Callable[[Setup, int], list[Outcome]]) -> Group:
    return lambda setup: (found for size in SIZES for found in compare(setup, size))


GROUPS: dict[str, Group] = {
    "send": side_by_side(work.sending()),
    "receive": side_by_side(work.receiving()),
    "echo": side_by_side(work.base("echo")),
    "forward": side_by_side(work.base("forward")),
    "ping": side_by_side(work.pings()),
    "pair": side_by_side(work.base("pair")),
    "paths": side_by_side(work.over_paths()),
    "relay": relays.relay,
    "single": beside.single,
    "latency": beside.latency,
    "metadata": beside.metadata,
    "memory": footprint.memory,
    "import": footprint.startup,
    "asyncio-receive": each_size(event_loops.receive),
    "asyncio-send": each_size(event_loops.send),
    "asyncio-echo": each_size(event_loops.echo),
    "asyncio-latency": each_size(event_loops.latency),
    "asyncio-quic": event_loops.quic,
}
FAMILIES = {
    "peers": ["send", "receive", "echo", "forward", "ping", "pair", "paths"],
    "asyncio": [name for name in GROUPS if name.startswith("asyncio-")],
}
