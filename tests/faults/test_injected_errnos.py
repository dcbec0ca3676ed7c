"""Errnos that a shim puts in front of a real kernel: what arrives is what was told.

A child sends over loopback to plain sockets in here, which see every datagram that is not
told as failed exactly once, whole, and in the order of its destination; what the first call
left unsent, the child has sent by a second one.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from loopback import PlainPeer, needs_gso, needs_room
from shim import FaultyKernel
from shim import faulty as faulty

pytestmark = [needs_gso, needs_room]

CODES = (
    errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.EPERM, errno.EMSGSIZE, errno.EAGAIN, errno.EINTR,
    errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOMEM,
)  # fmt: skip
AGAIN = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS)
TEACHES = (errno.EIO, errno.EINVAL, errno.EPERM, errno.EMSGSIZE)
WAYS = ("send_batch", "send_segments", "write_batch_to")
N_PEERS = 3
SOON_S = 0.003
LONG_S = 15.0


class Cell(NamedTuple):
    """A call, and the rules of its kernel."""

    name: str
    way: str
    timeout: float | None
    rules: str
    items: list[tuple[bytes, int, int]]  # data, segment size, peer

    def datagrams(self) -> list[tuple[bytes, int]]:
        return [
            (data[at : at + size], peer)
            for data, size, peer in self.items
            for at in range(0, len(data), size)
        ]


@pytest.fixture
def peers() -> Iterator[list[PlainPeer]]:
    with ExitStack() as stack:
        yield [stack.enter_context(PlainPeer()) for _ in range(N_PEERS)]


def tagged(number: int, index: int, size: int) -> bytes:
    """Return a datagram that tells its cell and its place, in every part of it."""
    return (struct.pack("!IH", number, index) * (size // 6 + 1))[:size]


def made(number: int, way: str, kind: str) -> list[tuple[bytes, int, int]]:
    """Return three messages: to one peer each, or for write_batch_to all to the first."""
    if way == "send_segments":
        n = 3 if kind == "trains" else 1
        trains = [[tagged(number, 3 * i + k, 12) for k in range(n)] for i in range(N_PEERS)]
        return [(b"".join(train), 12, i) for i, train in enumerate(trains)]
    sizes = [12] * (9 if kind == "trains" else 3)
    if way == "write_batch_to":  # a shorter one closes a train, a longer one opens the next
        sizes = [12, 12, 9] * 3 if kind == "trains" else [12, 18, 24]
    to_one = way == "write_batch_to"
    return [
        (tagged(number, i, size), size, 0 if to_one else i % N_PEERS)
        for i, size in enumerate(sizes)
    ]


def refusals(way: str, kind: str, place: int, codes: tuple[int, ...], count: int, gap: int) -> str:
    """Return rules that refuse message ``place``, and then what comes ``gap`` behind it."""
    train, to = int(kind == "trains"), "{0}" if way == "write_batch_to" else f"{{{place}}}"
    skip = place if way == "write_batch_to" else 0
    first = f"send errno={codes[0]} count={count} train={train} port={to} skip={skip}"
    more = (f"send errno={code} port={to} then=1 skip={gap}" for code in codes[1:])
    return ";".join([first, *more])


def run(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer], cells: list[Cell]
) -> Any:
    """Let a child make all calls; check each, and what arrived in all."""
    ports = [peer.address[1] for peer in peers]
    results = faulty.run(
        backend,
        "send",
        cells=[
            {
                "timeout": cell.timeout,
                "way": cell.way,
                "rules": cell.rules.format(*ports),
                "items": [(data.hex(), size, ports[peer]) for data, size, peer in cell.items],
                "is_connected": cell.way == "write_batch_to" and count % 2 == 1,
            }
            for count, cell in enumerate(cells)
        ],
    )
    for cell, told in zip(cells, results, strict=True):
        check_account(cell, told)
    for number, peer in enumerate(peers):
        expected = [
            (cell.name, data)
            for cell, told in zip(cells, results, strict=True)
            for i, (data, to) in enumerate(cell.datagrams())
            if to == number and i not in dict(told["failed"])
        ]
        for (name, data), came in zip(expected, peer.collect(len(expected)), strict=True):
            assert came == data, f"{name}: {came.hex()} came to peer {number}, not {data.hex()}"
    return results


def check_account(cell: Cell, told: dict[str, Any]) -> None:
    """Check that a call's account is complete, and of the right kind."""
    where = f"{cell.name}: {told}"
    n = len(cell.datagrams())
    failed = dict(told["failed"])
    assert told["sent"] + len(failed) + len(told["unsent"]) == n, where
    assert not set(failed) & set(told["unsent"]), where
    assert told["counted"] == told["sent"], where
    assert not set(failed.values()) & {errno.EAGAIN, errno.EINTR}, where
    assert bool(told["kind"]) == bool(failed or told["unsent"]), where
    if told["unsent"]:
        assert not told["disabled"], where
        assert told["kind"] == ("SendTimeout" if cell.timeout else "SendBlocked"), where
        assert cell.timeout is not None, where
    elif failed:
        assert (told["kind"], told["errno"]) == ("SendError", failed[min(failed)]), where


