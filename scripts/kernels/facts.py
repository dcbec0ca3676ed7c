"""What this kernel answers to trains, as a plain socket sees it: facts for docs/kernels.md.

    python3 scripts/kernels/main.py run 6.1 build/venv-python3/bin/python scripts/kernels/facts.py

prints them of another one.  It changes nothing outside the network namespaces that it makes.
"""

from __future__ import annotations

import errno
import platform
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / folder) for folder in ("src", "tests", "tests/faults")]

from batching._kernel import SOL_UDP, UDP_GRO, UDP_SEGMENT, max_segments  # noqa: E402
from netns import (  # noqa: E402
    TUN_F_CSUM,
    TUN_F_USO4,
    TUN_F_USO6,
    Link,
    Namespace,
    Tun,
    link,
    namespace,
)

SIZE: Final = 1000
PATIENCE_S: Final = 10.0


def sender(side: Namespace) -> socket.socket:
    with side:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def answer(sock: socket.socket, to: tuple[str, int], n: int, size: int = SIZE) -> str:
    """Send a train, or with ``n`` of 0 a plain datagram; tell what the kernel says."""
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))] if n else []
    try:
        sock.sendmsg([bytes(size * max(n, 1))], control, 0, to)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "ok"


def answers(side: Namespace, to: str) -> str:
    with sender(side) as sock:
        train, one, plain = (answer(sock, (to, 9), n) for n in (10, 1, 0))
    return f"train {train}, one with the cmsg {one}, plain {plain}"


def arrival(source: Namespace, target: Namespace, address: str) -> str:
    """Send a train of 10; tell in how many messages it arrives."""
    with target:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver, sender(source) as sock:
        receiver.setsockopt(SOL_UDP, UDP_GRO, 1)
        receiver.settimeout(PATIENCE_S)
        receiver.bind((address, 0))
        said = answer(sock, receiver.getsockname(), 10)
        if said != "ok":
            return said
        came, messages = 0, 0
        while came < 10 * SIZE:
            came += len(receiver.recv(65536))
            messages += 1
    return "whole" if messages == 1 else f"in {messages} messages"


def train_over_loopback() -> str:
    with namespace() as side:
        return arrival(side, side, "127.0.0.1")


def train_over_veth() -> str:
    with link() as pair:
        return arrival(pair.left, pair.right, Link.RIGHT[0])


def segments_above_the_mtu() -> str:
    with namespace() as side:
        side.ip("link set lo mtu 1280")
        with sender(side) as sock:
            said = [answer(sock, ("127.0.0.1", 9), n, 1300) for n in (10, 1, 0)]
    return f"train {said[0]}, one with the cmsg {said[1]}, plain {said[2]}"


def veth_without_checksums() -> str:
    with link() as pair:
        pair.left.run("ethtool", "-K", "v0", "tx", "off")
        return answers(pair.left, Link.RIGHT[0])


def plain_tun() -> str:
    with namespace() as side:
        Tun(side, ("10.8.0.1/24",))
        return answers(side, "10.8.0.2")


def ipsec() -> str:
    with link() as pair:
        source, target = Link.LEFT[0], Link.RIGHT[0]
        pair.left.ip(
            f"xfrm state add src {source} dst {target} proto esp spi 0x100 mode transport"
            f" aead rfc4106(gcm(aes)) 0x{'11' * 20} 128"
        )
        pair.left.ip(
            f"xfrm policy add src {source}/32 dst {target}/32 dir out"
            f" tmpl src {source} dst {target} proto esp mode transport"
        )
        return answers(pair.left, target)


def uso_injection() -> str:
    with namespace() as side:
        Tun(side, (), vnet_hdr=True, offload=TUN_F_CSUM | TUN_F_USO4 | TUN_F_USO6).close()
    return "ok"


FACTS: Final[dict[str, Callable[[], object]]] = {
    "segments of a train, at most": max_segments,
    "a train over loopback arrives": train_over_loopback,
    "a train over veth arrives": train_over_veth,
    "segments above the MTU": segments_above_the_mtu,
    "veth, ethtool -K tx off": veth_without_checksums,
    "TUN without vnet_hdr": plain_tun,
    "IPsec, ESP in transport mode": ipsec,
    "TUNSETOFFLOAD with USO": uso_injection,
}


def main() -> None:
    print(f"Linux {platform.release()} {platform.version()}")
    for fact, find_out in FACTS.items():
        try:
            said = find_out()
        except OSError as error:
            said = errno.errorcode[error.errno or 0]
        except AssertionError as error:  # of a command
            said = str(error).strip().splitlines()[-1]
        print(f"{fact:32} {said}")


if __name__ == "__main__":
    main()
