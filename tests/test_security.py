"""No setting is weakened by default, and nothing leaks by the way: docs/security.md."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from batching import Conn, open_conn, try_upgrade_to_conn
from loopback import PATIENCE_S, PlainPeer, descriptors, needs_gso, needs_linux


@needs_linux
@pytest.mark.parametrize("is_taken_over", [False, True])
def test_no_setting_is_weakened(is_taken_over: bool) -> None:
    if is_taken_over:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        conn = try_upgrade_to_conn(sock, "udp4")
        assert isinstance(conn, Conn)
    else:
        conn = open_conn(("127.0.0.1", 0))
    with conn, socket.socket(fileno=os.dup(conn.fileno())) as view:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT", "SO_BROADCAST", "SO_DONTROUTE"):
            assert view.getsockopt(socket.SOL_SOCKET, getattr(socket, option)) == 0, option
        assert not os.get_inheritable(conn.fileno())
        with pytest.raises(OSError, match="Address already in use") as caught:
            open_conn(conn.local_addr())
        assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(OSError, match="denied"):
            conn.write_to_udp_addr_port(b"x", ("255.255.255.255", 9))


@needs_linux
def test_no_descriptor_is_left_to_a_program_that_is_started() -> None:
    before = descriptors()
    with open_conn(("127.0.0.1", 0)):
        opened = descriptors() - before
        assert len(opened) == 2  # the socket and the wake-up
        assert not any(map(os.get_inheritable, opened))


@needs_gso
def test_what_was_received_stands_in_no_text_about_it(conn: Conn, peer: PlainPeer) -> None:
    """Data from the network does not reach a log through a repr."""
    conn.settimeout(PATIENCE_S)
    peer.send_train(conn.local_addr(), b"secret" * 10, 6)
    [train] = conn.recv_segments()
    assert "secret" not in repr(train) + repr(conn) + repr(conn.stats())
