"""A scripted kernel under the real core: it plays any sequence of (sent, errno).

Planning, splitting, cutting anew, skipping and reporting are the real SendPlan's of
whichever back end; only what the kernel answers is the script's.  What the script takes
is sent for real, a message at a time, to sockets that nobody reads, so that the plan's
position moves exactly.  Waits are recorded and cost no time but the clock's.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from batching import Conn, SendError, _conn, _sender, _waiter
from batching._portable import dispatcher
from batching.offload import Offload

ALL = 10**6  # messages: as many as there are
MAX_SEGMENTS = 64
Rule = Callable[[Any, int], int]  # (address, segment size; 0: single) → errno or 0


class Clock:
    """A clock that goes on only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeKernel:
    """What sendmmsg answers: the script's entries first, after them what a rule says.

    Args:
        script: (messages taken, errno of the one after them).
        rule: The errno of a message.
        hides: A short count drops its errno, and the next call tells it, as sendmmsg's
            does; else both are told, as the portable back end does.
    """

    def __init__(self, *script: tuple[int, int], rule: Rule | None = None, hides: bool = True):
        self.script = deque(script)
        self.rule = rule or (lambda _address, _size: 0)
        self.hides = hides
        self.taken: list[tuple[Any, int, int]] = []  # address, item, its datagram
        self.answers: list[tuple[int, int]] = []
        self.refused: list[tuple[Any, int, int]] = []  # address, segment size, errno

    def attempt(self, plan: FakePlan, descriptor: FakeDescriptor, limit: int) -> tuple[int, int]:
        if descriptor.closed:
            return 0, errno.EBADF
        limit = min(limit, plan.left)
        most, failure = self.script.popleft() if self.script else (ALL, 0)
        sent = 0
        while sent < min(most, limit):
            if code := self.rule(plan.peer().address, plan.segment_size()):
                failure = code
                break
            self.taken += plan.pass_on(descriptor)
            sent += 1
        if sent == limit:
            failure = 0  # of a message that is not there
        elif sent and failure and self.hides:
            if sent == most:
                self.script.appendleft((0, failure))
            failure = 0
        if failure:
            self.refused.append((plan.peer().address, plan.segment_size(), failure))
        self.answers.append((sent, failure))
        return sent, failure

    def order(self, address: Any) -> list[tuple[int, int]]:
        """Return (item, its datagram) of all that was taken for ``address``, in order."""
        return [(item, datagram) for to, item, datagram in self.taken if to == address]

    def items(self) -> list[int]:
        """Return the items of which datagrams were taken, ascending, one a datagram."""
        return sorted(item for _, item, _ in self.taken)


class FakePlan:
    """A real SendPlan whose attempts a FakeKernel answers."""

    def __init__(self, plan: Any, kernel: FakeKernel) -> None:
        self._plan = plan
        self._kernel = kernel

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)

    def attempt(self, descriptor: Any, limit: int = 1024) -> tuple[int, int]:
        return self._kernel.attempt(self, descriptor, limit)

    def pass_on(self, descriptor: FakeDescriptor) -> list[tuple[Any, int, int]]:
        """Send one message; return its datagrams, found by what the report lacks then."""
        address, before, count = self.peer().address, self._open(), self.datagrams_sent
        assert self._plan.attempt(descriptor.real, 1) == (1, 0)
        gone = sorted(before - self._open())
        assert len(gone) == self.datagrams_sent - count
        return [(address, item, datagram) for item, datagram in gone]

    def _open(self) -> set[tuple[int, int]]:
        return {(item, i) for item, first, n, _ in self.report() for i in range(first, first + n)}


