"""Stats: a snapshot of one moment, and its histograms."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import threading
from typing import Any

import pytest

from batching import Conn, open_conn
from batching._stats import FrozenDict, stats_of
from batching.metrics import Sizes, Stats
from loopback import ANY_PORT, PlainPeer, needs_gso, needs_room, needs_whole_trains
from seam_rig import Rig

pytestmark = pytest.mark.kernel


def test_stats_begin_at_zero_and_are_compared_by_value() -> None:
    assert Stats() == Stats(recv_calls=0, gso_fallbacks=FrozenDict({}))
    assert Stats(send_bytes=1) != Stats()
    assert hash(Stats(gso_fallbacks=FrozenDict({"EIO": 1}))) == hash(
        Stats(gso_fallbacks=FrozenDict({"EIO": 1}))
    )


def test_stats_cannot_be_changed() -> None:
    stats = Stats(gso_fallbacks=FrozenDict({"EIO": 1}))
    with pytest.raises(AttributeError):
        stats.recv_calls = 1  # type: ignore[misc]
    fallbacks: Any = stats.gso_fallbacks
    for change in (
        lambda: fallbacks.__setitem__("EIO", 2),
        lambda: fallbacks.__delitem__("EIO"),
        lambda: fallbacks.__ior__({"EIO": 2}),
        lambda: fallbacks.update(EIO=2),
        lambda: fallbacks.setdefault("EPERM", 2),
        lambda: fallbacks.pop("EIO"),
        fallbacks.popitem,
        fallbacks.clear,
    ):
        with pytest.raises(TypeError, match="snapshot"):
            change()
    assert stats.gso_fallbacks == {"EIO": 1}


def test_stats_do_not_follow_the_mapping_that_they_were_made_of() -> None:
    fallbacks = {"EIO": 1}
    stats = Stats(gso_fallbacks=FrozenDict(fallbacks))
    fallbacks["EIO"] = 2
    assert stats.gso_fallbacks["EIO"] == 1


def test_stats_can_be_pickled_copied_and_made_json() -> None:
    stats = Stats(send_datagrams=128, gso_fallbacks=FrozenDict({"EMSGSIZE": 2}))
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert copy.deepcopy(stats) == stats
    assert json.loads(json.dumps(stats._asdict()))["gso_fallbacks"] == {"EMSGSIZE": 2}


def test_sizes_can_be_pickled_copied_and_made_json() -> None:
    sizes = Sizes([1, 0, 0, 0, 0, 0, 0, 2, 3])
    assert (pickle.loads(pickle.dumps(sizes)), copy.deepcopy(sizes)) == (sizes, sizes)
    assert type(pickle.loads(pickle.dumps(sizes))) is Sizes
    assert json.loads(json.dumps(sizes)) == list(sizes)
    assert sizes.total == 6
    assert len(sizes) == len(sizes.bounds) + 1


def histogram(*sizes: int) -> Sizes:
    """Count sizes the slow and obvious way."""
    bounds = (*Sizes.bounds, sys.maxsize)
    places = [next(i for i, bound in enumerate(bounds) if size <= bound) for size in sizes]
    return Sizes(places.count(i) for i in range(len(bounds)))


@needs_gso
@needs_room
def test_each_message_sent_is_counted_by_its_datagrams(conn: Conn, peer: PlainPeer) -> None:
    most = conn.offload.max_segments
    sizes = [n for n in (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 128) if n <= most]
    for n in sizes:
        conn.send_batch([(b"x", peer.address)] * n)
    stats = conn.stats()
    assert stats.send_datagrams_per_message == histogram(*sizes)
    assert stats.send_messages_per_call == histogram(*[1] * len(sizes))
    assert stats.send_datagrams_per_message.total == stats.send_messages == len(sizes)
    assert stats.send_trains == len(sizes) - 1
    assert stats.send_datagrams == sum(sizes)


@needs_whole_trains
@needs_room
def test_each_message_received_is_counted_by_its_datagrams(conn: Conn, peer: PlainPeer) -> None:
    sizes = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64)
    for n in sizes:
        peer.send_train(conn.local_addr(), bytes(n) if n > 1 else b"x", 1)
        assert len(conn.recv_batch()) == n
    stats = conn.stats()
    assert stats.recv_datagrams_per_message == histogram(*sizes)
    assert stats.recv_messages_per_call == histogram(*[1] * len(sizes))
    assert stats.recv_trains == len(sizes) - 1


@needs_room
def test_each_call_is_counted_by_its_messages(conn: Conn, peer: PlainPeer) -> None:
    n_sent = 0
    for n in (1, 2, 5, 130, 300):
        conn.send_batch([(bytes(1 + i % 2), peer.address) for i in range(2 * n)])
        n_sent += 2 * n
    peer.send(conn.local_addr(), *[b"one"] * 4)
    received = [conn.recv_batch()]
    while sum(map(len, received)) < 4:
        received.append(conn.recv_batch())
    stats = conn.stats()
    assert stats.send_datagrams == n_sent
    assert stats.recv_messages == 4
    for sizes, calls, messages in (
        (stats.send_messages_per_call, stats.send_calls, stats.send_messages),
        (stats.recv_messages_per_call, stats.recv_calls, stats.recv_messages),
    ):
        assert 0 < sizes.total <= calls
        assert sizes.total <= messages
    if conn.offload.backend == "portable":  # one system call a message
        assert stats.recv_messages_per_call == histogram(1, 1, 1, 1)
        assert sum(stats.send_messages_per_call[1:]) == 0
    else:
        assert stats.recv_messages_per_call == histogram(*map(len, received))
        assert stats.send_messages_per_call[-1] > 0


def test_calls_that_bring_nothing_are_in_no_histogram(conn: Conn) -> None:
    conn.setblocking(False)
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            conn.recv_batch()
    stats = conn.stats()
    assert stats.recv_calls == 3
    assert (stats.recv_messages_per_call.total, stats.recv_datagrams_per_message.total) == (0, 0)


def test_an_empty_datagram_is_a_message_of_one(conn: Conn) -> None:
    conn.send_batch([(b"", conn.local_addr())])
    assert conn.recv_batch() == [(b"", conn.local_addr())]
    stats = conn.stats()
    assert stats.send_datagrams_per_message == stats.recv_datagrams_per_message == histogram(1)
    assert stats.recv_bytes == stats.send_bytes == 0


def test_a_message_that_fails_is_not_counted_as_sent(conn: Conn) -> None:
    before = conn.stats()
    with pytest.raises(OSError, match="too long"):
        conn.send_batch([(bytes(65508), ("127.0.0.1", 9))])
    after = conn.stats()
    assert after.send_datagrams_per_message == before.send_datagrams_per_message
    assert after.send_messages_per_call == before.send_messages_per_call
    assert after.send_errors == 1


def test_the_core_counts_everything_that_stats_tell(rig: Rig) -> None:
    counted = rig.counters.snapshot()
    elsewhere = {"recv_queue_drops", "transport_errors_lost", "gso_fallbacks"}
    derived = {f"{way}_{what}" for way in ("recv", "send") for what in ("messages", "trains")}
    assert counted.keys() == set(Stats._fields) - elsewhere - derived
    assert stats_of(counted) == Stats()


def test_a_snapshot_is_of_one_moment(peer: PlainPeer) -> None:
    torn: list[Any] = []
    is_over = threading.Event()
    with open_conn(ANY_PORT) as conn:

        def look() -> None:
            while not is_over.is_set():
                seen = conn.stats()
                if seen.send_bytes != 2 * seen.send_datagrams or (
                    seen.send_datagrams != 3 * seen.send_messages_per_call.total
                ):
                    torn.append(seen)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        threads = [threading.Thread(target=look) for _ in range(2)]
        try:
            for thread in threads:
                thread.start()
            for _ in range(2000):
                conn.send_batch([(b"xx", peer.address)] * 3)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
            sys.setswitchinterval(interval)
        assert not torn
        assert conn.stats().send_datagrams == 6000
