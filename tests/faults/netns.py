"""Network namespaces, the devices in them, and the routes between: what faults are made of.

A namespace belongs to the thread that enters it; a socket to the one it was made in, for
ever.  So a test makes its sockets inside ``with namespace:`` and uses them anywhere.
Nothing here touches the network that the process started in.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Final, Self

import pytest

from loopback import PATIENCE_S

_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_TUNSETIFF: Final = 0x400454CA  # include/uapi/linux/if_tun.h
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
IFF_NAPI: Final = 0x0010
TUN_F_CSUM: Final = 0x01
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _current() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


class Namespace:
    """A network namespace with nothing in it but lo, which is up.  ``with`` enters it."""

    def __init__(self) -> None:
        self._homes: list[int] = []
        home = _current()
        try:
            _check(_libc.unshare(_CLONE_NEWNET))
            try:
                self._fd = _current()
                self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
                self.run("ip", "link", "set", "lo", "up")
            finally:
                _check(_libc.setns(home, _CLONE_NEWNET))
        finally:
            os.close(home)

    def __enter__(self) -> Self:
        self._homes.append(_current())
        _check(_libc.setns(self._fd, _CLONE_NEWNET))
        return self

    def __exit__(self, *exc_info: object) -> None:
        home = self._homes.pop()
        _check(_libc.setns(home, _CLONE_NEWNET))
        os.close(home)

    def close(self) -> None:
        """Forget it; it goes with the last socket that was made in it."""
        os.close(self._fd)

    def run(self, *command: str, feed: str | None = None) -> str:
        """Run a command in it, ``feed`` on its standard input; return what it prints."""
        with self if hasattr(self, "_homes") else contextlib.nullcontext():
            done = subprocess.run(
                command,
                input=feed,
                env={name: value for name, value in os.environ.items() if name != "LD_PRELOAD"},
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def ip(self, arguments: str) -> str:
        """Run ``ip`` with arguments that have no spaces in them."""
        return self.run("ip", *arguments.split())

    def sysctl(self, name: str, value: object) -> None:
        """Set a sysctl below net, such as ``ipv4.conf.all.forwarding``."""
        with self, open(f"/proc/sys/net/{name.replace('.', '/')}", "w", encoding="ascii") as file:
            file.write(str(value))

    def set_device(self, device: str, attribute: str, value: object) -> None:
        """Set an attribute of a device below /sys; needs unshare and mount."""
        file = f"/sys/class/net/{device}/{attribute}"
        script = f"mount -t sysfs none /sys && echo {value} > {file}"  # /sys shows our own
        self.run("unshare", "--mount", "sh", "-c", script)


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    """Give a new namespace."""
    with contextlib.closing(Namespace()) as made:
        yield made


class Link:
    """Two namespaces, ``left`` and ``right``, and a veth between them.

    left has v0 with 10.9.0.1 and fd09::1, right has v1 with 10.9.0.2 and fd09::2; both
    ends speak both families at once, and know each other: who has to be found first gets a
    few of the datagrams that wait for it, and in IPv6 perhaps after a second.
    """

    LEFT: Final = ("10.9.0.1", "fd09::1")
    RIGHT: Final = ("10.9.0.2", "fd09::2")
    _MAC: Final = ("02:00:00:00:09:01", "02:00:00:00:09:02")

    def __init__(self, left: Namespace, right: Namespace, mtu: int = 1500) -> None:
        self.left, self.right = left, right
        left.ip(
            f"link add v0 address {self._MAC[0]} mtu {mtu} type veth"
            f" peer name v1 address {self._MAC[1]} mtu {mtu} netns {right.path}"
        )
        for side, device, own, peer, mac in (
            (left, "v0", self.LEFT, self.RIGHT, self._MAC[1]),
            (right, "v1", self.RIGHT, self.LEFT, self._MAC[0]),
        ):
            side.sysctl("ipv6.conf.all.accept_dad", 0)
            commands = [
                f"addr add {own[0]}/24 dev {device}",
                f"addr add {own[1]}/64 dev {device} nodad",
                f"link set {device} up",
                *[f"neigh replace {host} lladdr {mac} dev {device} nud permanent" for host in peer],
            ]
            side.run("ip", "-batch", "-", feed="\n".join(commands))
        for device, side in (("v0", left), ("v1", right)):
            wait_for_carrier(side, device)
        for side, own in ((left, self.LEFT), (right, self.RIGHT)):
            wait_for_address(side, own[1])

    def shape(self, rate: str, *, burst: int = 3000, limit: int = 10**7) -> None:
        """Let v0 send ``rate`` (8kbit: next to nothing), with a queue of ``limit`` bytes.

        ``burst`` bytes pass at once.  What waits after a quicker ``rate`` was set goes out
        with the next packet.
        """
        arguments = f"dev v0 root tbf rate {rate} burst {burst} limit {limit}"
        self.left.run("tc", "qdisc", "replace", *arguments.split())


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """Keep this thread, and those that it starts, on one processor.

    A veth has a queue a processor: a sender that is moved could overtake itself.
    """
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def link(mtu: int = 1500) -> Iterator[Link]:
    """Give two new namespaces and a veth between them."""
    with namespace() as left, namespace() as right:
        yield Link(left, right, mtu)


def wait_for_carrier(side: Namespace, device: str) -> None:
    end = time.monotonic() + PATIENCE_S
    # Not LOWER_UP, which is there before the queue works and IPv6 has its routes.
    while "state UP" not in side.ip(f"-o link show dev {device}"):
        assert time.monotonic() < end, f"{device} has no carrier"
        time.sleep(0.005)


def wait_for_address(side: Namespace, host: str) -> None:
    """Return when an IPv6 address of its own is received at: that follows later than bind."""
    end = time.monotonic() + PATIENCE_S
    while f"local {host} " not in side.ip("-6 route show table local"):
        assert time.monotonic() < end, f"{host} is not routed"
        time.sleep(0.005)


class Tun:
    """A TUN device in the namespace that the caller is in: what goes out to it is read here.

    Args:
        address: With its prefix length; further ones by ``ip``.
        vnet_hdr: Packets have a virtio_net_hdr of 10 bytes in front.
        offload: TUN_F_…: what may be left to the reader to do; needs ``vnet_hdr``.
        flags: Further IFF_….

    Raises:
        OSError: The kernel's refusal; EINVAL for an offload that it does not know.
    """

    def __init__(
        self,
        side: Namespace,
        addresses: tuple[str, ...] = ("10.8.0.1/24", "fd08::1/64"),
        *,
        name: str = "tun0",
        mtu: int = 1500,
        vnet_hdr: bool = False,
        offload: int = 0,
        flags: int = 0,
    ) -> None:
        self.name = name
        flags |= _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if vnet_hdr else 0)
        with side:
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
                if offload:
                    fcntl.ioctl(self._fd, _TUNSETOFFLOAD, offload)
            except BaseException:
                os.close(self._fd)
                raise
        side.sysctl("ipv6.conf.all.accept_dad", 0)
        side.sysctl(f"ipv6.conf.{name}.router_solicitations", 0)
        for address in addresses:
            side.ip(f"addr add {address} dev {name}" + (" nodad" if ":" in address else ""))
        side.ip(f"link set {name} mtu {mtu} txqueuelen 20000 up")
        for address in addresses:
            if ":" in address:
                wait_for_address(side, address.partition("/")[0])

    def close(self) -> None:
        os.close(self._fd)

    def write(self, packet: bytes) -> None:
        """Let a packet come in."""
        assert os.write(self._fd, packet) == len(packet)

    def read(self, timeout_s: float = PATIENCE_S) -> bytes | None:
        """Return the next packet that went out, None if none does in time."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return None
        return os.read(self._fd, 1 << 17)


def _can_unshare() -> bool:
    answers: list[bool] = []

    def try_it() -> None:  # in a thread of its own, which alone is moved by it
        answers.append(_libc.unshare(_CLONE_NEWNET) == 0)

    thread = threading.Thread(target=try_it)
    thread.start()
    thread.join()
    return answers[0]


needs_netns = pytest.mark.skipif(
    not (hasattr(_libc, "unshare") and shutil.which("ip") and _can_unshare()),
    reason="needs iproute2, and root, or `unshare -Ur`, to make network namespaces",
)
needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="needs /dev/net/tun"
)


def needs_command(*names: str) -> pytest.MarkDecorator:
    """Mark a test that runs commands; the Debian package is mostly of the same name."""
    missing = [name for name in names if not shutil.which(name)]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing or names)}")
