"""What lies between the two ends: loopback, or a veth between two namespaces.

A namespace is a process that does nothing in it and ends with our end of its stdin; what is to
run there is started by nsenter.  Nothing here touches the network that we are in.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LIMIT_S = 20
LEFT, RIGHT = "10.9.0.1", "10.9.0.2"
MACS = ("02:00:00:00:09:01", "02:00:00:00:09:02")


@dataclass(frozen=True, slots=True)
class Path:
    """A kind of path, and the commands that make it so; v0 is at the sender, v1 at the receiver."""

    title: str
    mtu: int = 9100
    """Enough for the largest size."""
    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    is_lossy: bool = False


# drivers/net/veth.c, veth_skb_is_eligible_for_gro: gro alone is not enough while v0 has TSO.
MERGE = "ethtool -K v1 gro on rx-udp-gro-forwarding on"
CUT = "ethtool -K v0 tx-udp-segmentation off"
LOSE = "netem loss 1%"
PATHS = {
    "loopback": Path("loopback"),
    "veth": Path("veth, trains whole"),
    "cut": Path("veth, trains cut, no GRO", left=(CUT,), right=("ethtool -K v1 gro off",)),
    "merged": Path("veth, trains cut, GRO", left=(CUT,), right=(MERGE,)),
    "mtu1300": Path("MTU 1300", 1300),
    "lossy": Path("1 % loss", left=(f"tc qdisc add dev v0 root {LOSE}",), is_lossy=True),
}


class PathError(Exception):
    """This machine cannot make such a path; says why."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Where the two ends run: what stands before a command, and the right one's address.

    Nothing of it is said of loopback.
    """

    left: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    host: str = ""


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except OSError as error:
        raise PathError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        first = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[0]
        raise PathError(f"{' '.join(command)}: {first}")
    return done.stdout


@contextmanager
def _namespace() -> Iterator[int]:
    """Make a network namespace; give the process that keeps it."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]
    try:
        keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise PathError(f"{command[0]}: {error.strerror}") from None
    with keeper:
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        try:
            if not keeper.stdout.readline():
                raise PathError("no network namespaces: root, or `unshare -Ur`, can make them")
            yield keeper.pid
        finally:
            keeper.stdin.close()


@contextmanager
def ends(path: Path) -> Iterator[Ends]:
    """Make a path and give its ends; PathError where that cannot be."""
    if path == PATHS["loopback"]:
        yield Ends()
        return
    with _namespace() as left_keeper, _namespace() as right_keeper:
        left, right = _inside(left_keeper), _inside(right_keeper)
        made = f"ip link add v0 address {MACS[0]} mtu {path.mtu} type veth peer name v1 address"
        _run(*left, *f"{made} {MACS[1]} mtu {path.mtu} netns {right_keeper}".split())
        for side, device, own, peer, mac in (
            (left, "v0", LEFT, RIGHT, MACS[1]),
            (right, "v1", RIGHT, LEFT, MACS[0]),
        ):
            _run(*side, *f"ip addr add {own}/24 dev {device}".split())
            _run(*side, *f"ip link set {device} up".split())
            # Who has to be found first loses some of the datagrams that wait for it.
            _run(*side, *f"ip neigh replace {peer} lladdr {mac} dev {device}".split())
        for side, commands in ((left, path.left), (right, path.right)):
            for command in commands:
                _run(*side, *command.split())
        for side, device in ((left, "v0"), (right, "v1")):
            _wait_for_carrier(side, device)
        yield Ends(left, right, RIGHT)


def _inside(keeper: int) -> tuple[str, ...]:
    """Return what stands before a command for it to run in a namespace."""
    return ("nsenter", f"--net=/proc/{keeper}/ns/net")


def _wait_for_carrier(side: tuple[str, ...], device: str) -> None:
    end = time.monotonic() + LIMIT_S
    while "state UP" not in _run(*side, *f"ip -o link show dev {device}".split()):
        if time.monotonic() > end:
            raise PathError(f"{device} has no carrier")
