"""What a round is, all of it, from the seed and the round's number.

Both processes of a round and the run itself make the same plan; nothing of it is sent.
"""

from __future__ import annotations

import random
import socket
from dataclasses import dataclass, field
from typing import Final

from .wire import MAX_CONNS, MAX_THREADS

LO: Final = {"4": ("127.0.0.1", "127.0.0.1"), "6": ("::1", "::1")}
VETH: Final = {"4": ("10.9.0.1", "10.9.0.2"), "6": ("fd09::1", "fd09::2")}  # netns.Link's
SENDING: Final = ("batch", "segments", "to", "single")
RECEIVING: Final = ("all", "limit", "segments", "messages")
_PORTS: Final = range(20000, 60000, 8)

# Where each kind of fault may befall a round.  Of an endpoint, then of the network.
OF_ENDS: Final = ("reopen", "kill", "fork", "signal", "interrupt", "overflow", "full", "errno")
OF_NETWORK: Final = ("refuse", "silence")
OF_LINK: Final = ("mtu", "route", "down", "slow", "queue")
SILENT: Final = ("silence", "down", "queue")  # loses from its start to its stop, and tells nobody
WHOLE_ROUND: Final = ("overflow", "full", "slow", "queue", "signal")


@dataclass(frozen=True)
class Options:
    """What holds for every round of a run."""

    seed: int
    backends: tuple[str, ...] = ("native", "portable")
    has_namespaces: bool = True
    sabotage: str = ""
    only: tuple[str, ...] = ()  # kinds of faults; () for all
    has_shim: bool = True  # tests/faults/shim.c is there to inject errnos


@dataclass(frozen=True)
class Fault:
    """One fault: seconds after the start of the round, and whom it befalls."""

    kind: str
    start_s: float
    stop_s: float
    side: int
    value: int


@dataclass(frozen=True)
class End:
    """One endpoint: a process with a few Conn, and how it uses them."""

    backend: str
    n_conns: int
    senders: int  # threads on each Conn
    readers: int
    main_role: str  # of the thread that signals meet: "send" or "read"
    timeout_s: float | None
    gso: str
    gro: str
    max_segments: int | None
    is_upgraded: bool  # from a plain socket
    is_wildcard: bool
    window: int  # datagrams of a flow that may be on their way
    receive_buffer: int | None = None
    send_buffer: int | None = None
    pause_s: float = 0.0  # before each receiving call
    is_cautious: bool = False  # reads the queue's errors: IP_RECVERR of the plain socket


@dataclass(frozen=True)
class Plan:
    """One round."""

    options: Options
    number: int
    path: str  # "lo" or "veth"
    family: str  # "4", "6" or "dual": IPv6 sockets that speak IPv4
    is_connected: bool
    is_ordered: bool  # each process keeps to one CPU, so that no path reorders
    active_s: float
    mtu: int
    ends: tuple[End, End]
    faults: tuple[Fault, ...] = ()
    port: int = field(default=0)

    @property
    def name(self) -> str:
        return f"seed {self.options.seed} round {self.number}"

    def random(self, *what: object) -> random.Random:
        """Return a stream of its own for each of those who need one."""
        return random.Random(f"{self.options.seed}/{self.number}/{what}")

    def host(self, side: int) -> str:
        hosts = VETH if self.path == "veth" else LO
        return hosts["6" if self.family == "6" else "4"][side]

    def address(self, side: int, conn: int) -> tuple[str, int]:
        return self.host(side), self.port + side * MAX_CONNS + conn

    def socket_family(self, side: int) -> int:
        if self.family == "6" or (self.family == "dual" and self.ends[side].is_wildcard):
            return socket.AF_INET6
        return socket.AF_INET

    def kinds(self) -> set[str]:
        return {fault.kind for fault in self.faults}

    def of_side(self, side: int, *kinds: str) -> list[Fault]:
        return [fault for fault in self.faults if fault.side == side and fault.kind in kinds]

    def __str__(self) -> str:
        ends = " ".join(
            f"{end.backend}[{end.n_conns}x{end.senders}+{end.readers}"
            f" gso={end.gso} gro={end.gro} max={end.max_segments} timeout={end.timeout_s}"
            f"{' upgraded' if end.is_upgraded else ''}{' wildcard' if end.is_wildcard else ''}]"
            for end in self.ends
        )
        faults = " ".join(
            f"{fault.kind}({fault.value})@{fault.side}:{fault.start_s:.2f}-{fault.stop_s:.2f}"
            for fault in self.faults
        )
        return (
            f"round {self.number}: {self.path} IPv{self.family} mtu {self.mtu}"
            f"{' connected' if self.is_connected else ''}{' ordered' if self.is_ordered else ''}"
            f" {self.active_s:.1f} s {ends} faults: {faults or 'none'}"
        )


