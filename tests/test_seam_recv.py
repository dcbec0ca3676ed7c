"""The seam of _mmsg, over each back end: what is received, and control bytes."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batching import _portable
from batching._kernel import MSG_CTRUNC, MSG_TRUNC, SO_RXQ_OVFL, SOL_UDP, UDP_GRO
from batching._stats import stats_of
from loopback import needs_whole_trains
from seam_rig import Rig

pytestmark = pytest.mark.kernel

IP_PKTINFO = 8  # include/uapi/linux/in.h
PATIENCE_S = 10.0


def message(backend: Any, size: int = 2048) -> Any:
    return backend.Message([bytearray(size)], bytearray(64))


# RecvSlots


def test_nothing_there_would_block(rig: Rig) -> None:
    assert rig.slots.attempt(rig.rx) == (0, errno.EAGAIN)
    assert rig.slots.take() == []


@needs_whole_trains
def test_trains_and_empty_datagrams_come_as_they_were_sent(gro: Rig) -> None:
    gro.train(b"aaabbbc", 3)
    gro.send(b"", b"last")
    pending, code = gro.slots.attempt(gro.rx)
    assert (pending, code) == (5, 0)
    sender = gro.source.getsockname()
    taken = gro.slots.take()
    assert taken == [(data, sender) for data in (b"aaa", b"bbb", b"c", b"", b"last")]
    assert len({id(address) for _, address in taken}) == 1
    assert taken[0][1] is gro.peers.get(sender).address
    stats = stats_of(gro.counters.snapshot())
    assert (stats.recv_messages, stats.recv_trains, stats.recv_datagrams) == (3, 1, 5)
    assert stats.recv_bytes == 11


@needs_whole_trains
def test_the_rest_of_a_train_goes_on_in_whichever_call_is_next(gro: Rig) -> None:
    gro.train(b"aabbccddeef", 2)
    assert gro.slots.attempt(gro.rx) == (6, 0)
    assert [data for data, _ in gro.slots.take(2)] == [b"aa", b"bb"]
    gro.send(b"later")
    assert gro.slots.attempt(gro.rx) == (4, 0)
    first = message(gro.backend)
    assert gro.slots.take_into([first]) == 1
    assert (bytes(first.data), first.nn) == (b"cc", 0)
    assert gro.slots.pending == 3
    (rest,) = gro.slots.take_segments()
    assert (rest.tolist(), rest.segment_size) == ([b"dd", b"ee", b"f"], 2)
    assert rest.addr == gro.source.getsockname()
    assert gro.slots.attempt(gro.rx) == (1, 0)


@needs_whole_trains
def test_large_segments_are_views_that_later_datagrams_do_not_touch(gro: Rig) -> None:
    gro.train(b"a" * 6000, 1000)
    gro.slots.attempt(gro.rx)
    (kept,) = gro.slots.take_segments()
    gro.train(b"b" * 6000, 1000)
    gro.slots.attempt(gro.rx)
    gro.slots.take_segments()
    assert kept.data == b"a" * 6000
    assert kept.data.readonly


@needs_whole_trains
def test_messages_tell_flags_and_control_bytes(gro: Rig) -> None:
    gro.train(b"aaaabbbbcc", 4)
    gro.slots.attempt(gro.rx)
    msgs = [message(gro.backend, size) for size in (9, 3, 9, 9)]
    assert gro.slots.take_into(msgs) == 3
    assert [bytes(m.data) for m in msgs] == [b"aaaa", b"bbb", b"cc", b""]
    assert [m.flags for m in msgs] == [0, MSG_TRUNC, 0, 0]
    assert [m.nn for m in msgs] == [24, 0, 0, 0]
    assert gro.backend.parse_control(msgs[0].oob[: msgs[0].nn]) == (4, -1)
    assert [m.addr for m in msgs] == [gro.source.getsockname()] * 3 + [None]
    assert gro.counters.snapshot()["recv_truncated"] == 1


def test_an_unfit_message_is_named_before_any_is_filled(rig: Rig) -> None:
    rig.send(b"data")
    rig.slots.attempt(rig.rx)
    make = rig.backend.Message
    good, oob = message(rig.backend), bytearray(64)
    cases: list[tuple[Any, type[Exception], str]] = [
        (make([], oob), ValueError, "message 1: must have exactly 1 buffer, has 0"),
        (make([oob, oob], oob), ValueError, "message 1: must have exactly 1 buffer, has 2"),
        (make([b"12345"], oob), ValueError, "message 1: "),
        (make([oob], bytearray(47)), ValueError, "message 1: "),
        (make([oob]), ValueError, "message 1: "),
        (make([oob], bytes(64)), ValueError, "message 1: "),
        (make(["text"], oob), TypeError, "message 1: "),
        (b"x", TypeError, "message 1: "),
    ]
    for unfit, kind, text in cases:
        for call in (rig.slots.check, rig.slots.take_into):
            with pytest.raises(kind, match=text):
                call([good, unfit])
    assert (good.n, good.addr, rig.slots.pending) == (0, None, 1)


@needs_whole_trains
def test_a_train_without_its_size_is_not_delivered(backend: Any) -> None:
    with contextlib.closing(Rig(backend, gro=True, control_size=8)) as rig:
        rig.train(b"aabb", 2)
        assert rig.slots.attempt(rig.rx) == (0, errno.EBADMSG)
        rig.train(b"aabb", 2)
        rig.send(b"whole")
        assert rig.slots.attempt(rig.rx) == (1, errno.EBADMSG)
        assert [data for data, _ in rig.slots.take()] == [b"whole"]
        stats = stats_of(rig.counters.snapshot())
        assert stats.recv_control_truncated == 2
        assert stats.recv_messages == 1  # what is not delivered was not received


@needs_whole_trains
def test_cut_control_bytes_with_a_size_are_delivered_and_flagged(backend: Any) -> None:
    room = socket.CMSG_SPACE(4)  # UDP_GRO comes first, IP_PKTINFO after
    with contextlib.closing(Rig(backend, gro=True, control_size=room, min_oob=8)) as rig:
        rig.sink.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        rig.train(b"aabb", 2)
        assert rig.slots.attempt(rig.rx) == (2, 0)
        msgs = [message(backend), message(backend)]
        assert rig.slots.take_into(msgs) == 2
        assert [bytes(m.data) for m in msgs] == [b"aa", b"bb"]
        assert msgs[0].flags & MSG_CTRUNC
        assert rig.counters.snapshot()["recv_control_truncated"] == 1


@needs_whole_trains
def test_control_bytes_that_the_oob_has_no_room_for_are_flagged(backend: Any) -> None:
    with contextlib.closing(Rig(backend, gro=True, min_oob=8)) as rig:
        rig.train(b"aabb", 2)
        rig.slots.attempt(rig.rx)
        cut = backend.Message([bytearray(9)], bytearray(8))
        assert rig.slots.take_into([cut]) == 1
        assert (cut.nn, cut.flags) == (8, MSG_CTRUNC)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no AF_UNIX, whose peers are nameless")
def test_a_nameless_empty_message_is_the_end_and_no_datagram(backend: Any) -> None:
    # As a shut-down UDP socket gives it (to a reader that sleeps in the kernel only).
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    counters = backend.Counters()
    slots = backend.RecvSlots(backend.Peers(socket.AF_INET, False, 1), counters)
    descriptor = backend.Descriptor(ours)
    with theirs:
        theirs.send(b"")
        assert slots.attempt(descriptor) == (0, errno.ESHUTDOWN)
        assert slots.pending == 0
        assert counters.snapshot()["recv_datagrams"] == 0
    descriptor.close()


def test_a_refused_datagrams_error_is_told_by_an_attempt(rig: Rig) -> None:
    rig.source.connect(rig.address)
    rig.rx.close()
    rig.source.send(b"nobody is there")
    rig.tx.wait(select.POLLIN, PATIENCE_S, rig.tx.ticket)
    assert rig.slots.attempt(rig.tx) == (0, errno.ECONNREFUSED)
    assert rig.slots.attempt(rig.tx) == (0, errno.EAGAIN)


# parse_control


def cmsg(level: int, kind: int, data: bytes, length: int | None = None) -> bytes:
    total = 16 + len(data) if length is None else length
    return struct.pack("@Nii", total, level, kind) + data + bytes(-len(data) % 8)


def test_parse_control_finds_what_it_knows_among_others(backend: Any) -> None:
    size = cmsg(SOL_UDP, UDP_GRO, struct.pack("=i", 1400))
    drops = cmsg(socket.SOL_SOCKET, SO_RXQ_OVFL, struct.pack("=I", 2**32 - 1))
    other = cmsg(0, 8, bytes(12))
    parse = backend.parse_control
    assert parse(other + drops + other + size) == (1400, 2**32 - 1)
    assert parse(bytearray(size[:20])) == (1400, -1)
    assert parse(b"") == (0, -1)


@pytest.mark.parametrize(
    "control",
    [
        pytest.param(cmsg(SOL_UDP, UDP_GRO, bytes(4)), id="size 0"),
        pytest.param(cmsg(SOL_UDP, UDP_GRO, struct.pack("=i", -5)), id="size below 0"),
        pytest.param(cmsg(SOL_UDP, UDP_GRO, struct.pack("=i", 65536)), id="size above a u16"),
        pytest.param(cmsg(SOL_UDP, UDP_GRO, struct.pack("=H", 99)), id="a u16"),
        pytest.param(cmsg(SOL_UDP, UDP_GRO, struct.pack("=q", 99)), id="eight bytes"),
        pytest.param(cmsg(SOL_UDP, UDP_GRO, struct.pack("=i", 99))[:19], id="cut short"),
        pytest.param(cmsg(0, 0, bytes(8), 0) * 3, id="length 0"),
        pytest.param(cmsg(0, 0, b"", 15), id="length within the header"),
        pytest.param(cmsg(0, 0, b"", 2**64 - 1) + bytes(32), id="length that wraps"),
        pytest.param(cmsg(0, 0, b"", 2**64 - 7) + bytes(32), id="length that wraps when aligned"),
    ],
)
def test_parse_control_believes_no_hostile_bytes(backend: Any, control: bytes) -> None:
    assert backend.parse_control(control) == (0, -1)


@given(st.binary(max_size=96))
def test_parse_control_survives_any_bytes(control: bytes) -> None:
    size, drops = _portable.parse_control(control)
    assert 0 <= size <= 65535
    assert -1 <= drops < 2**32
