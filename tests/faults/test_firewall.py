"""A firewall that refuses trains, ports or lengths (EPERM): what may go out does.

A rule on length sees a whole train, and refuses it though its datagrams are short.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

import pytest

from batching import Conn, Segments, SendError, open_conn
from ends import SIZE, Ends, codes
from ends import ends as ends
from ends import net as net
from loopback import PlainPeer, needs_gso, needs_ipv6, needs_room
from netns import Link, needs_command, needs_netns
from numbered import WAYS, assert_arrived, failed, numbered, send, taken

pytestmark = [
    needs_netns,
    needs_command("nft"),
    needs_gso,
    needs_ipv6,
    needs_room,
    pytest.mark.kernel,
]

TOO_LONG: Final = "meta length > 1500"


@contextlib.contextmanager
def rules(net: Link, *wanted: str) -> Iterator[None]:
    """Drop what leaves and meets one of the rules."""
    chain = "".join(f"{rule} drop;" for rule in wanted)
    hook = "type filter hook output priority 0;"
    net.left.run("nft", "-f", "-", feed=f"table inet t {{ chain c {{ {hook} {chain} }}; }}")
    try:
        yield
    finally:
        net.left.run("nft", "delete", "table", "inet", "t")


def port(peer: PlainPeer) -> str:
    return f"udp dport {peer.address[1]}"


@pytest.mark.parametrize("way", WAYS)
def test_a_rule_on_length_refuses_the_train_and_none_of_its_datagrams(ends: Ends, way: str) -> None:
    with rules(ends.net, TOO_LONG):
        for first in (0, 1000):
            batch = numbered([SIZE] * 100 + [10], ends.far.address, first=first)
            WAYS[way](ends.conn, [data for data, _ in batch], ends.far.address)
            assert_arrived(batch, ends.far)
    assert ends.conn.stats().gso_fallbacks == {"EPERM": 1}
    assert ends.conn.stats().send_errors == 0


def test_a_rule_on_length_of_one_destination_leaves_the_others_their_trains(ends: Ends) -> None:
    with rules(ends.net, f"{port(ends.far)} {TOO_LONG}"):
        ends.sends_all([SIZE] * 60)
        assert not ends.sends_trains()
        assert ends._replace(far=ends.other).sends_trains()
    assert ends.conn.stats().gso_fallbacks == {"EPERM": 1}


def test_a_rule_on_a_port_costs_what_goes_there_and_nothing_else(ends: Ends) -> None:
    batch = numbered([SIZE] * 120 + [500, 600], ends.far.address, ends.other.address)
    with rules(ends.net, port(ends.far)):
        error = send(ends.conn, batch)
        assert error
        assert failed(batch, error) == [pair for pair in batch if pair[1] == ends.far.address]
        assert (codes(error), error.errno, error.unsent) == ({errno.EPERM}, errno.EPERM, [])
        assert_arrived(taken(batch, error), ends.far, ends.other)
    assert ends.conn.stats().gso_fallbacks == {}
    assert ends.conn.stats().send_errors == 61
    assert send(ends.conn, failed(batch, error)) is None  # the caller wishes so
    assert_arrived(failed(batch, error), ends.far)
    assert ends.sends_trains()


def test_a_rule_on_one_length_costs_the_datagrams_of_that_length(ends: Ends) -> None:
    # Without trains, in which the rule would not see the length of a datagram.
    sizes = [100, 200, 300] * 20 + [300, 100, 300]
    batch = numbered(sizes, ends.far.address, ends.other.address)
    with rules(ends.net, f"udp length {8 + 300}"), open_without_trains(ends) as conn:
        error = send(conn, batch)
        assert error
        assert failed(batch, error) == [pair for pair in batch if len(pair[0]) == 300]
        assert codes(error) == {errno.EPERM}
        assert_arrived(taken(batch, error), ends.far, ends.other)


def open_without_trains(ends: Ends) -> Conn:
    with ends.net.left:
        return open_conn(ends.local, gso="off")


def has_number(number: int) -> str:
    return f"@th,64,32 {number}"  # the first 4 bytes of the payload


@pytest.mark.parametrize("lost", [(5,), (0,), (39,), (0, 1, 2, 20, 39)])
def test_of_a_refused_train_only_the_refused_datagrams_are_lost(
    ends: Ends, lost: tuple[int, ...]
) -> None:
    batch = numbered([SIZE] * 40, ends.far.address)
    with rules(ends.net, TOO_LONG, *map(has_number, lost)):
        error = send(ends.conn, batch)
        assert error
        assert tuple(error.errors) == lost
        assert_arrived(taken(batch, error), ends.far)
    assert ends.conn.stats().gso_fallbacks == {"EPERM": 1}


def test_the_error_of_a_train_that_is_lost_in_part_tells_which(ends: Ends) -> None:
    batch = numbered([SIZE] * 40, ends.far.address)
    whole = Segments(b"".join(data for data, _ in batch), SIZE, ends.far.address)
    with rules(ends.net, TOO_LONG, *map(has_number, (7, 8))):
        with pytest.raises(SendError) as caught:
            ends.conn.send_segments([whole])
        part = caught.value.errors[0]
        assert isinstance(part, SendError)
        assert (tuple(part.errors), part.unsent, part.sent) == ((7, 8), [], 38)
        assert caught.value.sent == 38
        assert_arrived(taken(batch, part), ends.far)
