"""A signal whose handler raises, just when the last call leaves a Conn that was closed.

Found by the soak (docs/soak.md): a port that stayed in use after ``close``.
"""

from __future__ import annotations

import signal
import socket
import threading
from typing import NoReturn

import pytest

from batching import Conn
from loopback import HOST, needs_linux, until


class Interrupted(Exception):
    """What the handler raises, as KeyboardInterrupt is raised."""


def interrupt(*_: object) -> NoReturn:
    raise Interrupted


@needs_linux
def test_the_socket_is_closed_all_the_same(conn: Conn) -> None:
    port = conn.local_addr()[1]
    reader = threading.get_ident()

    def close() -> None:
        until(lambda: conn.stats().recv_calls)
        conn.close()
        signal.pthread_kill(reader, signal.SIGUSR1)  # before the reader has the GIL again

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=close)
    try:
        thread.start()
        with pytest.raises((Interrupted, OSError)):
            conn.recv_batch()
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind((HOST, port))  # EADDRINUSE if it is still open, though the Conn is closed
