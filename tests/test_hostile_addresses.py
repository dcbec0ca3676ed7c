"""Hostile addresses and pairs, tables that are flooded, threads in each other's way."""

from __future__ import annotations

import contextlib
import errno
import gc
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from seam_rig import A, Rig

PATIENCE_S = 20.0
UNFIT = (TypeError, ValueError, AttributeError, IndexError, OverflowError)


def message(rig: Rig) -> Any:
    return rig.backend.Message([bytearray(64)], bytearray(64))


class Vain(str):
    """A host that claims to be equal to every other, and hashes as it likes."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


class Port(int):
    """A port that claims to be every other."""

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparing")

    __hash__ = int.__hash__


class Pair(tuple[Any, ...]):
    """A tuple that lies about its length, content and hash."""

    __slots__ = ()

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return iter(("127.0.0.1", 9))

    def __hash__(self) -> int:
        raise RuntimeError("no hash")


def test_addresses_that_only_look_like_others_are_told_apart(rig: Rig) -> None:
    plain = rig.peers.get(("127.0.0.1", 9))
    assert rig.peers.get((Vain("127.0.0.1"), 9)) is plain
    assert rig.peers.get((Vain("127.0.0.2"), 9)) is not plain
    assert rig.peers.get(("127.0.0.1", Port(9))) is plain
    assert rig.peers.get(("127.0.0.1", Port(8))).address == ("127.0.0.1", 8)
    assert rig.peers.get(("127.0.0.1", True)).address == ("127.0.0.1", 1)
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        assert rig.peers.get(Pair(("127.0.0.1", 9, 9, 9, 9))) is plain
    for address in (("127.0.0.1", 9), ("127.0.0.2", 9), ("127.0.0.1", 8), ("127.0.0.1", 1)):
        assert rig.peers.get(address).address == address
        assert all(type(field) in (str, int) for field in rig.peers.get(address).address)


def test_pairs_of_other_kinds_are_unpacked_or_refused(rig: Rig) -> None:
    items = [[b"one", rig.address], Pair((b"two", rig.address, 3))]
    with contextlib.suppress(TypeError, ValueError):
        rig.plan.load(items)
    rig.plan.load(items[:1])
    assert rig.plan.attempt(rig.tx) == (1, 0)
    assert rig.sink.recv(9) == b"one"


def test_iterable_that_changes_the_list_that_is_loaded_is_survived(rig: Rig) -> None:
    items: list[Any] = []

    class Saboteur(tuple[Any, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Any]:
            items.clear()
            gc.collect()
            return iter((b"x", rig.address))

    items.extend([(bytes(50), rig.address), Saboteur((b"x", rig.address))])
    items.extend((bytes(50), rig.address) for _ in range(100))
    with contextlib.suppress(*UNFIT):
        rig.plan.load(items)
    rig.plan.release()


def test_flood_of_addresses_leaves_a_plan_its_peers(backend: Any) -> None:
    with contextlib.closing(Rig(backend)) as rig:
        peers = backend.Peers(socket.AF_INET, False, 64, 8)
        plan = backend.SendPlan(peers, rig.counters)
        flood = [("127.1.0.1", port) for port in range(1, 300)]
        plan.load([(b"first", rig.address)] + [(b"x", to) for to in flood])
        for port in range(3000):
            peers.get(("127.2.0.1", port))
        gc.collect()
        assert len(peers) <= 9
        assert plan.peer().address == rig.address
        assert plan.attempt(rig.tx, 1) == (1, 0)
        assert rig.sink.recv(9) == b"first"
        seen = []
        while plan.left:
            seen.append(plan.peer().address)
            plan.skip(1)
        assert seen == flood
        plan.release()


def test_a_flood_of_newcomers_pushes_out_itself_and_not_who_is_in_use(backend: Any) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64, 16)
    in_use = peers.get(("127.0.0.1", 1))
    for i in range(1000):
        peers.get(("127.0.0.2", 1 + i))
        if i % 10 == 0:
            assert peers.get(("127.0.0.1", 1)) is in_use
    assert len(peers) == 16


@pytest.mark.parametrize("capacity", [1, 2])
def test_smallest_table_still_has_room_beside_the_connected_peer(
    backend: Any, capacity: int
) -> None:
    peers = backend.Peers(socket.AF_INET, False, 64, capacity)
    peers.connect(A)
    for port in range(20):
        assert peers.get(("127.0.0.9", port)).address == ("127.0.0.9", port)
    assert peers.get(A) is peers.get(None)
    with pytest.raises(ValueError, match="capacity 0, must be at least 1"):
        backend.Peers(socket.AF_INET, False, 64, 0)


def test_interfaces_name_is_looked_up_each_time(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = backend.Peers(socket.AF_INET6, False, 64)
    address = ("fe80::1%renamed0", 9)
    for index in (7, 8):
        monkeypatch.setattr(socket, "if_nametoindex", lambda _name, index=index: index)
        assert peers.get(address).address == ("fe80::1", 9, 0, index)


# Threads


def test_threads_that_attempt_and_take_lose_and_double_nothing(backend: Any) -> None:
    with contextlib.closing(Rig(backend)) as rig:
        rig.sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        n = 1500
        got: list[bytes] = []
        done = threading.Event()
        errors: list[BaseException] = []

        def work(take: Callable[[], list[bytes]]) -> None:
            try:
                while not done.is_set():
                    rig.slots.attempt(rig.rx)
                    got.extend(take())
                    rig.slots.shrink()
                    if len(got) >= n:
                        done.set()
            except BaseException as error:  # noqa: BLE001  told by the assertion below
                errors.append(error)
                done.set()

        def fill() -> list[bytes]:
            msgs = [message(rig) for _ in range(3)]
            return [bytes(msg.data) for msg in msgs[: rig.slots.take_into(msgs)]]

        takes: list[Callable[[], list[bytes]]] = [
            lambda: [data for data, _ in rig.slots.take(2)],
            lambda: [data for data, _ in rig.slots.take()],
            lambda: [data for train in rig.slots.take_segments() for data in train.tolist()],
            fill,
        ]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=work, args=(take,), daemon=True) for take in takes]
        try:
            for thread in threads:
                thread.start()
            for i in range(n):
                rig.send(i.to_bytes(2, "big"))
                if i % 100 == 99:  # so that the queue never overflows
                    while len(got) < i - 100 and not done.is_set():
                        rig.slots.attempt(rig.rx)
            done.wait(PATIENCE_S)
            done.set()
            for thread in threads:
                thread.join(PATIENCE_S)
        finally:
            sys.setswitchinterval(interval)
        assert errors == []
        assert sorted(got) == [i.to_bytes(2, "big") for i in range(n)]
        assert rig.slots.pending == 0


def test_a_peer_forgotten_while_loading_does_not_reorder_its_datagrams(backend: Any) -> None:
    with contextlib.closing(Rig(backend)) as rig:
        first = rig.address
        equal = (first[0], first[1])
        table = backend.Peers(socket.AF_INET, False, 64, 4)
        table.get(first)  # the first to be forgotten when all are as much in use
        for port in range(1, 4):
            table.get(("127.0.0.1", port))
        rig.plan = backend.SendPlan(table, rig.counters)
        newcomer = (b"n", ("127.0.0.1", 10))
        rig.plan.load(
            [(b"0", first), newcomer, (b"1", first), (b"2", equal), (b"3", first), (b"4", equal)]
        )
        while rig.plan.left:
            if rig.plan.attempt(rig.tx)[1]:
                rig.plan.skip(errno.EIO)
        received = []
        while rig.slots.attempt(rig.rx)[0]:
            received += [data for data, _ in rig.slots.take()]
        assert received == [b"0", b"1", b"2", b"3", b"4"]
