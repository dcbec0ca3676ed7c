"""Policy of receiving, over scripted slots and a clock that goes on only when told."""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from batching import _waiter
from batching._kernel import MSG_DONTWAIT, MSG_WAITFORONE
from batching._receiver import Receiver
from batching._waiter import POLLIN, Waiter
from batching.metrics import Counter
from fake_core import Clock, FakeDescriptor, bound

MSG_PEEK = int(socket.MSG_PEEK)
NOTHING = 0, errno.EAGAIN


class FakeSlots:
    """RecvSlots of which each attempt brings (datagrams, errno), as scripted.

    ``overflows`` is what the last attempt's third entry said, if it had one.
    """

    def __init__(self, *script: tuple[int, ...]) -> None:
        self.script = deque(script)
        self.pending = 0
        self.overflows = 0
        self.ticket = 0
        self.n_attempts = 0
        self.n_shrinks = 0
        self.checked: list[Any] = []

    @property
    def has_pending(self) -> bool:
        return self.pending > 0

    def attempt(self, descriptor: Any) -> tuple[int, int]:
        if descriptor.closed:
            return 0, errno.EBADF
        if self.pending:
            return self.pending, 0
        self.ticket = descriptor.ticket
        self.n_attempts += 1
        entry = self.script.popleft() if self.script else NOTHING
        self.pending = entry[0]
        if len(entry) > 2:
            self.overflows = entry[2]
        return entry[0], entry[1]

    def _take(self, n: int) -> int:
        taken = min(n, self.pending)
        self.pending -= taken
        return taken

    def take(self, limit: int = 0) -> list[str]:
        return ["datagram"] * self._take(limit or self.pending)

    def take_segments(self) -> list[str]:
        return ["train"] * self._take(self.pending)

    def take_into(self, msgs: Any) -> int:
        return self._take(len(msgs))

    def check(self, msgs: Any) -> None:
        self.checked.append(msgs)
        if "unfit" in msgs:
            raise ValueError("message 0: unfit")

    def shrink(self) -> None:
        self.n_shrinks += 1

    def after_fork(self) -> None:
        pass


class Scene:
    """A Receiver on the fakes."""

    def __init__(self, backend: Any) -> None:
        self.clock = Clock()
        self.counter = Counter()

        def fake(sock: socket.socket) -> FakeDescriptor:
            return FakeDescriptor(backend.Descriptor(sock), self.clock)

        with mock.patch.object(_waiter, "Descriptor", fake):
            waiter: Any = Waiter(bound(), self.clock)
        self.waiter = waiter
        self.descriptor = waiter.descriptor
        self.script()

    def script(self, *script: tuple[int, ...]) -> FakeSlots:
        self.slots = FakeSlots(*script)
        slots: Any = self.slots
        receiver: Any = Receiver(self.waiter, slots, self.counter)
        self.receiver = receiver
        return self.slots

    def wait_for(self, *seconds: float) -> None:
        """Let the next waits take so long."""
        for s in seconds:
            self.descriptor.on_wait.append(lambda s=s: self.pass_time(s))

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds


@pytest.fixture
def scene(backend: Any) -> Iterator[Scene]:
    made = Scene(backend)
    yield made
    made.descriptor.close()


Call = Callable[[Any], Any]
CALLS = [
    pytest.param(lambda receiver: receiver.batch(0), id="batch"),
    pytest.param(lambda receiver: receiver.segments(), id="segments"),
    pytest.param(lambda receiver: receiver.into(["msg"] * 9, 0), id="into"),
]
each_call = pytest.mark.parametrize("call", CALLS)


# Waiting


@each_call
def test_datagrams_that_are_there_cost_one_attempt_and_no_wait(scene: Scene, call: Call) -> None:
    slots = scene.script((3, 0))
    assert call(scene.receiver)
    assert (slots.n_attempts, slots.pending) == (1, 0)
    assert scene.descriptor.waits == []


@each_call
@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EINTR], ids=errno.errorcode.get)
def test_call_goes_on_until_datagrams_come(scene: Scene, call: Call, code: int) -> None:
    scene.script(*[(0, code)] * 6, (1, 0))
    assert call(scene.receiver)
    assert len(scene.descriptor.waits) == (0 if code == errno.EINTR else 6)