# One errno


def alone() -> Iterator[tuple[Cell, int, str, int]]:
    """Yield cells with one errno each, and its errno, kind and place."""
    matrix = itertools.product(CODES, ("trains", "singles"), range(3), WAYS, (None, LONG_S, 0.0))
    for number, (code, kind, place, way, timeout) in enumerate(matrix):
        count = 1
        if code == errno.EAGAIN and timeout:
            timeout, count = SOON_S, 0  # noqa: PLW2901 - it is to run out
        name = f"{way} of {kind}, {errno.errorcode[code]} at message {place}, timeout {timeout}"
        rules = refusals(way, kind, place, (code,), count, 0)
        yield Cell(name, way, timeout, rules, made(number, way, kind)), code, kind, place


def expected_of(cell: Cell, code: int, kind: str, place: int) -> tuple[dict[int, int], bool]:
    """Return which datagrams fail, and whether the call ends early."""
    if code == errno.EAGAIN:
        return {}, cell.timeout is not None
    is_paused_for = code == errno.ENOBUFS and cell.timeout != 0
    if kind == "trains" or code == errno.EINTR or is_paused_for:
        return {}, False
    return {place: code}, False


def test_one_errno_costs_what_a_plain_socket_would_lose(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer]
) -> None:
    rows = list(alone())
    results = run(faulty, backend, peers, [cell for cell, *_ in rows])
    for (cell, code, kind, place), told in zip(rows, results, strict=True):
        failed, ends = expected_of(cell, code, kind, place)
        assert (dict(told["failed"]), bool(told["unsent"])) == (failed, ends), cell.name
        assert min(told["used"]) >= 1, f"{cell.name}: nothing was refused"
        teaches = kind == "trains" and code in TEACHES
        assert told["fallbacks"] == ({errno.errorcode[code]: 1} if teaches else {}), cell.name
        is_told = teaches and code != errno.EMSGSIZE and cell.way == "write_batch_to"
        assert told["disabled"] == (code if is_told else 0), cell.name


# Several


def several(length: int, n: int) -> Iterator[Cell]:
    """Yield every sequence of errnos under ``n`` of the conditions, which take turns."""
    conditions = itertools.cycle(
        itertools.product(("trains", "singles"), range(3), WAYS, (None, 0.0), (0, 1))
    )
    sequences = (codes for codes in itertools.product(CODES, repeat=length) for _ in range(n))
    for number, codes in enumerate(sequences):
        kind, place, way, timeout, gap = next(conditions)
        names = "+".join(errno.errorcode[code] for code in codes)
        name = f"{way} of {kind}, {names} at message {place}, gap {gap}, timeout {timeout}"
        rules = refusals(way, kind, place, codes, 1, gap)
        yield Cell(name, way, timeout, rules, made(number, way, kind))


