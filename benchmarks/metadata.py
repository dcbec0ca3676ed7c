"""What comes beside the payload, all of it or nothing: two Conns in one process, in turn.

metadata.py SIZE BLOCKS TRAINS

A plain socket fills the queue of one of them with trains, as long as a message may be, then
the clock runs around ``recv_segments`` until it is empty.  Prints a JSON object: of each pair of
blocks the CPU nanoseconds a datagram, with everything on and with nothing.
"""

from __future__ import annotations

import json
import signal
import socket
import struct
import sys
import time
from typing import Any

import batching
from batching._kernel import SOL_UDP, UDP_SEGMENT, max_segments

LOOPBACK = "127.0.0.1"
LIMIT_S = 300
ROOM = 32 << 20
LONGEST = 65507  # bytes of a message of IPv4
FILLS = 8  # a block
EVERYTHING = {"ecn": True, "pktinfo": True, "timestamps": True}


def main() -> None:
    size, blocks, trains = map(int, sys.argv[1:])
    signal.alarm(LIMIT_S)
    with _open(EVERYTHING) as on, _open({}) as off:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            _block(sender, on, size, trains), _block(sender, off, size, trains)  # warm
            pairs = []
            for number in range(blocks):
                order = [(on, "on"), (off, "off")]
                found = {
                    name: _block(sender, conn, size, trains)
                    for conn, name in (order if number % 2 else order[::-1])
                }
                pairs.append(found)
    print(json.dumps({"pairs": pairs}), flush=True)


def _open(options: dict[str, Any]) -> batching.Conn:
    conn = batching.open_conn((LOOPBACK, 0), receive_buffer=ROOM, **options)
    conn.settimeout(0)
    return conn


def _block(sender: socket.socket, conn: batching.Conn, size: int, trains: int) -> float:
    """Return CPU nanoseconds a datagram, the least of several fills; exit if any is lost."""
    count = min(max_segments(), LONGEST // size)
    data, to = bytes(count * size), conn.local_addr()
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))]
    spent: list[int] = []
    last: list[batching.Segments] = []
    for _ in range(FILLS):
        for _ in range(trains):
            sender.sendmsg([data], control, 0, to)
        left = trains * count
        start = time.process_time_ns()
        while left > 0:
            last = conn.recv_segments()
            for train in last:
                left -= len(train)
        spent.append(time.process_time_ns() - start)
        if left or not all(_is_told_whole(train) for train in last):
            sys.exit("what came is not what was sent, or is told by half")
    return min(spent) / (trains * count)


def _is_told_whole(train: batching.Segments) -> bool:
    told = (train.ecn, train.local_addr, train.interface, train.timestamp_ns)
    return told.count(None) in (0, len(told))


if __name__ == "__main__":
    main()
