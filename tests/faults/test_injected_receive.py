"""Faults that a shim puts into receiving from a real kernel: nothing lost, each told once.

A child sends to its own Conn from a plain socket, singly and in trains, and then receives
what waits in the kernel, by each of the three ways, while calls fail, bring little, or
bring messages that are damaged.
"""

from __future__ import annotations

import errno
import itertools
from types import ModuleType
from typing import Any, NamedTuple

from loopback import needs_whole_trains
from shim import FaultyKernel
from shim import faulty as faulty

pytestmark = needs_whole_trains

WAYS = ("recv_batch", "recv_segments", "read_batch")
# Messages: data, segment size (0: a single datagram).  The second and fourth are trains.
MESSAGES = [
    (b"a" * 12, 0),
    (b"b" * 12 + b"c" * 12 + b"d" * 12, 12),
    (b"e" * 20, 0),
    (b"f" * 12 + b"g" * 5, 12),
    (b"h" * 7, 0),
]
DATAGRAMS = [
    data[at : at + (size or len(data))]
    for data, size in MESSAGES
    for at in range(0, len(data), size or len(data))
]
FIRSTS = [0, 1, 4, 5, 7]  # datagrams in front of each message
PLENTY = 100  # calls


class Cell(NamedTuple):
    name: str
    way: str
    rules: str
    timeout: float | None = None
    expected: int = len(DATAGRAMS)
    calls: int = PLENTY
    is_sent: bool = True


def run(faulty: FaultyKernel, backend: ModuleType, cells: list[Cell]) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = faulty.run(
        backend,
        "receive",
        cells=[
            {
                "timeout": cell.timeout,
                "way": cell.way,
                "rules": cell.rules,
                "sent": [(data.hex(), size) for data, size in MESSAGES] if cell.is_sent else [],
                "expected": cell.expected,
                "calls": cell.calls,
            }
            for cell in cells
        ],
    )
    return results


def datagrams(told: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(what) for kind, what in told["events"] if kind in ("whole", "cut")]


def errors(told: dict[str, Any]) -> list[tuple[str, int]]:
    return [(kind, what) for kind, what in told["events"] if isinstance(what, int)]


def assert_all_came(cell: Cell, told: dict[str, Any]) -> None:
    assert datagrams(told) == DATAGRAMS, f"{cell.name}: {told}"
    assert "surplus" not in [kind for kind, _ in told["events"]], f"{cell.name}: {told}"
    assert min(told["used"]) >= 1, f"{cell.name}: nothing was refused"


def test_errno_of_receiving_is_told_as_often_as_met_and_loses_nothing(
    faulty: FaultyKernel, backend: ModuleType
) -> None:
    codes = (errno.ENOMEM, errno.ENOBUFS, errno.ECONNREFUSED)
    cells = [
        Cell(f"{errno.errorcode[code]} {count} times after {skip} messages, {way}", way,
             f"recv errno={code} skip={skip} count={count}", timeout)
        for code, skip, count, way, timeout in itertools.product(
            codes, (0, 1, 3), (1, 2), WAYS, (None, 0.0)
        )
    ]  # fmt: skip
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        assert_all_came(cell, told)
        code, skip, count = (int(field.split("=")[1]) for field in cell.rules.split()[1:])
        kind = type(OSError(code, "")).__name__
        assert errors(told) == [(kind, code)] * count, cell.name
        places = [i for i, (_, what) in enumerate(told["events"]) if what == code]
        assert places == [FIRSTS[skip] + i for i in range(count)], cell.name


def test_interrupted_blocked_and_spurious_receiving_is_not_told(
    faulty: FaultyKernel, backend: ModuleType
) -> None:
    again, interrupted = f"recv errno={errno.EAGAIN}", f"recv errno={errno.EINTR}"
    rules = {
        "EINTR storm": f"{interrupted} count=50",
        "EINTR in between": f"{interrupted} count=3 skip=2",
        "EAGAIN storm while poll says readable": f"{again} count=50",
        "EAGAIN in between": f"{again} count=3 skip=2",
        "poll wakes for nothing": f"{again} count=6;poll lie=0 count=3",
        "poll is interrupted": f"{again} count=6;poll errno={errno.EINTR} count=3",
        "one message a call": "recv most=1 count=0",
        "one message, once": "recv most=1 count=1",
        "one message a call, and EINTR": f"recv most=1 count=0;{interrupted} skip=2",
    }
    cells = [
        Cell(f"{name}, {way}", way, text, timeout)
        for (name, text), way, timeout in itertools.product(rules.items(), WAYS, (None, 5.0))
    ]
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        assert_all_came(cell, told)
        assert errors(told) == [], cell.name


def test_blocked_receiving_is_told_without_blocking_and_at_its_time(
    faulty: FaultyKernel, backend: ModuleType
) -> None:
    cells = [Cell(f"EAGAIN, {way}", way, f"recv errno={errno.EAGAIN} count=3", 0.0) for way in WAYS]
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        assert_all_came(cell, told)
        assert errors(told) == [("BlockingIOError", errno.EAGAIN)] * 3, cell.name
    cells = [
        Cell(f"poll says readable and nothing is, {way}", way, "poll lie=1 count=5", 0.05,
             expected=1, calls=2, is_sent=False)
        for way in WAYS
    ]  # fmt: skip
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        assert told["events"] == [["TimeoutError", errno.ETIMEDOUT]] * 2, cell.name
        assert told["used"] == [5], cell.name
        assert told["calls"] >= 5, cell.name


def test_message_without_its_segment_size_is_not_delivered_as_one(
    faulty: FaultyKernel, backend: ModuleType
) -> None:
    cells = [
        Cell(f"MSG_CTRUNC, message {skip}, {way}", way, f"recv blind=1 skip={skip}", 0.0, calls=9)
        for skip, way in itertools.product((0, 1), WAYS)
    ]
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        lost = int(cell.rules[-1])
        expected = DATAGRAMS[: FIRSTS[lost]] + DATAGRAMS[FIRSTS[lost + 1] :]
        assert datagrams(told) == expected, f"{cell.name}: {told}"
        assert (told["control_truncated"], told["logged"]) == (1, 1), cell.name
        assert {kind for kind, _ in errors(told)} <= {"BlockingIOError"}, cell.name


def test_message_cut_short_keeps_its_segments_and_says_so(
    faulty: FaultyKernel, backend: ModuleType
) -> None:
    cut, blind = "recv cut=20 skip=1", "recv blind=0 skip=1"
    cells = [
        Cell(f"{rule}, {way}", way, rule, 0.0, calls=9) for rule in (cut, blind) for way in WAYS
    ]
    for cell, told in zip(cells, run(faulty, backend, cells), strict=True):
        if cell.rules == blind:  # the segment size is there, so nothing is in doubt
            assert_all_came(cell, told)
            assert told["control_truncated"] == 1
            continue
        marks = [kind for kind, _ in told["events"] if kind in ("whole", "cut")]
        expected = [*DATAGRAMS[:2], DATAGRAMS[2][:8], *DATAGRAMS[4:]]
        assert datagrams(told) == expected, cell.name
        tells = [] if cell.way == "recv_batch" else [2]
        assert [i for i, mark in enumerate(marks) if mark == "cut"] == tells, cell.name
        assert told["truncated"] == 1, cell.name
