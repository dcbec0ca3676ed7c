"""How a Conn comes about: open_conn makes one, try_upgrade_to_conn takes a socket over."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final, TypeVar

from . import _backend
from ._address import Address, family_of, parse_address
from ._checks import check_number, check_switch
from ._conn import MIN_OOB, Conn
from ._kernel import (
    IS_LINUX,
    MAX_MESSAGES,
    MAX_SEGMENTS,
    SO_DOMAIN,
    SO_PROTOCOL,
    SO_RCVBUFFORCE,
    SO_RXQ_OVFL,
    SO_SNDBUFFORCE,
)
from ._options import Wishes
from .offload import Offload, enable_gro, negotiate
from .packetconn import FAMILIES, UDPConn, is_dual_stack

__all__ = ["IDEAL_BATCH_SIZE", "min_control_message_size", "open_conn", "try_upgrade_to_conn"]

IDEAL_BATCH_SIZE: Final = 128
"""Datagrams: what a batch holds at best, and by default ``write_batch_to`` at most."""

IDEAL_BUFFER: Final = 7 << 20  # bytes, as the original asks for
_MAX_BUFFER: Final = 0x3FFFFFFF  # the kernel keeps twice the number in an int
_P = TypeVar("_P")


def min_control_message_size() -> int:
    """Return the bytes that each ``Message.oob`` must hold at least."""
    return MIN_OOB


def open_conn(
    local_addr: Address | None = None,
    remote_addr: Address | None = None,
    *,
    family: int = socket.AF_UNSPEC,
    batch_size: int | None = None,
    reuse_port: bool = False,
    reuse_addr: bool = False,
    gso: str = "auto",
    gro: str = "auto",
    max_segments: int | None = None,
    ecn: bool = False,
    pktinfo: bool = False,
    timestamps: bool = False,
    transport_errors: bool = False,
    path_mtu_discovery: str | None = None,
    receive_buffer: int | None = None,
    send_buffer: int | None = None,
    rxq_overflows_metric_name: str = "",
) -> Conn:
    """Open a batched UDP connection, on every platform.

    It waits as a new socket does: without end, unless ``socket.setdefaulttimeout`` says else.

    Args:
        local_addr: Where to bind; None: any address, a free port.
        remote_addr: Where to connect, which is not necessary.
        family: AF_INET or AF_INET6; by default that of the addresses, AF_INET without
            any.  The IPv6 wildcard is dual stack.
        batch_size: Buffers that one ``write_batch_to`` takes, 1 to 1024; by default
            BATCHING_BATCH_SIZE of the environment, or IDEAL_BATCH_SIZE.
        reuse_port: Share the port with others that set it too (SO_REUSEPORT).
        reuse_addr: Likewise, for receivers of multicast (SO_REUSEADDR): each gets what it has
            joined, which others' SO_REUSEPORT does not warrant.  What is sent to one host
            goes to one of them.
        gso: "auto" or "off": send trains as one packet.
        gro: "auto" or "off": receive trains as one packet.
        max_segments: Datagrams a train may have, 1 to 128; None: what the kernel takes.
        ecn: Tell the ECN mark of each received train: ``Segments.ecn``.
        pktinfo: Tell the address and the interface that it came to: ``Segments.local_addr``
            and ``interface``.
        timestamps: Tell when the kernel received it: ``Segments.timestamp_ns``.
        transport_errors: Collect what the network says of datagrams that did not arrive, for
            ``recv_transport_errors``; receiving then raises no error of the network.
        path_mtu_discovery: Whether packets may be fragmented (IP_MTU_DISCOVER): "want", "do",
            "dont", "probe", "interface" or "omit", see ip(7); None: as the system has it.
        receive_buffer: Bytes, 1 to 2**30 - 1, forced past the system's limit where the process may;
            None: 7 MiB are asked for, and what is granted is taken.
        send_buffer: Likewise.
        rxq_overflows_metric_name: Where drop events are counted too: see
            ``batching.metrics.counters``.

    Raises:
        TypeError, ValueError: An argument of the wrong type or out of its limits.
        OSError: The kernel's refusal, for example EADDRINUSE.
    """
    size = _check_batch_size(batch_size)
    for name, value in (("gso", gso), ("gro", gro)):
        if value not in ("auto", "off"):
            raise ValueError(f"{name} {value!r}, must be 'auto' or 'off'")
    _check_limit("max_segments", max_segments, MAX_SEGMENTS)
    _check_limit("receive_buffer", receive_buffer, _MAX_BUFFER)
    _check_limit("send_buffer", send_buffer, _MAX_BUFFER)
    _check_name(rxq_overflows_metric_name)
    check_switch("reuse_port", reuse_port)
    check_switch("reuse_addr", reuse_addr)
    wishes = Wishes(
        ecn=ecn,
        pktinfo=pktinfo,
        timestamps=timestamps,
        transport_errors=transport_errors,
        path_mtu_discovery=path_mtu_discovery,
    )
    family = _choose_family(family, local_addr, remote_addr)
    sock = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
    try:
        offload = _negotiate(sock, gso, gro, max_segments)
        if offload.gro:
            enable_gro(sock)  # before bind: what is queued has its size from the first train on
        _set_buffer(sock, socket.SO_RCVBUF, SO_RCVBUFFORCE, receive_buffer)
        _set_buffer(sock, socket.SO_SNDBUF, SO_SNDBUFFORCE, send_buffer)
        wishes.apply(sock)  # likewise
        _bind(sock, local_addr, remote_addr, reuse_port, reuse_addr)
        overflows = _enable_overflows(sock, rxq_overflows_metric_name)
        return Conn(sock, offload, size, overflows, wishes)
    except BaseException:
        sock.close()
        raise


def try_upgrade_to_conn(
    pconn: _P,
    network: str,
    batch_size: int = IDEAL_BATCH_SIZE,
    rxq_overflows_metric_name: str = "",
) -> Conn | _P:
    """Return a ``Conn`` in place of ``pconn`` where that is appropriate, else ``pconn``.

    The ``Conn`` takes over the socket with its timeout, and a ``UDPConn``'s deadlines;
    ``pconn`` is detached, its calls raise EBADF.  Otherwise it is untouched: not Linux
    or an old one, a network other than "udp4" and "udp6", not a UDP socket of that
    family, closed.

    Args:
        pconn: A ``UDPConn`` or a ``socket.socket``.
        network: "udp4" or "udp6".
        batch_size: As ``open_conn``'s, but the environment does not change the default.
        rxq_overflows_metric_name: As ``open_conn``'s.

    Raises:
        TypeError: ``batch_size`` is no int, the name no str.
        ValueError: ``batch_size`` outside 1 to 1024.
        OSError: EMFILE, ENOMEM; ``pconn`` is then untouched too.
    """
    size = _check_batch_size(batch_size)
    _check_name(rxq_overflows_metric_name)
    family = FAMILIES.get(network) if isinstance(network, str) else None
    if _has_batches() and family and isinstance(pconn, UDPConn | socket.socket):
        with contextlib.suppress(_NotUDPError):
            return _take_over(pconn, family, size, rxq_overflows_metric_name)
    return pconn


class _NotUDPError(Exception):
    """It is closed, or not a UDP socket of the family asked for."""


def _take_over(pconn: UDPConn | socket.socket, family: int, size: int, name: str) -> Conn:
    fd = pconn.fileno()
    was_blocking = _check_udp(fd, family)
    sock = socket.socket(family, socket.SOCK_DGRAM, socket.IPPROTO_UDP, fileno=fd)
    overflows, conn = None, None
    try:
        overflows = _enable_overflows(sock, name)
        conn = Conn(sock, _negotiate(sock, "auto", "auto", None), size, overflows)
        conn.settimeout(pconn.gettimeout())
        conn.note_traffic_class(sock)
        if conn.offload.gro:
            enable_gro(sock)  # last: it cannot be taken back
    except BaseException:
        if conn:
            conn.give_up()
        if overflows:
            sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 0)
        sock.detach()
        os.set_blocking(fd, was_blocking)
        raise
    if isinstance(pconn, UDPConn):
        conn.take_deadlines(pconn)
        pconn.give_up()
        os.set_blocking(fd, False)  # it may have been given back as it once came
    else:
        pconn.detach()
    return conn


def is_udp(sock: socket.socket) -> bool:
    """Tell whether a socket is one of UDP over IPv4 or IPv6."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_DGRAM:
        return False
    protocol = sock.getsockopt(socket.SOL_SOCKET, SO_PROTOCOL) if IS_LINUX else sock.proto
    return protocol in (socket.IPPROTO_UDP, 0)


