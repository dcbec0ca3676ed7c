"""Hostile use from Python: an error of Python's, never a crash and never a stray byte.

The classes of a back end are private, and a Conn hands them what its users pass: objects
of any type, which change, raise and call back where a well-behaved one would not.
"""

from __future__ import annotations

import array
import contextlib
import copy
import ctypes
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batching import Segments
from loopback import needs_whole_trains
from seam_rig import A, Rig, needs_gso

UNFIT = (TypeError, ValueError, AttributeError, IndexError, OverflowError)
Call = Callable[[Rig], Any]


def message(rig: Rig, data: Any = None, oob: Any = None) -> Any:
    return rig.backend.Message(
        [bytearray(64) if data is None else data], bytearray(64) if oob is None else oob
    )


# Arguments


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda rig, junk: rig.plan.load(junk), id="load"),
        pytest.param(lambda rig, junk: rig.plan.load([junk]), id="load an item"),
        pytest.param(lambda rig, junk: rig.plan.load([(junk, A)]), id="load data"),
        pytest.param(lambda rig, junk: rig.plan.load([(b"x", junk)]), id="load an address"),
        pytest.param(lambda rig, junk: rig.plan.load_to(junk, A), id="load_to"),
        pytest.param(lambda rig, junk: rig.plan.load_to([junk], A), id="load_to a buffer"),
        pytest.param(lambda rig, junk: rig.plan.load_to([b"x"], junk), id="load_to an address"),
        pytest.param(lambda rig, junk: rig.plan.load_to([b"x"], A, junk), id="load_to an offset"),
        pytest.param(lambda rig, junk: rig.plan.load_segments(junk), id="load_segments"),
        pytest.param(lambda rig, junk: rig.plan.load_segments([junk]), id="load_segments one"),
        pytest.param(lambda rig, junk: rig.plan.attempt(junk), id="attempt to send"),
        pytest.param(lambda rig, junk: rig.dispatcher.send(junk), id="send"),
        pytest.param(lambda rig, junk: rig.dispatcher.send_to(junk, A), id="send_to"),
        pytest.param(lambda rig, junk: rig.dispatcher.send_segments(junk), id="send_segments"),
        pytest.param(lambda rig, junk: rig.dispatcher.give(junk), id="give"),
        pytest.param(lambda rig, junk: rig.slots.attempt(junk), id="attempt to receive"),
        pytest.param(lambda rig, junk: rig.slots.fetch(junk), id="fetch"),
        pytest.param(lambda rig, junk: rig.slots.fetch_into(rig.rx, [junk]), id="fetch_into"),
        pytest.param(lambda rig, junk: rig.slots.take_into([junk]), id="take_into"),
        pytest.param(lambda rig, junk: rig.slots.check([junk]), id="check"),
        pytest.param(lambda rig, junk: rig.slots.check([message(rig, junk)]), id="buffer"),
        pytest.param(lambda rig, junk: rig.slots.check([message(rig, oob=junk)]), id="oob"),
        pytest.param(lambda rig, junk: rig.peers.get(junk), id="get"),
        pytest.param(lambda rig, junk: rig.peers.connect(junk), id="connect"),
        pytest.param(lambda rig, junk: rig.backend.Descriptor(junk), id="descriptor"),
    ],
)
@pytest.mark.parametrize(
    "junk",
    [None, -1, 1.5, "text", object(), ("127.0.0.1",), ((),), [[]], type],
    ids=["None", "-1", "1.5", "text", "object", "one", "nested tuple", "nested list", "type"],
)
def test_junk_is_refused_and_nothing_is_held(rig: Rig, call: Any, junk: Any) -> None:
    with contextlib.suppress(*UNFIT):
        call(rig, junk)
    assert rig.plan.left == 0
    rig.plan.load([(b"fine", rig.address)])
    assert rig.plan.attempt(rig.tx) == (1, 0)


@pytest.mark.parametrize(
    "name", ["SendPlan", "Dispatcher", "Peers", "RecvSlots", "Descriptor", "Message"]
)
def test_object_made_without_its_constructor_is_of_no_use(backend: Any, name: str) -> None:
    kind = getattr(backend, name)
    with contextlib.suppress(*UNFIT):
        raw = kind.__new__(kind)
        for use in (
            lambda: raw.load([(b"", None)]),
            lambda: raw.load_segments([]),
            lambda: raw.get(A),
            lambda: raw.take_into([raw]),
            lambda: raw.wait(0, 0.0, 0),
            lambda: raw.data,
            lambda: repr(raw),
        ):
            with contextlib.suppress(*UNFIT):
                use()


def test_message_made_without_its_constructor_is_named(rig: Rig) -> None:
    raw = rig.backend.Message.__new__(rig.backend.Message)
    rig.send(b"data")
    rig.slots.attempt(rig.rx)
    for call in (rig.slots.check, rig.slots.take_into):
        with pytest.raises((TypeError, AttributeError)):
            call([raw])
    assert rig.slots.pending == 1


