"""A path with faults: a UDP relay that drops, doubles and reorders, a share of each.

    relay.py SERVER_PORT SEED SHARE

It prints its port, ends when its standard input does, and then prints what it did.  Plain
sockets, in a process of its own: it takes no part in what is tested.
"""

from __future__ import annotations

import random
import select
import socket
import sys
from collections import Counter
from typing import Any, Final

_HOST: Final = "127.0.0.1"
_LATER: Final = 5  # datagrams that overtake one that is reordered
_BUFFER: Final = 8 << 20


class Path:
    """One direction of the relay."""

    def __init__(self, seed: int, share: float) -> None:
        self._random, self._share = random.Random(seed), share
        self._held: list[tuple[int, bytes]] = []  # and the number after which they go
        self._n = 0
        self.counts: Counter[str] = Counter()

    def passes(self, data: bytes) -> list[bytes]:
        """Take a datagram; return those that leave now."""
        self._n += 1
        chance = self._random.random()
        self.counts["datagrams"] += 1
        if chance < self._share:
            self.counts["dropped"] += 1
            leave = []
        elif chance < 2 * self._share:
            self.counts["doubled"] += 1
            leave = [data, data]
        elif chance < 3 * self._share:
            self.counts["reordered"] += 1
            self._held.append((self._n + _LATER, data))
            leave = []
        else:
            leave = [data]
        while self._held and self._held[0][0] <= self._n:
            leave.append(self._held.pop(0)[1])
        return leave


def bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    sock.bind((_HOST, 0))
    sock.setblocking(False)
    return sock


def main() -> None:
    server_port, seed, share = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    front, back = bound(), bound()
    print(front.getsockname()[1], flush=True)
    client: Any = None
    server = (_HOST, server_port)
    there, back_again = Path(seed, share), Path(seed + 1, share)
    while True:
        ready, _, _ = select.select([front, back, sys.stdin], [], [])
        if sys.stdin in ready:
            break
        try:
            if front in ready:
                data, client = front.recvfrom(65536)
                for each in there.passes(data):
                    back.sendto(each, server)
            if back in ready:
                data, _ = back.recvfrom(65536)
                for each in back_again.passes(data):
                    front.sendto(each, client)
        except (BlockingIOError, ConnectionError):
            continue
    print("there", dict(there.counts), "back", dict(back_again.counts), flush=True)


if __name__ == "__main__":
    main()