def test_two_errnos_in_a_row(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer]
) -> None:
    for told in run(faulty, backend, peers, list(several(2, 3))):
        assert told["used"][0] == 1


@pytest.mark.slow
def test_three_errnos_in_a_row(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer]
) -> None:
    for told in run(faulty, backend, peers, list(several(3, 1))):
        assert told["used"][0] == 1


def storms() -> Iterator[Cell]:
    """Yield what comes many times, or cuts a call short."""
    rules = {
        "EINTR storm": f"send errno={errno.EINTR} count=50",
        "EAGAIN storm, poll says writable": f"send errno={errno.EAGAIN} count=50",
        "EAGAIN, and poll wakes for nothing": f"send errno={errno.EAGAIN} count=5;"
        f"poll lie=0 count=3;poll errno={errno.EINTR} count=2",
        "short counts of one": "short most=1 count=20",
        "a short count of two": "short most=2 count=1",
        "EINTR in between": f"short most=1 count=1;send errno={errno.EINTR} skip=1",
        "an errno that a short count loses": f"send errno={errno.EHOSTUNREACH} skip=1 lost=1",
        "one datagram's head": f"send errno={errno.EPERM} count=0 train=0 head=HEAD",
    }
    number = itertools.count()
    for (name, text), kind, way in itertools.product(rules.items(), ("trains", "singles"), WAYS):
        items = made(next(number), way, kind)
        head = items[0][0][:6].hex()
        yield Cell(f"{name}, {way} of {kind}", way, None, text.replace("HEAD", head), items)


def test_storms_and_short_counts_lose_nothing(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer]
) -> None:
    cells = list(storms())
    for cell, told in zip(cells, run(faulty, backend, peers, cells), strict=True):
        if "head=" in cell.rules:
            expected = {} if "trains" in cell.name else {0: errno.EPERM}
            assert dict(told["failed"]) == expected, cell.name
        elif "lost" in cell.rules:
            at_most = 0 if "trains" in cell.name or backend.__name__.endswith("_mmsg") else 1
            assert len(told["failed"]) == at_most, cell.name
        else:
            assert told["failed"] == [], cell.name
        assert told["unsent"] == []
        if "storm" in cell.name:
            assert told["used"] == [50], cell.name


# At random


def random_cell(rng: random.Random, number: int) -> Cell:
    way = rng.choice(WAYS)
    sizes = [rng.choice([6, 60, 60, 60, 100, 700]) for _ in range(rng.randrange(1, 30))]
    items = []
    for index, size in enumerate(sizes):
        peer = 0 if way == "write_batch_to" else rng.randrange(N_PEERS)
        n = rng.randrange(1, 9) if way == "send_segments" else 1
        data = b"".join(tagged(number, 16 * index + k, size) for k in range(n))
        items.append((data[: len(data) - rng.choice([0, 0, 1]) * (n > 1)], size, peer))
    rules = []
    for _ in range(rng.randrange(1, 6)):
        if rng.random() < 0.1:
            rules.append(f"short most={rng.randrange(1, 5)} count={rng.randrange(1, 5)}")
            continue
        rule = f"send errno={rng.choice(CODES)} count={rng.randrange(1, 5)}"
        rule += f" skip={rng.randrange(6)} lost={rng.randrange(2)} train={rng.randrange(-1, 2)}"
        rules.append(rule + rng.choice(["", " port={0}", " port={1}", " then=1"]))
    return Cell(f"cell {number}", way, rng.choice([None, SOON_S, 0.0]), ";".join(rules), items)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
def test_random_errnos_against_random_batches(
    faulty: FaultyKernel, backend: ModuleType, peers: list[PlainPeer], turn: int
) -> None:
    seed = int(os.environ.get("FAULTS_SEED", "0")) or random.randrange(1, 1 << 32)
    print(f"FAULTS_SEED={seed} makes the same again")  # pytest shows it when the test fails
    rng = random.Random(f"{seed} {turn}")
    run(faulty, backend, peers, [random_cell(rng, number) for number in range(150)])
