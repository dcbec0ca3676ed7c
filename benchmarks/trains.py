"""A client that sends trains to an echo and counts what comes back; see event_loop.py.

trains.py SIZE

A command is PORT SECONDS.  So many datagrams are on the way at any time that the echo never
waits, and so few that no queue overflows: one lost ends the process, and so does one that is
not, byte by byte and in its place, what was sent.
"""

from __future__ import annotations

import sys
import time

from child import LOOPBACK, PAYLOAD, RECEIVE_BUFFER, commands, say

import batching

TRAIN = 64  # datagrams, where they fit
IN_FLIGHT = 8  # trains
LOST_S = 10  # of silence


class Returns:
    """What comes back, in the order of what was sent: the same block again and again."""

    def __init__(self, block: bytes, size: int) -> None:
        # A train that comes back may be longer than those that were sent, by what GRO merges.
        self._expected = block * 3
        self._length = len(block)
        self._size = size
        self._at = 0

    def take(self, train: batching.Segments) -> int:
        """Return how many datagrams a train has; RuntimeError if it is not what was sent."""
        data = memoryview(train.data)
        n, rest = divmod(data.nbytes, self._size)
        if rest or n != len(train):
            raise RuntimeError(f"{data.nbytes} bytes came back as {len(train)} datagrams")
        # As bytes: views are compared one element after the other.
        if data.tobytes() != self._expected[self._at : self._at + data.nbytes]:
            raise RuntimeError("what came back is not what was sent")
        self._at = (self._at + data.nbytes) % self._length
        return n


def main() -> None:
    size = int(sys.argv[1])
    train = min(TRAIN, PAYLOAD // size)
    block = b"".join(number.to_bytes(size, "big") for number in range(1, train + 1))
    say(ports=[])
    for port, seconds in commands():
        with batching.open_conn((LOOPBACK, 0), receive_buffer=RECEIVE_BUFFER) as conn:
            conn.settimeout(LOST_S)
            trains = [batching.Segments(block, size, (LOOPBACK, int(port)))]
            returns = Returns(block, size)
            cpu, start = time.process_time(), time.perf_counter()
            end = start + float(seconds)
            for _ in range(IN_FLIGHT):
                conn.send_segments(trains)
            sent, received = IN_FLIGHT * train, 0
            while received < sent:
                for each in conn.recv_segments():
                    received += returns.take(each)
                if time.perf_counter() < end:
                    while sent - received <= (IN_FLIGHT - 1) * train:
                        conn.send_segments(trains)
                        sent += train
            elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        say(datagrams=sent, calls=0, measured=sent, wrong=0, seconds=elapsed, cpu=cpu)


if __name__ == "__main__":
    main()
