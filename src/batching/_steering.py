"""steer: which member of a group that shares a port (SO_REUSEPORT) gets a datagram.

Left alone, the kernel hashes addresses and ports, which keeps a flow on one member.  Here it
gets a program of classic BPF instead, five to six instructions that return a member's number:

Rule 1: numbers are those of joining, from 0; when a member leaves, the last one takes its
number (net/core/sock_reuseport.c, reuseport_detach_sock).
Rule 2: a number that no member has means: hash, as if there were no program.
Rule 3: a load past the end of a datagram would return 0, which is a member; so the length
is looked at first, and what is too short is hashed.
"""

from __future__ import annotations

import array
import contextlib
import errno
import socket
import struct
from typing import Final

from ._checks import check_number
from ._conn import Conn
from ._errors import os_error
from ._kernel import (
    IS_LINUX,
    MAX_PAYLOAD_IPV6,
    SO_ATTACH_REUSEPORT_CBPF,
    SO_DETACH_REUSEPORT_BPF,
)

__all__ = ["steer"]

# include/uapi/linux/bpf_common.h and filter.h: class | size | mode, or class | operation | source
_LOAD_LENGTH: Final = 0x80  # BPF_LD | BPF_W | BPF_LEN: of the payload
_LOAD_WORD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_LOAD_BYTE: Final = 0x30  # BPF_LD | BPF_B | BPF_ABS; 0 is the payload's first
_JUMP_IF_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_MODULO: Final = 0x94  # BPF_ALU | BPF_MOD | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_RETURN_LOADED: Final = 0x16  # BPF_RET | BPF_A
_CPU: Final = 0xFFFFF000 + 36  # SKF_AD_OFF + SKF_AD_CPU
_NOBODY: Final = 0xFFFFFFFF
_MAX_MEMBERS: Final = 0xFFFF  # sock_reuseport.num_socks is a u16

_Instruction = tuple[int, int, int, int]  # operation, lines to skip if true and if false, operand


def steer(conn: Conn, by: str | int, *, members: int | None = None) -> None:
    """Choose how the kernel spreads datagrams over all connections that share a port.

    It holds for the whole group of ``open_conn(..., reuse_port=True)``, also for members that
    join later, until it is called again.  Members are numbered as they joined, from 0; when
    one is closed, the last one takes its number.  Where the number that ``by`` gives belongs
    to nobody, the kernel's hash decides.  A train goes whole where its first datagram does.

    Args:
        conn: Any member of the group.
        by: "cpu": the processor on which the kernel received it.  An offset, 0 to 65526: the
            byte of the payload there; shorter datagrams are hashed.  "hash": as without
            ``steer``, by addresses and ports.
        members: Take the number modulo this, 1 to 65535; None: as it is.

    Raises:
        TypeError, ValueError: An argument of the wrong type or out of its limits; ``conn``
            does not share its port.
        OSError: EBADF: closed; ENOPROTOOPT: not Linux, or before 4.5 (5.3 for "hash").
    """
    if not isinstance(conn, Conn):
        raise TypeError(f"conn must be Conn, not {type(conn).__name__}")
    program = _program(by, members)
    if not IS_LINUX:
        raise os_error(errno.ENOPROTOOPT)
    with conn._descriptor as sock:
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            raise ValueError(f"{conn!r} shares no port: it needs reuse_port=True")
        if program:
            _attach(sock, program)
        else:
            with contextlib.suppress(FileNotFoundError):  # ENOENT: there is none
                sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0)


def _program(by: str | int, members: int | None) -> list[_Instruction]:
    """Return the instructions; none for the kernel's own hash."""
    if not isinstance(by, str | int):
        raise TypeError(f"by must be str or int, not {type(by).__name__}")
    if members is not None:
        check_number("members", members, 1, _MAX_MEMBERS)
    if by == "hash":
        return []
    if by == "cpu":
        load = [(_LOAD_WORD, 0, 0, _CPU)]
    elif isinstance(by, int) and 0 <= by < MAX_PAYLOAD_IPV6:
        load = [
            (_LOAD_LENGTH, 0, 0, 0),
            (_JUMP_IF_AT_LEAST, 1, 0, by + 1),
            (_RETURN, 0, 0, _NOBODY),
            (_LOAD_BYTE, 0, 0, by),
        ]
    else:
        raise ValueError(f"by {by!r}, must be 'cpu', 'hash' or 0 to {MAX_PAYLOAD_IPV6 - 1}")
    modulo = [] if members is None else [(_MODULO, 0, 0, members)]
    return [*load, *modulo, (_RETURN_LOADED, 0, 0, 0)]


def _attach(sock: socket.socket, program: list[_Instruction]) -> None:
    code = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    address, _ = code.buffer_info()  # of what the kernel copies before it returns
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(program), address)
    )
