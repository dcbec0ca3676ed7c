"""Whether each of many destinations gets what is sent to it, all of it and in its order.

The destinations are addresses of loopback that one socket is bound to.
"""

from __future__ import annotations

import socket
from collections import Counter

from child import ANY, RECEIVE_BUFFER, pattern
from contenders import Contender
from process import Process
from work import Work

from batching.cli.machine import force_receive_buffer

IP_PKTINFO = 8  # include/uapi/linux/in.h
SILENCE_S = 10.0


def hosts(number: int) -> list[str]:
    """Return as many addresses of loopback."""
    return [f"127.0.{1 + index // 250}.{1 + index % 250}" for index in range(number)]


def arrives_in_order(contender: Contender, work: Work) -> None:
    """Send a batch of patterns; RuntimeError unless each destination gets its own in order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        force_receive_buffer(sock, RECEIVE_BUFFER)
        sock.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        sock.bind(ANY)
        sock.settimeout(SILENCE_S)
        to = [f"{host}:{sock.getsockname()[1]}" for host in hosts(work.destinations)]
        with Process(contender.command("send", work, *to), None) as sender:
            sender.ports()
            sender.tell(f"check {work.batch} 1")
            seen = Counter[bytes]()
            for _ in range(work.batch):
                data, control, _, _ = sock.recvmsg(max(work.sizes) + 1, 64)
                destination = control[0][2][8:12]  # struct in_pktinfo: ipi_addr, after two ints
                if data != pattern(seen[destination], len(data)):
                    raise RuntimeError(f"check: out of order at {socket.inet_ntoa(destination)}")
                seen[destination] += 1
    if len(set(seen.values())) != 1 or len(seen) != work.destinations:
        raise RuntimeError(f"check: {len(seen)} of {work.destinations} destinations were reached")
