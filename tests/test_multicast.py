"""Multicast: groups joined and left, and trains that are sent to them; in namespaces."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import pytest

from batching import Conn, Segments, open_conn
from batching import _multicast as multicast
from batching._kernel import SOL_IP, SOL_IPV6
from loopback import PATIENCE_S, assert_nothing_left, needs_ipv6, needs_linux
from netns import Link, link, needs_netns

pytestmark = [pytest.mark.kernel, needs_linux, needs_netns, needs_ipv6]


class Group(NamedTuple):
    """A group, and who speaks to it how."""

    host: str
    local: str
    """Where receivers are bound."""
    source: str
    """Of what left sends."""
    told: str
    """The group as local_addr has it."""


GROUPS: Final = {
    "IPv4": Group("239.9.8.7", "0.0.0.0", "10.9.0.1", "239.9.8.7"),
    "IPv6": Group("ff15::9", "::", "fd09::1", "ff15::9"),
    "IPv6, link": Group("ff02::4242", "::", "", "ff02::4242"),
    "v4-mapped": Group("239.9.8.7", "::", "10.9.0.1", "::ffff:239.9.8.7"),
}
each_group = pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)


@pytest.fixture(scope="module")
def net() -> Iterator[Link]:
    with link() as net:
        net.left.ip("link set lo multicast on")
        yield net


class Stage:
    """A sender on the left, and receivers on the right."""

    def __init__(self, net: Link, group: Group, stack: ExitStack) -> None:
        self.net, self.group, self.stack = net, group, stack
        with net.left:
            self.sender = stack.enter_context(open_conn((group.local, 0)))
            self.sender.set_multicast(interface="v0")

    def receiver(self, port: int = 0, **options: Any) -> Conn:
        with self.net.right:
            conn = open_conn((self.group.local, port), pktinfo=True, **options)
        conn.settimeout(PATIENCE_S)
        return self.stack.enter_context(conn)

    def join(self, conn: Conn, *, source: str | None = None) -> None:
        with self.net.right:  # where an interface's name means something
            conn.join_group(self.group.host, "v1", source=source)

    def leave(self, conn: Conn, *, source: str | None = None) -> None:
        with self.net.right:
            conn.leave_group(self.group.host, "v1", source=source)

    def send(self, port: int, *trains: bytes, size: int = 100) -> None:
        to = (self.group.host, port)
        n = self.sender.send_segments([Segments(data, size, to) for data in trains])
        assert n == sum(len(data) // size or 1 for data in trains)


@pytest.fixture
def stage(net: Link, group: Group) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(net, group, stack)


def receive(conn: Conn, n: int) -> list[Segments]:
    trains: list[Segments] = []
    while sum(len(train) for train in trains) < n:
        trains += conn.recv_segments()
    assert_nothing_left(conn)
    return trains


def data_of(trains: list[Segments]) -> bytes:
    return b"".join(bytes(train.data) for train in trains)


@each_group
def test_trains_reach_who_has_joined_until_it_leaves(stage: Stage) -> None:
    conn = stage.receiver()
    port = conn.local_addr()[1]
    stage.send(port, b"before")
    stage.join(conn)
    sent = bytes(range(250)) * 12
    stage.send(port, sent, b"single")
    trains = receive(conn, 31)
    assert data_of(trains) == sent + b"single"
    assert {train.local_addr[0] for train in trains if train.local_addr} == {stage.group.told}
    assert trains[0].segment_size == 100
    stage.leave(conn)
    stage.send(port, b"after")
    with stage.net.left:
        own = Link.RIGHT[0] if ":" not in stage.group.host else Link.RIGHT[1]
    stage.sender.send_batch([(b"end", (own, port))])
    assert data_of(receive(conn, 1)) == b"end"


@each_group
def test_trains_to_a_group_are_whole_and_teach_nothing(stage: Stage) -> None:
    conn = stage.receiver()
    stage.join(conn)
    stage.send(conn.local_addr()[1], *[bytes([i]) * 3000 for i in range(5)])
    assert data_of(receive(conn, 150)) == b"".join(bytes([i]) * 3000 for i in range(5))
    stats = stage.sender.stats()
    assert (stats.send_messages, stats.send_trains) == (5, 5)
    assert not stats.gso_fallbacks


@each_group
def test_a_group_is_answered_from_an_address_of_ours(stage: Stage) -> None:
    conn = stage.receiver()
    stage.join(conn)
    stage.send(conn.local_addr()[1], b"question")
    trains = receive(conn, 1)
    assert conn.send_segments(trains) == 1
    stage.sender.settimeout(PATIENCE_S)
    [(data, sender)] = stage.sender.recv_batch()
    assert (data, sender[1]) == (b"question", conn.local_addr()[1])
    if stage.group.source:
        assert sender[0].removeprefix("::ffff:") in Link.RIGHT


@each_group
@pytest.mark.parametrize("how", ["reuse_port", "reuse_addr"])
def test_several_receivers_of_one_port_each_get_everything(stage: Stage, how: str) -> None:
    first = stage.receiver(**{how: True})
    port = first.local_addr()[1]
    others = [stage.receiver(port, **{how: True}) for _ in range(2)]
    for conn in (first, *others):
        stage.join(conn)
    sent = bytes(range(200)) * 10
    stage.send(port, sent)
    for conn in (first, *others):
        assert data_of(receive(conn, 20)) == sent


def test_who_shares_a_port_by_reuse_addr_wants_it_of_all(net: Link) -> None:
    """Other programs set SO_REUSEADDR alone: SO_REUSEPORT does not share with these."""
    with net.right, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", 0))
        taken = other.getsockname()
        with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EADDRINUSE}]")):
            open_conn(taken, reuse_port=True)
        with open_conn(taken, reuse_addr=True) as conn:
            assert conn.local_addr() == taken


@pytest.mark.parametrize("group", [GROUPS["IPv4"], GROUPS["IPv6"], GROUPS["v4-mapped"]], ids=str)
def test_only_the_source_that_was_asked_for_is_heard(stage: Stage, group: Group) -> None:
    specific = {"239.9.8.7": "232.9.8.7", "ff15::9": "ff35::9"}[group.host]  # RFC 4607
    stage.group = group._replace(host=specific)
    # Not by reuse_port: of such a group the kernel may give to one what another has joined.
    heard = stage.receiver(reuse_addr=True)
    port = heard.local_addr()[1]
    deaf = stage.receiver(port, reuse_addr=True)
    other = {"10.9.0.1": "10.9.0.99", "fd09::1": "fd09::99"}[group.source]
    stage.join(heard, source=group.source)
    stage.join(deaf, source=other)
    stage.send(port, bytes(300))
    assert len(data_of(receive(heard, 3))) == 300
    assert_nothing_left(deaf)
    stage.leave(heard, source=group.source)
    code = f"{errno.EADDRNOTAVAIL}|{errno.EINVAL}"  # of who has no source left
    with pytest.raises(OSError, match=rf"\[Errno ({code})\]"):
        stage.leave(heard, source=group.source)


@each_group
def test_membership_is_the_kernels_and_ends_with_close(stage: Stage) -> None:
    conn = stage.receiver()
    stage.join(conn)
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EADDRINUSE}]")):
        stage.join(conn)
    assert stage.group.host in stage.net.right.ip("maddr show dev v1")
    conn.close()
    assert stage.group.host not in stage.net.right.ip("maddr show dev v1")


@each_group
def test_what_was_not_joined_cannot_be_left(stage: Stage) -> None:
    conn = stage.receiver()
    with pytest.raises(OSError, match=re.escape(f"[Errno {errno.EADDRNOTAVAIL}]")):
        stage.leave(conn)


@each_group
def test_loop_says_whether_we_hear_ourselves(stage: Stage) -> None:
    host = stage.group.host
    with stage.net.left:
        conn = stage.stack.enter_context(open_conn((stage.group.local, 0), pktinfo=True))
        conn.settimeout(PATIENCE_S)
        conn.join_group(host, socket.if_nametoindex("v0"))
        conn.set_multicast(interface="v0")
    port = conn.local_addr()[1]
    for is_on, text in ((True, b"abcabc"), (False, b"defdef"), (True, b"ghighi")):
        conn.set_multicast(loop=is_on)
        conn.send_segments([Segments(text, 3, (host, port))])
    assert data_of(receive(conn, 4)) == b"abcabcghighi"


def test_how_it_leaves_is_set_for_each_family(net: Link) -> None:
    with net.left, open_conn(("::", 0)) as conn:
        index = socket.if_nametoindex("v0")
        conn.set_multicast(loop=False, ttl=7, interface=index)
        told = [
            conn.getsockopt(SOL_IP, socket.IP_MULTICAST_LOOP),
            conn.getsockopt(SOL_IP, socket.IP_MULTICAST_TTL),
            conn.getsockopt(SOL_IPV6, socket.IPV6_MULTICAST_LOOP),
            conn.getsockopt(SOL_IPV6, socket.IPV6_MULTICAST_HOPS),
            conn.getsockopt(SOL_IPV6, socket.IPV6_MULTICAST_IF),
        ]
        assert told == [0, 7, 0, 7, index]
        conn.set_multicast()
        assert conn.getsockopt(SOL_IP, socket.IP_MULTICAST_TTL) == 7


BAD: Final = [
    (("10.9.0.2",), ValueError, "'10.9.0.2' is no multicast group"),
    (("255.255.255.255",), ValueError, "'255.255.255.255' is no multicast group"),
    (("fd09::2",), ValueError, "'fd09::2' is no multicast group"),
    (("::ffff:10.9.0.2",), ValueError, "'::ffff:10.9.0.2' is no multicast group"),
    (("group.test",), ValueError, "'group.test' is not numeric"),
    ((5,), TypeError, "group must be str, a numeric host, not int"),
    (("239.1.2.3", "nope"), ValueError, "no interface 'nope'"),
    (("239.1.2.3", 4711), ValueError, "no interface 4711"),
    (("239.1.2.3", 0), ValueError, "no interface 0"),
    (("239.1.2.3", -1), ValueError, "no interface -1"),
    (("239.1.2.3", 1 << 70), ValueError, f"no interface {1 << 70}"),
    (("239.1.2.3", b"lo"), TypeError, "interface must be int or str, not bytes"),
    (("239.1.2.3", "l\0"), ValueError, "no interface"),
]


@pytest.mark.parametrize(("arguments", "kind", "text"), BAD, ids=[str(each[0]) for each in BAD])
def test_a_bad_group_or_interface_is_told(arguments: Any, kind: type[Exception], text: str) -> None:
    with open_conn(("::", 0)) as conn:
        for call in (conn.join_group, conn.leave_group):
            with pytest.raises(kind, match=re.escape(text)):
                call(*arguments)


@pytest.mark.parametrize(
    ("group", "source"),
    [("232.1.2.3", "fd09::1"), ("ff35::1", "10.9.0.1"), ("232.1.2.3", "232.1.2.4"),
     ("232.1.2.3", "0.0.0.0"), ("ff35::1", "::")],
)  # fmt: skip
def test_a_source_that_can_be_none_is_told(group: str, source: str) -> None:
    with open_conn(("::", 0)) as conn:
        text = f"source '{source}' can be none of group '{group}'"
        with pytest.raises(ValueError, match=re.escape(text)):
            conn.join_group(group, source=source)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"ttl": 256}, ValueError, "ttl 256, must be 0 to 255"),
        ({"ttl": -1}, ValueError, "ttl -1, must be 0 to 255"),
        ({"ttl": "1"}, TypeError, "ttl must be int, not str"),
        ({"ttl": True}, TypeError, "ttl must be int, not bool"),
        ({"ttl": 9, "loop": "no"}, TypeError, "loop must be bool, not str"),
        ({"interface": "nope", "ttl": 9}, ValueError, "no interface 'nope'"),
    ],
)
def test_bad_ways_to_leave_are_told_and_nothing_is_set(
    options: Any, kind: type[Exception], text: str
) -> None:
    with open_conn(("::", 0)) as conn:
        with pytest.raises(kind, match=re.escape(text)):
            conn.set_multicast(**{"loop": False, **options})
        assert conn.getsockopt(SOL_IP, socket.IP_MULTICAST_LOOP) == 1
        assert conn.getsockopt(SOL_IP, socket.IP_MULTICAST_TTL) == 1


def test_a_family_that_the_socket_has_not_is_told() -> None:
    with open_conn() as conn, pytest.raises(ValueError, match="IPv6 address 'ff15::1'"):
        conn.join_group("ff15::1")
    with open_conn(("::1", 0)) as conn, pytest.raises(ValueError, match="IPv6 only"):
        conn.join_group("239.1.2.3")


def test_other_systems_join_by_what_the_socket_module_has(
    monkeypatch: pytest.MonkeyPatch, net: Link
) -> None:
    monkeypatch.setattr(multicast, "IS_LINUX", False)
    with net.left, open_conn(("::", 0)) as six, open_conn() as four:
        index = socket.if_nametoindex("v0")
        six.join_group("ff15::9", index)
        assert "ff15::9" in net.left.ip("maddr show dev v0")
        six.leave_group("ff15::9", index)
        assert "ff15::9" not in net.left.ip("maddr show dev v0")
        net.left.ip("route replace 239.0.0.0/8 dev v0")
        four.join_group("239.7.7.7")
        assert "239.7.7.7" in net.left.ip("maddr show dev v0")
        four.leave_group("239.7.7.7")
        assert "239.7.7.7" not in net.left.ip("maddr show dev v0")
        with pytest.raises(ValueError, match="needs Linux"):
            four.join_group("239.7.7.7", index)
        with pytest.raises(ValueError, match="source: needs Linux"):
            four.join_group("232.7.7.7", source="10.9.0.2")
        with pytest.raises(ValueError, match="needs Linux"):
            four.set_multicast(interface=index)
        four.set_multicast(ttl=3, loop=False)
        assert four.getsockopt(SOL_IP, socket.IP_MULTICAST_TTL) == 3