class FakeDescriptor:
    """A descriptor whose waits are recorded, and pass at once.

    ``on_wait`` are called one a wait, in turn; with none left a wait for no event is a
    pause and lasts as long as was asked, and one for an event finds it there.
    """

    def __init__(self, real: Any, clock: Clock) -> None:
        self.real = real
        self.clock = clock
        self.ticket = 0
        self.closed = False
        self.waits: list[tuple[int, float]] = []  # events, seconds
        self.on_wait: deque[Callable[[], object]] = deque()

    def wait(self, events: int, timeout_s: float, ticket: int) -> None:
        if self.closed or ticket != self.ticket:
            return
        self.waits.append((events, timeout_s))
        assert len(self.waits) < 1000, "waits without an end"
        if self.on_wait:
            self.on_wait.popleft()()
        elif not events:
            self.clock.now += timeout_s

    def kick(self) -> None:
        self.ticket += 1

    def close(self) -> None:
        self.closed = True
        self.ticket += 1
        self.real.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def __enter__(self) -> Any:
        return self.real.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self.real.__exit__(*exc_info)


class Scene:
    """A Conn on the fakes, and three destinations: ``a``, ``b``, ``c``."""

    def __init__(self, backend: Any, kernel: FakeKernel, timeout: float | None = None) -> None:
        self.kernel = kernel
        self.clock = Clock()
        self._patches = contextlib.ExitStack()
        for module, name, fake in (
            (_sender, "Dispatcher", dispatcher.Dispatcher),  # of plans from here, not from its own:
            (dispatcher, "SendPlan", lambda *args: FakePlan(backend.SendPlan(*args), kernel)),
            (_waiter, "Descriptor", lambda s: FakeDescriptor(backend.Descriptor(s), self.clock)),
            (_conn, "Counters", backend.Counters),
            (_conn, "Peers", backend.Peers),
            (_conn, "RecvSlots", backend.RecvSlots),
        ):
            self._patches.enter_context(mock.patch.object(module, name, fake))
        self._sinks = [self._patches.enter_context(bound()) for _ in range(3)]
        self.a, self.b, self.c = self.all = [sink.getsockname() for sink in self._sinks]
        sock = bound()
        sock.settimeout(timeout)
        offload = Offload(True, False, MAX_SEGMENTS, "native", ())
        self.conn = Conn(sock, offload, 1024, None)
        waiter: Any = self.conn._waiter
        waiter.clock = self.clock
        self.waiter = waiter
        self.descriptor = waiter.descriptor

    def send(self, datagrams: Any) -> SendError | None:
        """Return what send_batch raises; check that it accounts for every datagram once."""
        already, items = len(self.kernel.taken), list(datagrams)
        error = None
        try:
            assert self.conn.send_batch(items) == len(items)
        except SendError as caught:
            error = caught
        self.check(items, self.kernel.taken[already:], error)
        return error

    def check(self, items: list[Any], taken: list[Any], error: SendError | None) -> None:
        sent = [item for _, item, _ in taken]
        failed = list(error.errors) if error else []
        unsent = list(error.unsent) if error else []
        assert sorted(sent + failed + unsent) == list(range(len(items)))
        assert unsent == sorted(unsent)
        assert (error.sent if error else len(items)) == len(sent)
        for address in self.all:
            own = [item for to, item, _ in taken if to == address]
            assert own == sorted(own)
            assert all(items[item][1] == address for item in own)

    def learnt(self, address: Any) -> tuple[int, int] | None:
        """Return (max_segments, max_segment_size) if they are not what they were at first."""
        peer = self.conn._sender.peers.get(address)
        limits = peer.max_segments, peer.max_segment_size
        return None if limits == (MAX_SEGMENTS, 65535) else limits

    def close(self) -> None:
        self.conn.close()
        self._patches.close()


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


@contextlib.contextmanager
def scene(
    backend: Any,
    *script: tuple[int, int],
    rule: Rule | None = None,
    hides: bool = True,
    timeout: float | None = None,
) -> Iterator[Scene]:
    """Give a Scene whose kernel plays ``script``, then heeds ``rule``."""
    kernel = FakeKernel(*script, rule=rule, hides=hides)
    with contextlib.closing(Scene(backend, kernel, timeout)) as made:
        yield made
