"""The seam of _mmsg, over each back end: plans, peers, the descriptor's life."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from batching._stats import stats_of
from batching.segments import Segments
from seam_rig import A, B, C, Rig, needs_gso

pytestmark = pytest.mark.kernel

PATIENCE_S = 10.0


# Planning


@needs_gso
@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        pytest.param([100], [(0, 1)], id="a single datagram is no train"),
        pytest.param([100, 100, 40], [(100, 3)], id="a shorter tail closes the train"),
        pytest.param([100, 40, 40], [(100, 2), (0, 1)], id="nothing follows a shorter one"),
        pytest.param([40, 100], [(0, 1), (0, 1)], id="a longer one begins anew"),
        pytest.param([100, 0, 100], [(0, 1)] * 3, id="an empty one stands alone"),
        pytest.param([0, 0], [(0, 1)] * 2, id="empty ones do not merge"),
        pytest.param([9] * 130, [(9, 64), (9, 64), (9, 2)], id="64 datagrams at most"),
        pytest.param([9000] * 8, [(9000, 7), (0, 1)], id="65507 bytes at most"),
        pytest.param([40000, 25507], [(40000, 2)], id="65507 bytes exactly"),
        pytest.param([40000, 25508], [(0, 1), (0, 1)], id="65508 bytes are too many"),
    ],
)
def test_trains_obey_the_kernels_rules(
    rig: Rig, lengths: list[int], expected: list[tuple[int, int]]
) -> None:
    datagrams = [(bytes(n), A) for n in lengths]
    assert rig.plan.load(datagrams) == len(lengths)
    assert [tuple(m[1:]) for m in rig.layout()] == expected
    stats = stats_of(rig.counters.snapshot())
    assert stats.send_trains == sum(n > 1 for _, n in expected)
    assert stats.send_bytes == sum(lengths)


@needs_gso
def test_destinations_that_alternate_still_make_trains(rig: Rig) -> None:
    rig.plan.load([(b"data", to) for to in (B, A, B, C, A, B)])
    assert rig.layout() == [(1002, 4, 3), (1001, 4, 2), (1003, 0, 1)]


@needs_gso
def test_what_a_peer_taught_limits_its_trains_only(rig: Rig) -> None:
    rig.peers.get(A).max_segments = 1
    rig.peers.get(B).max_segment_size = 99
    rig.plan.load([(bytes(100), to) for to in (A, A, B, B, C, C)])
    assert [m[1:] for m in rig.layout()] == [(0, 1)] * 4 + [(100, 2)]


@needs_gso
def test_segments_are_recut_to_the_limits_and_stand_alone(rig: Rig) -> None:
    trains = [
        Segments(bytes(1000 * 66), 1000, A),  # 64 datagrams at most
        Segments(bytes(1000), 1000, A),
        Segments(bytes(1000), 1000, A),
        Segments(bytes(2500), 1000, A),
        Segments(b"", 0, A),
    ]
    assert rig.plan.load_segments(trains) == 5
    assert [m[1:] for m in rig.layout()] == [(1000, 64), (1000, 2), (1000, 2), (1000, 3), (0, 1)]


@needs_gso
def test_split_sends_the_trains_datagrams_one_by_one(rig: Rig) -> None:
    rig.plan.load_segments([Segments(b"aaabbbc", 3, rig.address)])
    assert rig.plan.split() == 3
    assert rig.plan.split() == 1
    assert rig.plan.attempt(rig.tx) == (3, 0)
    assert [rig.sink.recv(9) for _ in range(3)] == [b"aaa", b"bbb", b"c"]


@needs_gso
@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (65536, [(0, 1)] * 3 + [(60, 2), (100, 2), (90, 2)]),
        (61, [(0, 1)] * 3 + [(60, 2)] + [(0, 1)] * 2 + [(90, 2)]),
        (1, [(0, 1)] * 7 + [(90, 2)]),
        (0, [(0, 1)] * 3 + [(60, 2), (100, 2), (90, 2)]),
    ],
)
def test_split_cuts_later_trains_of_the_same_peer_from_a_segment_size_on(
    rig: Rig, least: int, expected: list[tuple[int, int]]
) -> None:
    trains = [Segments(bytes(n), size, A) for n, size in ((250, 100), (120, 60), (200, 100))]
    rig.plan.load_segments([*trains, Segments(bytes(180), 90, B)])
    assert rig.plan.split(least) == 3
    assert [m[1:] for m in rig.layout()] == expected


@needs_gso
def test_recut_cuts_only_what_the_peer_no_longer_allows(rig: Rig) -> None:
    rig.plan.load([(bytes(n), A) for n in (100, 100, 100, 60, 60)] + [(bytes(9), B)] * 2)
    peer = rig.peers.get(A)
    peer.max_segments = 2
    rig.plan.recut()
    assert rig.plan.n_messages == 6
    assert rig.plan.segment_size() == 0
    peer.max_segment_size = 60
    rig.plan.recut()
    assert [m[1:] for m in rig.layout()] == [(0, 1)] * 4 + [(0, 1), (9, 2)]


@needs_gso
def test_report_tells_items_not_sent_and_merges_within_an_item(rig: Rig) -> None:
    rig.plan.load_segments([Segments(bytes(5), 1, A)] * 2 + [Segments(b"x", 1, B)], start=1)
    assert rig.plan.report() == [(1, 0, 5, 0), (2, 0, 1, 0)]
    rig.plan.split()
    assert rig.plan.attempt(rig.tx, 1) == (1, 0)
    for code in (errno.EPERM, errno.EPERM, errno.EIO):
        rig.plan.skip(code)
    expected = [(1, 1, 2, errno.EPERM), (1, 3, 1, errno.EIO), (1, 4, 1, 0), (2, 0, 1, 0)]
    assert rig.plan.report() == expected
    assert rig.counters.snapshot()["send_errors"] == 3
    assert rig.plan.datagrams_sent == 1


def test_an_unfit_item_is_named_and_nothing_is_held(rig: Rig) -> None:
    good = bytearray(b"good")
    pair = (good, A)
    cases: list[tuple[Any, type[Exception], str]] = [
        (7, TypeError, r"datagram 2: must be a pair \(data, address\), not int"),
        ((b"", A, 1), TypeError, r"datagram 2: must be a pair"),
        (("text", A), TypeError, "datagram 2: "),
        ((memoryview(bytes(8))[::2], A), ValueError, "datagram 2: .*contiguous"),
        ((b"x", None), ValueError, "datagram 2: no address, and the connection is not"),
        ((b"x", ("localhost", 1)), ValueError, "datagram 2: .*resolve"),
        ((b"x", ["127.0.0.1", 1]), TypeError, "datagram 2: "),
    ]
    for unfit, kind, text in cases:
        with pytest.raises(kind, match=text) as caught:
            rig.plan.load([pair, pair, unfit], start=1)
        good.extend(b"!")  # BufferError if a view of it lived on, in a traceback even
        assert rig.plan.n_messages == 0
        del caught
    with pytest.raises(TypeError, match="segments 0: "):
        rig.plan.load_segments([b"data"])
    with pytest.raises(ValueError, match="segments 0: no address"):
        rig.plan.load_segments([Segments(b"data", 4)])


def test_headers_are_written_into_all_buffers_or_none(rig: Rig) -> None:
    first = bytearray(b"12345678a")
    for unfit in (bytearray(3), bytes(9)):
        with pytest.raises(ValueError, match="buffer 1: "):
            rig.plan.load_to([first, unfit], rig.address, 8, b"headerhd")
        assert first == b"12345678a"
    with pytest.raises(ValueError, match="buffer 0: offset 8, but only 3 bytes"):
        rig.plan.load_to([b"123"], rig.address, 8)
    rig.plan.load_to([first], rig.address, 8, b"headerhd")
    rig.plan.attempt(rig.tx)
    rig.plan.load_to([first], rig.address, 8)
    rig.plan.attempt(rig.tx)
    assert [rig.sink.recv(99) for _ in range(2)] == [b"headerhda", b"a"]


def test_a_failed_message_leaves_the_position_exact(rig: Rig) -> None:
    rig.plan.load([(bytes(70000), rig.address), (b"next", B)])
    assert rig.plan.attempt(rig.tx) == (0, errno.EMSGSIZE)
    rig.plan.skip(errno.EMSGSIZE)
    assert rig.plan.attempt(rig.tx) == (1, 0)
    assert rig.plan.attempt(rig.tx) == (0, 0)
    assert rig.plan.report() == [(0, 0, 1, errno.EMSGSIZE)]


# Peers


def test_spellings_of_one_sockaddr_are_one_peer(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET6, True, 64)
    peer = peers.get(("127.0.0.1", 9))
    assert peers.get(("::ffff:127.0.0.1", 9, 0, 0)) is peer
    assert peers.get(("::FFFF:7f00:1", 9)) is peer
    assert peer.address == ("::ffff:127.0.0.1", 9, 0, 0)
    assert peers.get(("127.0.0.1", 10)) is not peer
    with pytest.raises(ValueError, match="no address, and the connection is not connected"):
        peers.get(None)
    peers.connect(("::ffff:127.0.0.1", 9))
    assert peers.get(None) is peer


def test_peers_are_bounded_and_the_connected_one_stays(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64, 4)
    peers.connect(A)
    connected = peers.get(None)
    for port in range(1, 50):
        peers.get(("127.0.0.2", port))
    assert len(peers) <= 5
    assert peers.get(A) is connected


def test_datagrams_to_the_connected_peer_go_without_address(backend: Any) -> None:
    with contextlib.closing(Rig(backend)) as rig:
        rig.source.connect(rig.address)
        rig.peers.connect(rig.address)
        rig.plan.load([(b"one", None), (b"two", rig.address)])
        assert rig.layout()[0][0] == rig.address[1]
        assert [rig.sink.recv(9) for _ in range(2)] == [b"one", b"two"]


# Descriptor


def test_a_closed_descriptor_is_refused_to_all(rig: Rig) -> None:
    rig.plan.load([(b"x", A)])
    rig.tx.close()
    rig.tx.close()
    rig.rx.close()
    assert (rig.tx.closed, rig.tx.fileno()) == (True, -1)
    assert rig.plan.attempt(rig.tx) == (0, errno.EBADF)
    assert rig.slots.attempt(rig.rx) == (0, errno.EBADF)
    with pytest.raises(OSError, match="Bad file descriptor"), rig.tx:
        pass
    rig.tx.wait(select.POLLIN, -1.0, rig.tx.ticket)


def test_who_leaves_last_closes(rig: Rig) -> None:
    fd = rig.tx.fileno()
    with rig.tx, rig.tx as sock:
        rig.tx.close()
        assert sock.fileno() == fd
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("how", ["kick", "close"])
def test_every_sleeper_wakes(rig: Rig, how: str) -> None:
    ticket = rig.rx.ticket
    sleepers = [
        threading.Thread(target=rig.rx.wait, args=(select.POLLIN, -1.0, ticket), daemon=True)
        for _ in range(4)
    ]
    for sleeper in sleepers:
        sleeper.start()
    getattr(rig.rx, how)()
    for sleeper in sleepers:
        sleeper.join(PATIENCE_S)
        assert not sleeper.is_alive()


def test_the_wake_up_is_drained_when_all_who_were_kicked_have_left(rig: Rig) -> None:
    done = threading.Event()

    def sleep() -> None:
        while not done.is_set():
            rig.rx.wait(select.POLLIN, 0.001, rig.rx.ticket)

    sleepers = [threading.Thread(target=sleep, daemon=True) for _ in range(4)]
    for sleeper in sleepers:
        sleeper.start()
    for _ in range(2000):
        rig.rx.kick()
    done.set()
    for sleeper in sleepers:
        sleeper.join(PATIENCE_S)
    start = time.monotonic()
    rig.rx.wait(select.POLLIN, 0.05, rig.rx.ticket)
    assert time.monotonic() - start >= 0.049


def test_an_old_ticket_does_not_sleep_and_data_wakes(rig: Rig) -> None:
    ticket = rig.rx.ticket
    rig.rx.kick()
    assert rig.rx.ticket != ticket
    rig.rx.wait(select.POLLIN, -1.0, ticket)
    rig.send(b"data")
    rig.rx.wait(select.POLLIN, -1.0, rig.rx.ticket)
    rig.tx.wait(select.POLLOUT, -1.0, rig.tx.ticket)


def test_release_undoes_the_taking(backend: Any) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        descriptor = backend.Descriptor(sock)
        assert sock.gettimeout() == 0
        assert descriptor.release() is sock
        assert sock.fileno() >= 0
        assert descriptor.closed


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # fork beside threads, of pytest's
@pytest.mark.parametrize("is_told", [True, False])
def test_a_childs_close_leaves_the_parents_sleepers_alone(rig: Rig, is_told: bool) -> None:
    child = os.fork()
    if child == 0:
        try:
            if is_told:
                rig.rx.after_fork()
                rig.slots.after_fork()
            rig.rx.kick()
            rig.rx.close()
        finally:
            os._exit(0 if rig.rx.closed else 1)
    assert os.waitpid(child, 0)[1] == 0
    start = time.monotonic()
    rig.rx.wait(select.POLLIN, 0.05, rig.rx.ticket)
    assert time.monotonic() - start >= 0.049
    rig.send(b"still there")
    assert rig.slots.attempt(rig.rx) == (1, 0)


@pytest.mark.parametrize("kind", [bytearray, lambda n: memoryview(bytearray(n))])
def test_a_loaded_plan_that_became_garbage_takes_back_what_it_lent(
    rig: Rig, kind: Callable[[int], Any], capfd: pytest.CaptureFixture[str]
) -> None:
    plan = type(rig.plan)(rig.peers, rig.counters)
    items: list[Any] = [(kind(1000), A) for _ in range(5)]
    plan.load(items)
    items.insert(0, plan)  # before what it borrows, as the collector goes
    del plan, items
    gc.collect()
    assert "exported buffers" not in capfd.readouterr().err