def test_there_is_nothing_past_the_last_message(rig: Rig) -> None:
    for _ in range(2):
        for call in (rig.plan.peer, rig.plan.segment_size, rig.plan.split):
            with pytest.raises(IndexError):
                call()
        with pytest.raises(IndexError):
            rig.plan.skip(1)
        rig.plan.recut()
        rig.plan.load([(b"x", rig.address)])
        assert rig.plan.attempt(rig.tx) == (1, 0)
        assert rig.plan.attempt(rig.tx) == (0, 0)


def test_limits_below_one_and_starts_below_zero_send_nothing(rig: Rig) -> None:
    items = [(b"x", rig.address), (b"longer", rig.address), (b"longest", rig.address)]
    for start in (-1, -3, -1000):
        with pytest.raises(ValueError, match=f"start {start}, must be at least 0"):
            rig.plan.load(items, start)
        with pytest.raises(ValueError, match=f"start {start}, must be at least 0"):
            rig.plan.load_segments([], start)
    assert rig.plan.load(items, 3) == 0
    rig.plan.load(items)
    for limit in (0, -1, -1000):
        assert rig.plan.attempt(rig.tx, limit) == (0, 0)
    assert rig.plan.position == 0


def test_release_may_be_said_twice_and_after_a_failure(rig: Rig) -> None:
    data = bytearray(b"data")
    rig.plan.release()
    rig.plan.load([(data, rig.address)])
    rig.plan.attempt(rig.tx)
    for _ in range(2):
        rig.plan.release()
        assert (rig.plan.position, rig.plan.left, rig.plan.datagrams_sent) == (0, 0, 0)
    with pytest.raises(TypeError):
        rig.plan.load([(data, rig.address), (None, rig.address)])
    rig.plan.release()
    data.append(1)
    assert rig.plan.attempt(rig.tx) == (0, 0)
    rig.plan.load([(data, rig.address)])
    assert rig.plan.attempt(rig.tx) == (1, 0)


# Memory


def test_loaded_buffer_cannot_be_resized_until_it_is_released(rig: Rig) -> None:
    one, two, three = (bytearray(b"data") for _ in range(3))
    view = memoryview(two)
    rig.plan.load([(one, rig.address), (view, rig.address)])
    with pytest.raises(BufferError):
        one.append(1)
    with contextlib.suppress(BufferError):
        view.release()
    with pytest.raises(BufferError):
        two.append(1)
    assert rig.plan.attempt(rig.tx, 9)[0] > 0
    rig.plan.load_segments([Segments(three, 2, rig.address)])
    one.append(1)
    with pytest.raises(BufferError):
        three.clear()
    rig.plan.release()
    with contextlib.suppress(ValueError):
        view.release()
    two.append(1)


def test_a_view_is_held_once_for_each_time_it_is_lent(rig: Rig) -> None:
    memory = bytearray(b"12345678")
    view, locked = memoryview(memory)[2:6], memoryview(memory).toreadonly()
    for junk in (None, memoryview(bytes(8))[::2]):
        with pytest.raises((TypeError, ValueError), match="buffer 2"):
            rig.plan.load_to([view, view, junk], rig.address)
    with pytest.raises(ValueError, match=r"buffer 1.*(read-only|writable)"):
        rig.plan.load_to([view, locked], rig.address, 2, b"ab")
    rig.plan.load_to([view, locked, view.cast("B", [2, 2])], rig.address)
    with pytest.raises(BufferError):
        memory.clear()
    rig.plan.release()
    assert rig.dispatcher.send_to([view, view, locked], rig.address) == 3
    assert [rig.sink.recv(99) for _ in range(3)] == [b"3456", b"3456", b"12345678"]
    for held in (view, locked):  # SystemError if it was let go of more often than lent
        held.release()
    with pytest.raises(ValueError, match=r"buffer 0.*released"):
        rig.plan.load_to([view], rig.address)
    memory.clear()


def test_what_a_train_shows_is_held_though_the_train_lets_go_of_it(rig: Rig) -> None:
    class Fickle(Segments):
        """Shows new bytes each time, which nobody else keeps."""

        __slots__ = ()

        @property
        def data(self) -> Any:
            return b"secret" * 500

        @data.setter
        def data(self, value: Any) -> None:
            pass

    plain = Segments(b"old", 3000, rig.address)
    plain.data = b"secret" * 500  # type: ignore[assignment]
    rig.plan.load_segments([Fickle(b"", 3000, rig.address), plain])
    plain.data = memoryview(b"")
    gc.collect()
    junk = [b"\xff" * 3000 for _ in range(100)]
    while rig.plan.left:
        assert rig.plan.attempt(rig.tx)[1] == 0
    del junk
    assert [rig.sink.recv(9000) for _ in range(2)] == [b"secret" * 500] * 2