def share_socket(sock: socket.socket) -> Conn:
    """Return a Conn over a non-blocking UDP socket that its owner goes on to use.

    Either of the two may close it, and the other then must not use it any more.
    """
    conn = Conn(sock, _negotiate(sock, "auto", "auto", None), MAX_MESSAGES, None)
    try:
        if conn.offload.gro:
            enable_gro(sock)
    except BaseException:
        conn._descriptor.release()
        raise
    return conn


def _has_batches() -> bool:
    # sendmmsg: Linux 3.0; the original too refuses what is older.
    return IS_LINUX and not os.uname().release.startswith("2.")


def _check_udp(fd: int, family: int) -> bool:
    """Raise unless ``fd`` is such a socket; tell whether it is blocking."""
    try:
        was_blocking = os.get_blocking(fd)  # a closed one's is -1: EBADF
        probe = socket.socket(family, socket.SOCK_DGRAM, fileno=fd)
    except OSError:
        raise _NotUDPError from None
    try:
        found = tuple(
            probe.getsockopt(socket.SOL_SOCKET, option)
            for option in (SO_DOMAIN, socket.SO_TYPE, SO_PROTOCOL)
        )
    except OSError:
        found = ()
    finally:
        probe.detach()
        os.set_blocking(fd, was_blocking)  # a default timeout has made it non-blocking
    if found != (family, socket.SOCK_DGRAM, socket.IPPROTO_UDP):
        raise _NotUDPError
    return was_blocking


