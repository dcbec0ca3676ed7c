"""The fallback ladder, every cell: of errno, train or datagram, place, call and time.

A cell is one call under a scripted kernel that refuses the first, second or last of three
messages, once or several times in a row.  The kernel notes what it takes, and which single
datagram it refused with what; what the call tells is held against that, and then the call
is resumed with what it left.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import pytest

from batching import Segments, SendBlocked, SendError, SendTimeout, UDPGSODisabledError
from fake_core import FakeKernel, Scene
from seam_rig import needs_gso

pytestmark = needs_gso

CODES = (
    errno.EIO, errno.EINVAL, errno.ENOBUFS, errno.EPERM, errno.EMSGSIZE, errno.EAGAIN, errno.EINTR,
    errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENOMEM,
)  # fmt: skip
AGAIN = {errno.EAGAIN, errno.EINTR, errno.ENOBUFS}  # may be tried once more; others are final
TURNS_GSO_OFF = {errno.EIO, errno.EINVAL, errno.EPERM}
TIMEOUTS = (None, 0.5, 0.0)  # a wait takes a second: the second one is too late
WAYS = ("send_batch", "send_segments", "write_batch_to")
KINDS = ("trains", "singles")
CONDITIONS = list(itertools.product(range(3), (True, False), TIMEOUTS))
Place = tuple[int, int]  # item, its datagram


class Cell(NamedTuple):
    way: str
    kind: str
    codes: tuple[int, ...]
    gap: int  # messages that go out between two refusals
    place: int
    hides: bool
    timeout: float | None

    def __str__(self) -> str:
        names = "+".join(errno.errorcode[code] for code in self.codes)
        return (
            f"{self.way} of {self.kind}, {names} at message {self.place}, gap {self.gap},"
            f" {'hidden' if self.hides else 'told'}, timeout {self.timeout}"
        )


class Witness(FakeKernel):
    """A kernel that notes which single datagram it refused."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Place, int]] = []
        self.addresses: list[Any] = []  # of the call's items

    def attempt(self, plan: Any, descriptor: Any, limit: int) -> tuple[int, int]:
        sent, failure = super().attempt(plan, descriptor, limit)
        if failure and not plan.segment_size():
            address = plan.peer().address
            rows = (row for row in plan.report() if not row[3])
            self.told.append(
                (min((i, k) for i, k, _, _ in rows if self.addresses[i] == address), failure)
            )
        return sent, failure

    def forget(self) -> None:
        for log in (self.taken, self.answers, self.refused, self.told, self.script):
            log.clear()


class Outcome(NamedTuple):
    """What a call told."""

    sent: int
    failed: dict[Place, int]
    unsent: list[Place]
    error: SendError | None
    disabled: int  # errno of UDPGSODisabledError


@contextlib.contextmanager
def witnessed(backend: Any) -> Iterator[tuple[Scene, Witness]]:
    kernel = Witness()
    with contextlib.closing(Scene(backend, kernel)) as on:
        yield on, kernel


def load(on: Scene, cell: Cell) -> list[Segments]:
    """Return what makes three messages; each item a train for send_segments, else a datagram.

    To one address a short datagram closes a train, and one that is longer opens the next.
    """
    if cell.way == "send_segments":
        return [Segments(bytes(25 if cell.kind == "trains" else 10), 10, to) for to in on.all]
    if cell.way == "send_batch":
        n = 3 if cell.kind == "trains" else 1
        return [Segments(bytes(10), 10, to) for _ in range(n) for to in on.all]
    sizes = [10, 10, 5] * 3 if cell.kind == "trains" else [10, 20, 30]
    return [Segments(bytes(size), size, on.a) for size in sizes]


def call(on: Scene, way: str, items: list[Segments]) -> Outcome:
    error: SendError | None = None
    disabled, sent = 0, sum(len(item) for item in items)
    try:
        if way == "send_segments":
            assert on.conn.send_segments(items) == sent
        elif way == "send_batch":
            assert on.conn.send_batch([(item.data, item.addr) for item in items]) == sent
        else:
            on.conn.write_batch_to([item.data for item in items], on.a)
    except UDPGSODisabledError as caught:
        disabled, retry = caught.errno or 0, caught.retry_err
        error = cast("SendError | None", retry)
    except SendError as caught:
        error = caught
    if error is None:
        return Outcome(sent, {}, [], None, disabled)
    return Outcome(error.sent, *_fates(items, error), error, disabled)


def _fates(items: list[Segments], error: SendError) -> tuple[dict[Place, int], list[Place]]:
    failed: dict[Place, int] = {}
    unsent = [(i, k) for i in error.unsent for k in range(len(items[i]))]
    for i, own in error.errors.items():
        codes: Iterable[tuple[int, OSError]] = [(k, own) for k in range(len(items[i]))]
        if isinstance(own, SendError):
            codes = own.errors.items()
            unsent += [(i, k) for k in own.unsent]
            assert own.sent + len(own.errors) + len(own.unsent) == len(items[i])
            assert own.sent or len(own.errors) < len(items[i]) or len(_numbers(own)) > 1
        for k, e in codes:
            assert e.errno
            assert type(e) is type(OSError(e.errno, ""))
            failed[i, k] = e.errno
    assert list(error.unsent) == sorted(set(error.unsent))
    return failed, sorted(unsent)


def _numbers(error: SendError) -> set[int | None]:
    return {e.errno for e in error.errors.values()}


def take(on: Scene, kernel: Witness) -> list[Place]:
    """Return what was taken, in order per address asserted."""
    for to in on.all:
        assert kernel.order(to) == sorted(set(kernel.order(to)))
    return sorted((item, datagram) for _, item, datagram in kernel.taken)