def make(options: Options, number: int) -> Plan:
    """Return the plan of a round; the first ones have no faults, one for each back end."""
    choose = random.Random(f"{options.seed}/{number}")
    is_plain = number < len(options.backends)
    path = choose.choice(("lo", "veth", "veth")) if options.has_namespaces else "lo"
    family = choose.choice(("4", "6", "dual"))
    is_connected = choose.random() < 0.3
    n_conns = choose.randint(1, MAX_CONNS)
    wildcard = choose.choice(((True, True), (True, False), (False, True)))
    active_s = 0.5 if is_plain else choose.uniform(0.8, 2.0)
    faults = () if is_plain else _faults(choose, options, path, active_s)
    ends = tuple(
        _end(
            choose,
            side,
            options.backends[number] if is_plain else choose.choice(options.backends),
            n_conns if is_connected else choose.randint(1, MAX_CONNS),
            family == "dual" and wildcard[side] and not is_connected,
            faults,
        )
        for side in (0, 1)
    )
    return Plan(
        options=options,
        number=number,
        path=path,
        # What is connected is bound to its one address, and so speaks one family.
        family="4" if family == "dual" and is_connected else family,
        is_connected=is_connected,
        is_ordered=is_plain or choose.random() < 0.6,
        active_s=active_s,
        mtu=choose.choice((1500, 1500, 9000, 1280)),
        ends=(ends[0], ends[1]),
        faults=faults,
        port=_PORTS[number % len(_PORTS)],
    )


def _faults(
    choose: random.Random, options: Options, path: str, active_s: float
) -> tuple[Fault, ...]:
    possible = [*OF_ENDS]
    if options.has_namespaces:
        possible += OF_NETWORK
    if path == "veth":
        possible += [*OF_LINK, "mtu", "route"]  # twice as often: that is where much is learnt
    if not options.has_shim:
        possible.remove("errno")
    if options.only:
        possible = [kind for kind in possible if kind in options.only]
    n = choose.choice((0, 1, 1, 1, 2, 2, 3))
    kinds = {choose.choice(possible) for _ in range(n)} if possible else set()
    if "kill" in kinds:
        kinds -= {"reopen", "fork", "interrupt"}  # it would be told by nobody what they cost
    if "slow" in kinds:
        kinds -= {"queue"}
    if "errno" in kinds:
        kinds -= {"fork"}  # a child would inherit the shim's lock as it happens to be
    found = []
    for kind in sorted(kinds):
        side = choose.randrange(2)
        times = choose.randint(1, 3) if kind in ("refuse", "mtu", "route", "reopen", "fork") else 1
        for i in range(times):
            slot = active_s / times
            start = slot * (i + choose.uniform(0.1, 0.4))
            stop = slot * (i + choose.uniform(0.6, 0.95))
            if kind in WHOLE_ROUND:
                start, stop = 0.0, active_s
            found.append(Fault(kind, start, stop, side, choose.randrange(1 << 16)))
    return tuple(found)


def _end(
    choose: random.Random,
    side: int,
    backend: str,
    n_conns: int,
    is_wildcard: bool,
    faults: tuple[Fault, ...],
) -> End:
    own = {fault.kind for fault in faults if fault.side == side}
    kinds = {fault.kind for fault in faults}
    is_upgraded = choose.random() < 0.25
    readers = choose.randint(1, MAX_THREADS)
    if "kill" in own or "interrupt" in own:
        readers = 1  # what a dying reader had taken is then all behind what it had marked
    receive_buffer = choose.choice((4096, 16384, 65536)) if "overflow" in own else None
    # Below 64 KiB the longest datagrams are refused for good (ENOBUFS), by any socket.
    send_buffer = choose.choice((65536, 131072)) if kinds & {"full", "slow"} else None
    return End(
        backend=backend,
        n_conns=n_conns,
        senders=choose.randint(1, MAX_THREADS),
        readers=readers,
        main_role=choose.choice(("send", "read")),
        timeout_s=choose.choice((None, 0.0, 0.01, 0.2)),
        gso=choose.choice(("auto", "auto", "auto", "off")),
        gro=choose.choice(("auto", "auto", "auto", "off")),
        max_segments=choose.choice((None, None, 1, 2, 7, 64)),
        is_upgraded=is_upgraded,
        is_wildcard=is_wildcard,
        window=choose.choice((8, 64, 200, 500)),
        receive_buffer=receive_buffer,
        send_buffer=send_buffer,
        pause_s=choose.choice((0.0, 0.002, 0.01)) if "overflow" in own else 0.0,
        is_cautious=is_upgraded and "queue" in kinds,
    )
