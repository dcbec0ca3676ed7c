"""Receiving through recv_batch and recv_segments, over real sockets on loopback."""

from __future__ import annotations

import errno
import select
import socket

import pytest

from batching import Conn, Segments, open_conn
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    assert_nothing_left,
    gather,
    messages,
    needs_gso,
    needs_ipv6,
    needs_linux,
    needs_whole_trains,
    start_reader,
    until,
)

pytestmark = pytest.mark.kernel


@pytest.fixture
def conn(conn: Conn) -> Conn:
    conn.settimeout(PATIENCE_S)
    return conn


def numbered(n: int, size: int = 8) -> list[bytes]:
    return [i.to_bytes(4, "big") * (size // 4) for i in range(n)]


def test_a_datagram_comes_with_its_sender(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"hello")
    assert conn.recv_batch() == [(b"hello", peer.address)]


@needs_ipv6
def test_a_sender_is_a_tuple_of_four_on_ipv6() -> None:
    with open_conn(("::1", 0)) as conn, PlainPeer("::1") as peer:
        peer.send(conn.local_addr(), b"hello")
        assert conn.recv_batch() == [(b"hello", ("::1", peer.address[1], 0, 0))]


@needs_ipv6
def test_an_ipv4_sender_is_v4_mapped_on_a_dual_stack_conn() -> None:
    with open_conn(("::", 0)) as conn, PlainPeer() as peer:
        peer.send((HOST, conn.local_addr()[1]), b"hello")
        assert conn.recv_batch() == [(b"hello", ("::ffff:127.0.0.1", peer.address[1], 0, 0))]


def test_a_peer_is_one_tuple_object(conn: Conn, peer: PlainPeer) -> None:
    senders = []
    for _ in range(3):
        peer.send(conn.local_addr(), b"a", b"b")
        senders += [addr for _, addr in conn.recv_batch()]
    assert len({id(addr) for addr in senders}) == 1


def test_many_datagrams_come_in_order(conn: Conn, peer: PlainPeer) -> None:
    sent = numbered(300)
    peer.send(conn.local_addr(), *sent)
    assert gather(conn, len(sent)) == sent


def test_datagrams_of_all_sizes_come_whole(conn: Conn, peer: PlainPeer) -> None:
    sent = [bytes([n % 251]) * n for n in (1, 0, 1472, 9000, 65507, 0, 2)]
    peer.send(conn.local_addr(), *sent)
    assert gather(conn, len(sent)) == sent


def test_empty_datagrams_are_datagrams(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"", b"")
    assert gather(conn, 2) == [b"", b""]


@needs_gso
@pytest.mark.parametrize(
    ("n_bytes", "segment_size"),
    [
        pytest.param(64 * 100, 100, id="64 equal segments"),
        pytest.param(64 * 1000 + 1 - 1000, 1000, id="63 and a short one"),
        pytest.param(100, 60, id="2, the last one short"),
        pytest.param(64, 1, id="64 of one byte"),
    ],
)
def test_a_train_is_cut_where_its_datagrams_end(
    conn: Conn, peer: PlainPeer, n_bytes: int, segment_size: int
) -> None:
    data = bytes(i % 251 for i in range(n_bytes))
    peer.send_train(conn.local_addr(), data, segment_size)
    expected = [data[i : i + segment_size] for i in range(0, n_bytes, segment_size)]
    assert gather(conn, len(expected)) == expected


@needs_gso
def test_trains_of_more_than_64_segments_are_no_overflow(conn: Conn, peer: PlainPeer) -> None:
    n = conn.offload.max_segments
    if n < 128:
        pytest.skip("the kernel sends 64 segments at most: needs Linux 6.9")
    data = bytes(range(256)) * 6
    for _ in range(3):
        peer.send_train(conn.local_addr(), data, 12)
    assert gather(conn, 3 * 128) == 3 * [data[i : i + 12] for i in range(0, len(data), 12)]


@needs_gso
def test_trains_empty_datagrams_and_single_ones_keep_their_order(
    conn: Conn, peer: PlainPeer
) -> None:
    to = conn.local_addr()
    peer.send(to, b"first", b"")
    peer.send_train(to, b"aaabbbc", 3)
    peer.send(to, b"", b"last")
    assert gather(conn, 7) == [b"first", b"", b"aaa", b"bbb", b"c", b"", b"last"]


def test_max_datagrams_is_a_limit(conn: Conn, peer: PlainPeer) -> None:
    sent = numbered(10)
    peer.send(conn.local_addr(), *sent)
    sizes = []
    received: list[bytes] = []
    while len(received) < 10:
        got = conn.recv_batch(3)
        sizes.append(len(got))
        received += [data for data, _ in got]
    assert received == sent
    assert max(sizes) <= 3
    assert_nothing_left(conn)


@needs_whole_trains
def test_the_rest_of_a_train_waits_and_is_pending(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"0123456789", 1)
    assert conn.pending == 0
    assert conn.recv_batch(4) == [(b"%d" % i, peer.address) for i in range(4)]
    assert conn.pending == 6
    assert conn.recv_batch(100) == [(b"%d" % i, peer.address) for i in range(4, 10)]
    assert conn.pending == 0


@needs_whole_trains
def test_what_waits_goes_on_in_whichever_call_comes_next(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"0123456789", 1)
    assert [data for data, _ in conn.recv_batch(2)] == [b"0", b"1"]
    msgs = messages(3)
    assert conn.read_batch(msgs) == 3
    assert [bytes(msg.data) for msg in msgs] == [b"2", b"3", b"4"]
    assert [data for data, _ in conn.recv_batch(1)] == [b"5"]
    (train,) = conn.recv_segments()
    assert train.tolist() == [b"6", b"7", b"8", b"9"]
    assert train.addr == peer.address
    assert_nothing_left(conn)


@needs_whole_trains
def test_segments_left_of_a_large_train_are_a_train(conn: Conn, peer: PlainPeer) -> None:
    data = bytes(i % 251 for i in range(10 * 1400 + 7))
    peer.send_train(conn.local_addr(), data, 1400)
    assert conn.recv_batch(1) == [(data[:1400], peer.address)]
    (train,) = conn.recv_segments()
    assert bytes(train.data) == data[1400:]
    assert (len(train), train.segment_size) == (10, 1400)


def test_recv_segments_tells_single_datagrams_too(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"one", b"", bytes(5000))
    trains: list[Segments] = []
    while len(trains) < 3:
        trains += conn.recv_segments()
    assert [train.tolist() for train in trains] == [[b"one"], [b""], [bytes(5000)]]
    assert [len(train) for train in trains] == [1, 1, 1]
    assert {train.addr for train in trains} == {peer.address}
    assert not any(train.truncated for train in trains)


@needs_whole_trains
@pytest.mark.parametrize("segment_size", [20, 1400], ids=["copied", "in place"])
def test_kept_segments_do_not_change(conn: Conn, peer: PlainPeer, segment_size: int) -> None:
    kept: list[Segments] = []
    sent = [bytes([i]) * segment_size * 40 for i in range(60)]
    for data in sent:
        peer.send_train(conn.local_addr(), data, segment_size)
        kept += conn.recv_segments()
    assert [bytes(train.data) for train in kept] == sent
    assert all(train.data.readonly for train in kept)
    assert all(len(train) == 40 for train in kept)


@needs_whole_trains
def test_a_view_outlives_the_conn(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"x" * 14000, 1400)
    (train,) = conn.recv_segments()
    last = train[9]
    conn.close()
    del train
    assert last == b"x" * 1400


def test_without_gro_a_train_comes_as_its_datagrams(peer: PlainPeer) -> None:
    with open_conn(ANY_PORT, gro="off") as conn:
        peer.send(conn.local_addr(), b"aa", b"bb", b"c")
        assert gather(conn, 3) == [b"aa", b"bb", b"c"]
        assert not conn.offload.gro


def test_an_echo_is_one_line(conn: Conn, peer: PlainPeer) -> None:
    sent = numbered(50)
    peer.send(conn.local_addr(), *sent)
    echoed = 0
    while echoed < 50:
        echoed += conn.send_batch(conn.recv_batch())
    assert peer.collect_pairs(50) == [(data, conn.local_addr()) for data in sent]


def test_a_call_waits_for_the_first_datagram(conn: Conn, peer: PlainPeer) -> None:
    waiting = start_reader(conn, conn.recv_batch)
    assert not waiting.done()
    peer.send(conn.local_addr(), b"late")
    assert waiting.result(PATIENCE_S) == [(b"late", peer.address)]


@pytest.mark.parametrize("call", ["recv_batch", "recv_segments"])
def test_a_non_blocking_conn_with_nothing_would_block(conn: Conn, call: str) -> None:
    conn.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        getattr(conn, call)()
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize("call", ["recv_batch", "recv_segments"])
def test_a_timeout_ends_a_call(conn: Conn, call: str) -> None:
    conn.settimeout(0.01)
    with pytest.raises(TimeoutError) as caught:
        getattr(conn, call)()
    assert caught.value.errno == errno.ETIMEDOUT


@needs_linux
def test_a_refusal_is_raised_once_on_a_connected_conn() -> None:
    with PlainPeer() as peer, open_conn(None, peer.address) as conn:
        conn.settimeout(PATIENCE_S)
        peer.sock.close()
        conn.send_batch([(b"into the void", None)])
        with pytest.raises(ConnectionRefusedError) as caught:
            conn.recv_batch()
        assert caught.value.errno == errno.ECONNREFUSED
        conn.setblocking(False)
        with pytest.raises(BlockingIOError):
            conn.recv_batch()


@needs_linux
def test_a_refusal_wakes_a_reader() -> None:
    with PlainPeer() as peer, open_conn(None, peer.address) as conn:
        peer.sock.close()
        waiting = start_reader(conn, conn.recv_segments)
        conn.send_batch([(b"into the void", None)])
        with pytest.raises(ConnectionRefusedError):
            waiting.result(PATIENCE_S)


def test_a_connected_conn_hears_its_peer_only(peer: PlainPeer) -> None:
    with open_conn(ANY_PORT, peer.address) as conn, PlainPeer() as stranger:
        stranger.send(conn.local_addr(), b"psst")
        peer.send(conn.local_addr(), b"hello")
        assert gather(conn, 1) == [b"hello"]


def test_stats_count_what_came(conn: Conn, peer: PlainPeer) -> None:
    peer.send(conn.local_addr(), b"abc", b"", b"de")
    gather(conn, 3)
    stats = conn.stats()
    assert (stats.recv_datagrams, stats.recv_messages, stats.recv_bytes) == (3, 3, 5)
    assert (stats.recv_trains, stats.recv_truncated, stats.recv_queue_drops) == (0, 0, 0)
    assert stats.recv_calls >= 1


@needs_whole_trains
def test_stats_count_trains_and_their_datagrams(conn: Conn, peer: PlainPeer) -> None:
    peer.send_train(conn.local_addr(), b"0123456789", 1)
    gather(conn, 10, max_datagrams=3)
    stats = conn.stats()
    assert (stats.recv_trains, stats.recv_messages, stats.recv_datagrams) == (1, 1, 10)


def test_the_descriptor_can_be_polled(conn: Conn, peer: PlainPeer) -> None:
    with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
        assert twin.getsockname() == conn.local_addr()
    peer.send(conn.local_addr(), b"x")
    until(lambda: conn.recv_batch() == [(b"x", peer.address)])


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="only Linux tells a shut-down socket")
@pytest.mark.parametrize("name", ["recv_batch", "recv_segments"])
def test_a_socket_that_was_shut_down_is_told_and_does_not_spin(name: str) -> None:
    with open_conn(("127.0.0.1", 0), ("127.0.0.1", 9)) as conn:
        with socket.socket(fileno=socket.dup(conn.fileno())) as twin:
            twin.shutdown(socket.SHUT_RD)
        conn.settimeout(PATIENCE_S)
        with pytest.raises(OSError, match="shut down") as raised:
            getattr(conn, name)()
        assert raised.value.errno == errno.ESHUTDOWN
        assert conn.stats().recv_calls < 10
