"""steer: which member of a group gets a datagram, as the kernel does it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator
from typing import Any

import pytest

from batching import Conn, _steering, open_conn, steer
from loopback import (
    ANY_PORT,
    HOST,
    PATIENCE_S,
    PlainPeer,
    needs_gso,
    needs_ipv6,
    needs_linux,
    needs_whole_trains,
)

pytestmark = [needs_linux, pytest.mark.kernel]
OFFSET = 6
MANY = 32  # sources: all of them hash to one of three members once in 3**31 runs


class Group:
    """Three members of one port, numbered as they joined."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.members = [open_conn((host, 0), reuse_port=True)]
        self.address = self.members[0].local_addr()[:2]
        for _ in range(2):
            self.members.append(self.join())

    def join(self) -> Conn:
        return open_conn(self.address, reuse_port=True)

    def close(self) -> None:
        for member in self.members:
            member.close()

    def receive(self, *expected: bytes) -> int:
        """Return the number of the one member that has what was just sent."""
        ready, _, _ = select.select(self.members, [], [], PATIENCE_S)
        (member,) = ready
        received: list[bytes] = []
        while len(received) < len(expected):
            received += [data for data, _ in member.recv_batch()]
        assert received == [*expected]
        return self.members.index(member)

    def taker(self, data: bytes) -> int:
        """Send from a source that was not there before; return who got it."""
        with PlainPeer(self.host) as peer:
            peer.send(self.address, data)
            return self.receive(data)

    def takers(self, data: bytes) -> set[int]:
        """Return who gets it from MANY sources."""
        return {self.taker(data) for _ in range(MANY)}


@pytest.fixture(params=[HOST, pytest.param("::1", marks=needs_ipv6)])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    with contextlib.closing(Group(request.param)) as made:
        yield made


def numbered(value: int) -> bytes:
    return bytes([9] * OFFSET + [value, 9])


def test_byte_of_the_payload_is_the_number_of_the_member(group: Group) -> None:
    steer(group.members[1], OFFSET)
    for value in (0, 1, 2):
        assert group.takers(numbered(value)) == {value}


def test_byte_is_taken_modulo_the_members_where_they_are_given(group: Group) -> None:
    steer(group.members[0], OFFSET, members=3)
    assert [group.taker(numbered(value)) for value in (3, 7, 254, 255)] == [0, 1, 2, 0]


def test_number_that_nobody_has_is_hashed_and_keeps_a_flow_together(group: Group) -> None:
    steer(group.members[0], OFFSET)
    assert len(group.takers(numbered(3))) > 1
    with PlainPeer(group.host) as peer:
        takers = set()
        for value in (3, 77, 255):
            peer.send(group.address, numbered(value))
            takers.add(group.receive(numbered(value)))
    assert len(takers) == 1


@pytest.mark.parametrize("data", [b"", bytes(OFFSET)], ids=["empty", "one byte too short"])
def test_datagram_without_that_byte_is_hashed(group: Group, data: bytes) -> None:
    steer(group.members[0], OFFSET)
    assert len(group.takers(data)) > 1


@needs_gso
@needs_whole_trains
def test_train_goes_whole_where_its_first_datagram_does(group: Group) -> None:
    steer(group.members[0], OFFSET)
    datagrams = [numbered(value) for value in (2, 0, 1)]
    with PlainPeer(group.host) as peer:
        peer.send_train(group.address, b"".join(datagrams), len(datagrams[0]))
    assert group.receive(*datagrams) == 2


def test_processor_that_received_it_is_the_number_of_the_member(group: Group) -> None:
    steer(group.members[0], "cpu", members=3)
    before = os.sched_getaffinity(0)
    try:
        for cpu in sorted(before)[:3]:
            os.sched_setaffinity(0, {cpu})  # over loopback, the sender's receives it
            assert {group.taker(b"data") for _ in range(8)} == {cpu % 3}
    finally:
        os.sched_setaffinity(0, before)