def check_told(kernel: Witness, told: Outcome, taken: list[Place], whole: list[Place]) -> None:
    """Hold what a call told against what the kernel did."""
    assert sorted([*taken, *told.failed, *told.unsent]) == whole
    assert told.sent == len(taken)
    last = dict(kernel.told)
    assert told.failed == {at: last.get(at) for at in told.failed}
    final = [at for at, code in kernel.told if code not in AGAIN]
    assert len(final) == len(set(final)), "a datagram was tried again after a final errno"
    assert set(final) <= set(told.failed)


def check_end(kernel: Witness, cell: Cell, told: Outcome) -> None:
    """Hold the kind of error against how much time the call had."""
    kind: type[SendError] = SendError
    if told.unsent:
        kind = SendBlocked if cell.timeout == 0 else SendTimeout
        assert cell.timeout is not None, "a blocking call left something"
        assert kernel.answers[-1][1] == errno.EAGAIN
    if told.error:
        assert type(told.error) is kind
        if kind is SendError:
            assert told.error.errno == told.error.errors[min(told.error.errors)].errno
    assert not set(told.failed.values()) & {errno.EAGAIN, errno.EINTR}


def resume(on: Scene, kernel: Witness, items: list[Segments], told: Outcome) -> list[Place]:
    """Send what was left, whole trains as such; return what of it was taken."""
    kernel.forget()
    on.waiter.timeout = None
    whole = list(told.error.unsent) if told.error else []
    parts = [(i, k) for i, k in told.unsent if i not in whole]
    places = [[(i, k) for k in range(len(items[i]))] for i in whole] + [[at] for at in parts]
    again = [items[i] for i in whole] + [
        Segments(items[i][k], items[i].segment_size, items[i].addr) for i, k in parts
    ]
    kernel.addresses = [item.addr for item in again]
    assert on.conn.send_segments(again) == len(told.unsent)
    return sorted(places[item][datagram] for item, datagram in take(on, kernel))


def run(on: Scene, kernel: Witness, cell: Cell) -> None:
    on.clock.now += 31
    on.descriptor.on_wait.clear()
    on.descriptor.waits.clear()
    on.waiter.timeout = None
    on.conn.send_batch([(b"", on.c)])  # which forgets what the cell before taught
    kernel.forget()
    kernel.hides = cell.hides
    gaps = [cell.place] + [cell.gap] * (len(cell.codes) - 1)
    kernel.script.extend(zip(gaps, cell.codes, strict=True))
    on.waiter.timeout = cell.timeout
    if cell.timeout:
        on.descriptor.on_wait.extend([lambda: setattr(on.clock, "now", on.clock.now + 1)] * 9)
    items = load(on, cell)
    whole = [(i, k) for i, item in enumerate(items) for k in range(len(item))]
    kernel.addresses = [item.addr for item in items]
    told = call(on, cell.way, items)
    address, size, code = kernel.refused[0]
    assert code == cell.codes[0]
    assert bool(size) == (cell.kind == "trains"), "the cell is not what it is called"
    assert cell.way == "write_batch_to" or address == on.all[cell.place]
    taken = take(on, kernel)
    check_told(kernel, told, taken, whole)
    check_end(kernel, cell, told)
    has_lost_gso = (on.learnt(on.a) or (0, 0))[0] == 1
    is_told = cell.way == "write_batch_to" and has_lost_gso and not told.unsent
    assert (told.disabled in TURNS_GSO_OFF) == bool(told.disabled) == is_told
    assert sorted(taken + resume(on, kernel, items, told) + list(told.failed)) == whole


def run_all(backend: Any, cells: Iterable[Cell]) -> None:
    with witnessed(backend) as (on, kernel):
        for cell in cells:
            try:
                run(on, kernel, cell)
            except Exception as error:
                error.add_note(f"cell: {cell}")
                raise


def in_turn(way: str, kind: str, sequences: list[tuple[int, ...]], n: int) -> Iterator[Cell]:
    """Yield each sequence under ``n`` of the conditions, all of which have their turn."""
    conditions = itertools.cycle(CONDITIONS)
    for count, codes in enumerate(sequences):
        if count % len(CONDITIONS) == 0:
            next(conditions)  # else they would repeat in step with the sequences
        for at in range(n):
            yield Cell(way, kind, codes, (count + at) % 2, *next(conditions))


each_way = pytest.mark.parametrize("way", WAYS)
each_kind = pytest.mark.parametrize("kind", KINDS)
PAIRS: list[tuple[int, ...]] = list(itertools.product(CODES, repeat=2))
TRIPLES: list[tuple[int, ...]] = list(itertools.product(CODES, repeat=3))


@each_kind
@each_way
def test_one_errno_at_every_place_is_told_and_resumed_exactly(
    backend: Any, way: str, kind: str
) -> None:
    run_all(backend, (Cell(way, kind, (code,), 0, *rest) for code in CODES for rest in CONDITIONS))


@each_kind
@each_way
def test_two_errnos_in_a_row_are_told_and_resumed_exactly(
    backend: Any, way: str, kind: str
) -> None:
    run_all(backend, in_turn(way, kind, PAIRS, 2))


@pytest.mark.slow
@each_kind
@each_way
def test_two_errnos_under_every_condition_are_told_and_resumed_exactly(
    backend: Any, way: str, kind: str
) -> None:
    run_all(backend, in_turn(way, kind, PAIRS, len(CONDITIONS)))


@pytest.mark.slow
@each_kind
@each_way
def test_three_errnos_in_a_row_are_told_and_resumed_exactly(
    backend: Any, way: str, kind: str
) -> None:
    run_all(backend, in_turn(way, kind, TRIPLES, 1))