@each_call
def test_non_blocking_call_attempts_and_would_block(scene: Scene, call: Call) -> None:
    scene.waiter.timeout = 0.0
    slots = scene.script(NOTHING, (0, errno.EINTR), NOTHING)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            call(scene.receiver)
    assert scene.descriptor.waits == []
    assert slots.n_attempts <= 3


def test_flag_makes_one_call_non_blocking(scene: Scene) -> None:
    scene.script()
    with pytest.raises(BlockingIOError):
        scene.receiver.into(["msg"], MSG_DONTWAIT)
    with pytest.raises(BlockingIOError):
        scene.receiver.into(["msg"], MSG_DONTWAIT | MSG_WAITFORONE)
    assert scene.descriptor.waits == []


@pytest.mark.parametrize("flags", [MSG_PEEK, MSG_PEEK | MSG_DONTWAIT, -1, 1 << 30])
def test_other_flags_are_refused_before_anything(scene: Scene, flags: int) -> None:
    slots = scene.script((1, 0))
    for msgs in ([], ["msg"]):
        with pytest.raises(ValueError, match=r"flags -?0x"):
            scene.receiver.into(msgs, flags)
    assert slots.n_attempts == 0


def test_no_messages_return_at_once(scene: Scene) -> None:
    slots = scene.script((1, 0))
    assert scene.receiver.into([], 0) == 0
    assert slots.n_attempts == 0


def test_messages_are_checked_before_a_wait(scene: Scene) -> None:
    scene.script()
    with pytest.raises(ValueError, match="unfit"):
        scene.receiver.into(["unfit"], 0)
    assert scene.descriptor.waits == []


@each_call
def test_timeout_runs_from_the_first_wait(scene: Scene, call: Call) -> None:
    scene.waiter.timeout = 0.9
    scene.script()
    scene.wait_for(0.5, 0.4)
    with pytest.raises(TimeoutError) as caught:
        call(scene.receiver)
    assert caught.value.errno == errno.ETIMEDOUT
    waited = [round(s, 3) for _, s in scene.descriptor.waits]
    assert waited == [0.9, 0.4]


@each_call
def test_passed_deadline_raises_even_if_data_waits(scene: Scene, call: Call) -> None:
    slots = scene.script((5, 0))
    slots.pending = 5
    scene.waiter.set_deadline(scene.clock.now, POLLIN)
    with pytest.raises(TimeoutError):
        call(scene.receiver)
    assert slots.pending == 5
    scene.waiter.timeout = 0.0  # non-blocking wins over deadlines
    assert call(scene.receiver)


@each_call
def test_new_deadline_applies_to_the_call_that_waits(scene: Scene, call: Call) -> None:
    scene.script()
    scene.descriptor.on_wait.append(lambda: scene.waiter.set_deadline(scene.clock.now - 1, POLLIN))
    with pytest.raises(TimeoutError):
        call(scene.receiver)
    assert len(scene.descriptor.waits) == 1


@each_call
@pytest.mark.parametrize("is_waiting", [False, True], ids=["before", "while it waits"])
def test_close_ends_the_call(scene: Scene, call: Call, is_waiting: bool) -> None:
    scene.waiter.set_deadline(scene.clock.now + 1, POLLIN)
    slots = scene.script()
    if is_waiting:
        scene.descriptor.on_wait.append(scene.descriptor.close)
    else:
        slots.pending = 3
        scene.descriptor.close()
        scene.clock.now += 2  # closed goes before late
    with pytest.raises(OSError, match="Bad file descriptor") as caught:
        call(scene.receiver)
    assert caught.value.errno == errno.EBADF


# Errors


@each_call
@pytest.mark.parametrize(
    "code", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENOMEM], ids=errno.errorcode.get
)
@pytest.mark.parametrize("n_before", [0, 1, 2], ids="after {} that would block".format)
def test_error_of_the_socket_is_raised_once(
    scene: Scene, call: Call, code: int, n_before: int
) -> None:
    scene.script(*[NOTHING] * n_before, (0, code), (1, 0))
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        call(scene.receiver)
    assert type(caught.value) is type(OSError(code, ""))
    assert caught.value.errno == code
    assert call(scene.receiver)


@each_call
def test_shutdown_is_the_end(scene: Scene, call: Call) -> None:
    scene.script(NOTHING, (0, errno.ESHUTDOWN))
    with pytest.raises(OSError, match="shut down for reading") as caught:
        call(scene.receiver)
    assert caught.value.errno == errno.ESHUTDOWN