def test_who_joins_later_is_steered_to_and_the_last_takes_the_number_of_who_leaves(
    group: Group,
) -> None:
    steer(group.members[0], OFFSET)
    group.members.append(group.join())
    assert group.taker(numbered(3)) == 3
    first, second, third, fourth = group.members
    first.close()
    group.members = [fourth, second, third]
    assert [group.taker(numbered(value)) for value in range(3)] == [0, 1, 2]
    group.members.append(group.join())
    assert group.taker(numbered(3)) == 3


def test_hash_lets_addresses_and_ports_decide_again(group: Group) -> None:
    steer(group.members[0], "hash")  # it does: nothing to undo
    steer(group.members[0], OFFSET)
    steer(group.members[1], "cpu", members=1)
    assert group.takers(numbered(2)) == {0}
    steer(group.members[2], "hash")
    assert len(group.takers(numbered(2))) > 1


def test_what_waits_in_a_member_goes_with_its_socket_and_its_flows_to_the_others() -> None:
    with contextlib.closing(Group(HOST)) as group, PlainPeer() as peer:
        peer.send(group.address, b"before")
        (lost,) = select.select(group.members, [], [], PATIENCE_S)[0]
        lost.close()
        group.members.remove(lost)
        assert not select.select(group.members, [], [], 0)[0]
        peer.send(group.address, b"after")
        assert group.receive(b"after") in (0, 1)


def test_flows_of_others_move_too_when_a_member_leaves(group: Group) -> None:
    def takers() -> list[Conn]:
        found = []
        for peer in peers:
            peer.send(group.address, b"data")
            found.append(group.members[group.receive(b"data")])
        return found

    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(PlainPeer(group.host)) for _ in range(MANY)]
        before = takers()
        gone = group.members.pop(0)
        gone.close()
        after = takers()
    assert any(x is not gone and x is not y for x, y in zip(before, after, strict=True))


WRONG: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "by of another type": (1.5, {}, TypeError, "by must be str or int, not float"),
    "unknown word": ("core", {}, ValueError, "by 'core', must be 'cpu', 'hash' or 0 to 65526"),
    "negative offset": (-1, {}, ValueError, "by -1, must be"),
    "offset of no datagram": (65527, {}, ValueError, "by 65527, must be"),
    "members of another type": ("cpu", {"members": "2"}, TypeError, "members must be int, not str"),
    "members a switch": ("cpu", {"members": True}, TypeError, "members must be int, not bool"),
    "no members": ("cpu", {"members": 0}, ValueError, "members 0, must be 1 to 65535"),
    "more members than may be": (0, {"members": 65536}, ValueError, "members 65536, must be"),
}


@pytest.mark.parametrize(("by", "options", "error", "text"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_are_refused(
    by: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with open_conn(ANY_PORT, reuse_port=True) as conn, pytest.raises(error, match=text):
        steer(conn, by, **options)


def test_last_offset_is_taken() -> None:
    with open_conn(ANY_PORT, reuse_port=True) as conn:
        steer(conn, 65526, members=65535)


def test_what_is_no_connection_is_refused() -> None:
    with PlainPeer() as peer, pytest.raises(TypeError, match="conn must be Conn, not socket"):
        steer(peer.sock, "cpu")  # type: ignore[arg-type]


def test_connection_that_shares_no_port_is_refused(conn: Conn) -> None:
    with pytest.raises(ValueError, match="shares no port: it needs reuse_port=True"):
        steer(conn, "cpu")


def test_closed_connection_is_refused() -> None:
    conn = open_conn(ANY_PORT, reuse_port=True)
    conn.close()
    with pytest.raises(OSError, match="Bad file") as caught:
        steer(conn, "cpu")
    assert caught.value.errno == errno.EBADF


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_steering, "IS_LINUX", False)
    with (
        open_conn(ANY_PORT, reuse_port=True) as conn,
        pytest.raises(OSError, match="not available") as caught,
    ):
        steer(conn, "cpu")
    assert caught.value.errno == errno.ENOPROTOOPT
