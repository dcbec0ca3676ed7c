"""A relay in Python in a process of its own, one way of relaying each; see relays.py.

relay_ways.py ours VNI PORT PORT        examples/relay.py
relay_ways.py by-hand VNI PORT PORT     what a careful programmer writes with ``socket``
relay_ways.py forward PORT              ``send_segments(recv_segments(), to=...)``, no questions

It prints {"ports": [...]} and ends with stdin, or by its own alarm.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import batching
from batching.geneve import GENEVE_FIXED_HEADER_LENGTH as HEADER

LOOPBACK = "127.0.0.1"
LIMIT_S = 900
SLOT = 65536
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104  # include/uapi/linux/udp.h
SO_RCVBUFFORCE = 33  # include/uapi/asm-generic/socket.h
RECEIVE_BUFFER = 7 << 20  # as udprelay and open_conn ask for


def say_port(port: int) -> None:
    print(f'{{"ports": [{port}]}}', flush=True)


def ours(vni: str, *ports: str) -> None:
    from examples.relay import Relay

    with batching.open_conn((LOOPBACK, 0)) as conn:
        relay = Relay(conn)
        relay.bind(f"{vni}=" + ",".join(f"{LOOPBACK}:{port}" for port in ports))
        say_port(conn.local_addr()[1])
        while True:
            relay.forward(conn.recv_segments())


def forward(port: str) -> None:
    to = (LOOPBACK, int(port))
    with batching.open_conn((LOOPBACK, 0)) as source, batching.open_conn((LOOPBACK, 0)) as sink:
        say_port(source.local_addr()[1])
        while True:
            sink.send_segments(source.recv_segments(), to=to)


def by_hand(vni: str, *ports: str) -> None:
    one, other = ((LOOPBACK, int(port)) for port in ports)
    flows = {int(vni): {one: other, other: one}}
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    sock.bind((LOOPBACK, 0))
    say_port(sock.getsockname()[1])
    buffer = bytearray(SLOT)
    view = memoryview(buffer)
    space = socket.CMSG_SPACE(4)
    while True:
        length, control, _, sender = sock.recvmsg_into([buffer], space)
        size = struct.unpack("=i", control[0][2])[0] if control else length
        data = view[:length]
        headers = {bytes(data[at : at + HEADER]) for at in range(0, length, size or 1)}
        if len(headers) != 1:
            continue  # not met here: a careful programmer would cut the train
        header = headers.pop()
        if len(header) < HEADER or header[0] or header[1] & 0x80:
            continue
        to = flows.get(int.from_bytes(header[4:7], "big"), {}).get(sender)
        if to is not None:
            train = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] if size < length else []
            sock.sendmsg([data], train, 0, to)


def end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    signal.alarm(LIMIT_S)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    ways: dict[str, Callable[..., None]] = {"ours": ours, "by-hand": by_hand, "forward": forward}
    ways[sys.argv[1]](*sys.argv[2:])