@each_call
def test_lost_message_is_logged_once_a_minute_and_the_call_goes_on(
    scene: Scene, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "batching")
    scene.script((0, errno.EBADMSG), (2, errno.EBADMSG), (1, errno.EBADMSG), (1, 0))
    assert call(scene.receiver)
    assert call(scene.receiver)
    assert len(caplog.records) == 1
    assert "MSG_CTRUNC" in caplog.text
    for seconds, n in ((59.9, 1), (0.2, 2)):
        scene.pass_time(seconds)
        scene.slots.script.appendleft((1, errno.EBADMSG))
        assert call(scene.receiver)
        assert len(caplog.records) == n


# Idling


def test_slabs_are_given_back_once_after_a_second_without_a_datagram(scene: Scene) -> None:
    slots = scene.script(*[NOTHING] * 4, (1, 0))
    scene.wait_for(0.4, 0.5, 0.2, 30.0)
    assert scene.receiver.batch(0)
    assert slots.n_shrinks == 1
    waited = [s for _, s in scene.descriptor.waits]
    assert waited == [1.0, 1.0, 1.0, -1.0]


def test_busy_connection_keeps_its_slabs(scene: Scene) -> None:
    slots = scene.script(*[NOTHING, NOTHING, (1, 0)] * 5)
    scene.wait_for(*[0.9] * 5)
    for _ in range(5):
        assert scene.receiver.batch(0)
    assert slots.n_shrinks == 0


def test_timeout_above_a_second_is_kept_while_idle(scene: Scene) -> None:
    scene.waiter.timeout = 3.0
    scene.script()
    scene.wait_for(1.0, 2.0)
    with pytest.raises(TimeoutError):
        scene.receiver.batch(0)
    assert [s for _, s in scene.descriptor.waits] == [1.0, 2.0]
    assert math.isclose(scene.clock.now, 1003.0)


# Others that wait


@pytest.mark.parametrize(
    ("call", "is_kicked"),
    [
        pytest.param(lambda receiver: receiver.batch(2), True, id="batch of two"),
        pytest.param(lambda receiver: receiver.batch(3), False, id="batch of three"),
        pytest.param(lambda receiver: receiver.batch(0), False, id="all"),
        pytest.param(lambda receiver: receiver.into(["msg"] * 2, 0), True, id="two messages"),
        pytest.param(lambda receiver: receiver.into(["msg"] * 9, 0), False, id="nine messages"),
        pytest.param(lambda receiver: receiver.segments(), False, id="segments"),
    ],
)
def test_reader_that_leaves_datagrams_wakes_the_others(
    scene: Scene, call: Call, is_kicked: bool
) -> None:
    scene.script((3, 0))
    ticket = scene.descriptor.ticket
    call(scene.receiver)
    assert (scene.descriptor.ticket != ticket) == is_kicked


@each_call
def test_datagrams_that_another_thread_took_first_are_waited_for_anew(
    scene: Scene, call: Call
) -> None:
    slots = scene.script((2, 0), NOTHING, (1, 0))
    attempt = slots.attempt

    def robbed(descriptor: Any) -> tuple[int, int]:
        answer = attempt(descriptor)
        if answer == (2, 0):
            slots.pending = 0
        return answer

    with mock.patch.object(slots, "attempt", robbed):
        assert call(scene.receiver)
    assert slots.n_attempts == 3


# Overflows


def test_overflows_are_counted_as_deltas_that_wrap(scene: Scene) -> None:
    top = 2**32
    scene.script(
        (1, 0, 0), (1, 0, 7), (1, 0, 7), (1, 0, top // 2), (1, 0, top - 2), (1, 0, 3), (1, 0)
    )
    expected = [0, 7, 7, top // 2, top - 2, top + 3, top + 3]
    counted = []
    for _ in expected:
        scene.receiver.batch(0)
        counted.append(scene.counter.value)
    assert counted == expected


def test_older_count_that_another_thread_saw_changes_nothing(scene: Scene) -> None:
    scene.script((1, 0, 100), (1, 0, 90), (1, 0, 101))
    for expected in (100, 100, 101):
        scene.receiver.batch(0)
        assert scene.counter.value == expected


def test_overflows_that_come_after_a_wait_are_counted(scene: Scene) -> None:
    scene.script(NOTHING, NOTHING, (1, 0, 5))
    scene.receiver.batch(0)
    assert scene.counter.value == 5