def _negotiate(sock: socket.socket, gso: str, gro: str, max_segments: int | None) -> Offload:
    return negotiate(sock, _backend.NAME, _backend.WHY_NOT_NATIVE, gso, gro, max_segments)


def _check_batch_size(batch_size: int | None) -> int:
    name, value = "batch_size", batch_size
    if value is None:
        name = "BATCHING_BATCH_SIZE"
        text = os.environ.get(name, "") or str(IDEAL_BATCH_SIZE)
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{name}={text}, must be 1 to {MAX_MESSAGES}") from None
    _check_limit(name, value, MAX_MESSAGES)
    return value


def _check_limit(name: str, value: int | None, limit: int) -> None:
    if value is not None:
        check_number(name, value, 1, limit)


def _check_name(name: str) -> None:
    if not isinstance(name, str):
        raise TypeError(f"rxq_overflows_metric_name must be str, not {type(name).__name__}")


def _choose_family(family: int, *addresses: Address | None) -> int:
    if family not in (socket.AF_UNSPEC, socket.AF_INET, socket.AF_INET6):
        raise ValueError(f"family {family!r}, must be AF_INET, AF_INET6 or AF_UNSPEC")
    given = {family_of(address) for address in addresses if address is not None}
    if family == socket.AF_UNSPEC:
        if len(given) > 1:
            raise ValueError(f"addresses of two families: {addresses[0]!r} and {addresses[1]!r}")
        return given.pop() if given else socket.AF_INET
    return family


def _bind(
    sock: socket.socket,
    local: Address | None,
    remote: Address | None,
    reuse_port: bool,
    reuse_addr: bool,
) -> None:
    family = int(sock.family)
    source = None if local is None else parse_address(local, family, is_dual_stack=True)
    if family == socket.AF_INET6 and (source is None or not any(source.host)):
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # the wildcard: dual stack
    if reuse_port:
        if not hasattr(socket, "SO_REUSEPORT"):
            raise ValueError("reuse_port: this system has no SO_REUSEPORT")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if reuse_addr:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if source is not None:
        sock.bind(source.spell())
    elif remote is None:
        sock.bind(("", 0))  # so that local_addr() has a port, and receiving makes sense
    if remote is not None:
        sock.connect(parse_address(remote, family, is_dual_stack(sock)).spell())


def _set_buffer(sock: socket.socket, option: int, forced: int, n_bytes: int | None) -> None:
    wanted = IDEAL_BUFFER if n_bytes is None else n_bytes
    if IS_LINUX:
        with contextlib.suppress(OSError):  # EPERM, or a sandbox that knows no such option
            sock.setsockopt(socket.SOL_SOCKET, forced, wanted)
            return
    try:
        sock.setsockopt(socket.SOL_SOCKET, option, wanted)
    except OSError:
        if n_bytes is not None:
            raise


def _enable_overflows(sock: socket.socket, name: str) -> str | None:
    if not name or not IS_LINUX:
        return None
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    return name