@pytest.mark.parametrize("size", [0, -1, 2**31, 2**40, 2**63, 2**64, "x", None, 1.5, True])
def test_segment_size_that_was_changed_is_looked_at_anew(rig: Rig, size: Any) -> None:
    train = Segments(bytes(8), 2, rig.address)
    train.segment_size = size
    with contextlib.suppress(TypeError, ValueError):
        rig.plan.load_segments([train])
    if isinstance(size, int) and size >= 2**63:
        return  # more than a C integer holds: refused, or as good as endless
    if isinstance(size, int) and size > 0:
        assert rig.plan.report() == [(0, 0, 8 if size is True else 1, 0)]
    else:
        assert rig.plan.left == 0


@needs_gso
def test_train_of_very_many_segments_is_planned_and_split(rig: Rig) -> None:
    rig.plan.load_segments([Segments(bytes(100_000), 1, rig.address)])
    assert rig.plan.n_messages == -(-100_000 // 64)
    assert rig.plan.split() == 64
    rig.peers.get(rig.address).max_segments = 1
    rig.plan.recut()
    assert rig.plan.n_messages == 100_000
    assert rig.plan.report() == [(0, 0, 100_000, 0)]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(array.array("d", [1, 2, 3]), id="array of doubles"),
        pytest.param((ctypes.c_ushort * 12)(), id="ctypes array"),
        pytest.param(memoryview(bytes(24)).cast("B", [2, 3, 4]), id="three dimensions"),
        pytest.param(memoryview(bytes(24)).cast("Q"), id="words"),
    ],
)
def test_buffer_of_any_shape_is_its_bytes(rig: Rig, data: Any) -> None:
    rig.plan.load([(data, rig.address)])
    assert rig.plan.attempt(rig.tx) == (1, 0)
    assert rig.sink.recv(99) == memoryview(data).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(memoryview(bytearray(24))[::2], id="strided"),
        pytest.param(memoryview(bytearray(24))[::-1], id="backwards"),
        pytest.param(memoryview(bytes(24)), id="read-only"),
        pytest.param(b"", id="empty bytes"),
    ],
)
def test_odd_buffer_of_a_message_is_refused_by_its_index(rig: Rig, data: Any) -> None:
    for odd in (message(rig, data), message(rig, oob=data)):
        with pytest.raises(ValueError, match=r"^message 1: "):
            rig.slots.check([message(rig), odd])


def test_message_changed_between_calls_is_looked_at_anew(rig: Rig) -> None:
    msg = message(rig, memoryview(bytearray(8)))
    for buffers, data in (
        ([bytearray(2)], b"da"),
        ((bytearray(16),), b"datagram"),
        ([array.array("I", [0, 0])], b"datagram"),
        ([memoryview(bytearray(0))], b""),
    ):
        rig.send(b"datagram")
        rig.slots.attempt(rig.rx)
        msg.buffers = buffers
        assert rig.slots.take_into([msg]) == 1
        assert bytes(msg.data) == data
    unfits: list[Any] = [None, [], 7, "ab", {}, [b"x"], [bytearray(1)] * 2]
    for unfit in unfits:
        msg.buffers = unfit
        with pytest.raises((TypeError, ValueError)):
            rig.slots.check([msg])


def test_buffer_that_a_message_shrank_is_not_written_past(rig: Rig) -> None:
    data, oob = bytearray(64), bytearray(64)
    msg = message(rig, data, oob)
    rig.slots.check([msg])
    rig.send(b"datagram" * 4)
    rig.slots.attempt(rig.rx)
    del data[3:]
    assert rig.slots.take_into([msg]) == 1
    assert (bytes(data), msg.n) == (b"dat", 3)


@needs_whole_trains
def test_views_outlive_the_slots_that_they_came_from(backend: Any) -> None:
    rig = Rig(backend, gro=True)
    rig.train(b"ab" * 5000, 1000)
    rig.slots.attempt(rig.rx)
    (train,) = rig.slots.take_segments()
    part = train[3]
    rig.close()
    del rig, train
    gc.collect()
    assert part == b"ab" * 500
    with pytest.raises(TypeError):
        part[0] = 1


@needs_whole_trains
def test_memory_that_a_train_came_in_has_one_owner(backend: Any) -> None:
    # Two would give it back twice.
    with contextlib.closing(Rig(backend, gro=True)) as rig:
        rig.train(b"ab" * 5000, 1000)
        rig.slots.attempt(rig.rx)
        (train,) = rig.slots.take_segments()
        owner: Any = train.data.obj
        if isinstance(owner, bytearray):
            pytest.skip("portable: a bytearray, whose copy is another")
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError):
                copied(owner)
        assert bytes(type(owner)()) == b""


def test_sequence_that_changes_its_messages_as_it_is_read_fills_none(rig: Rig) -> None:
    class Changing(list[Any]):
        """Messages, the first of which is of no use once it was read."""

        def __iter__(self) -> Iterator[Any]:
            yield self[0]
            self[0].buffers = [None]
            self[0].oob = None

    rig.send(b"datagram")
    rig.slots.attempt(rig.rx)
    with pytest.raises((TypeError, ValueError), match="message 0: "):
        rig.slots.take_into(Changing([message(rig)]))
    assert rig.slots.pending == 1
