"""Fuzz what reads control bytes: ``fuzz_control.py FOLDER [libFuzzer's options]``.

control_harness.pyx becomes a program of clang's, with libFuzzer, ASan and UBSan.  It starts
from control bytes of this kernel; what it finds worth keeping stands in FOLDER/corpus, and
is in the end read by both back ends' ``parse_control`` and ``parse_metadata``, which must agree.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batching import Message, _mmsg, _portable, open_conn
from batching._kernel import (
    IP_PKTINFO,
    IP_RECVTOS,
    IP_TOS,
    IPV6_PKTINFO,
    IPV6_TCLASS,
    SO_RXQ_OVFL,
    SO_TIMESTAMPNS,
    SOL_IP,
    SOL_IPV6,
    SOL_UDP,
    UDP_GRO,
)
from loopback import ANY_PORT, PATIENCE_S, PlainPeer, needs_gso

HERE: Final = Path(__file__).parent
SOURCE: Final = HERE.parent.parent / "src"
HEAD: Final = 8  # bytes of the harness before the control bytes
_SWITCHES: Final = (
    (SOL_IP, 0),
    (socket.SOL_SOCKET, SO_TIMESTAMPNS),
    (SOL_IP, IP_PKTINFO),
    (SOL_IP, IP_RECVTOS),
)
_SPLICED: Final = (0, 1, 4, 15, 16, 17, 20, 24, 2**31, 2**32, 2**63, 2**64 - 8, 2**64 - 1)
_CFLAGS: Final = ("-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")


def real_controls() -> list[bytes]:
    """Return the control bytes that this kernel writes beside trains, datagrams and drops."""
    found = [b""]
    with open_conn(ANY_PORT, receive_buffer=8192, rxq_overflows_metric_name="fuzz") as conn:
        conn.settimeout(PATIENCE_S)
        with PlainPeer() as peer, socket.socket(fileno=os.dup(conn.fileno())) as sock:
            for level, option in _SWITCHES:
                if option:
                    sock.setsockopt(level, option, 1)
                for _ in range(100):
                    peer.send(conn.local_addr(), bytes(100))  # more than there is room for
                messages = [Message([bytearray(2048)], bytearray(512)) for _ in range(100)]
                n = conn.read_batch(messages)
                peer.send(conn.local_addr(), b"tells of drops")
                if not needs_gso.args[0]:
                    peer.send_train(conn.local_addr(), bytes(250), 100)
                n += conn.read_batch(messages[n:])
                found += [bytes(memoryview(message.oob)[: message.nn]) for message in messages[:n]]
    return sorted(set(found))


def made_controls() -> list[bytes]:
    """Return what is at the edge: lengths that do not fit, sizes out of range."""
    gro = struct.pack("@Niii", 20, SOL_UDP, UDP_GRO, 1400) + bytes(4)
    drops = struct.pack("@NiiI", 20, socket.SOL_SOCKET, SO_RXQ_OVFL, 2**32 - 1) + bytes(4)
    lengths = [struct.pack("@Nii", n % 2**64, 0, 0) + drops + gro for n in _SPLICED]
    return [gro, drops, gro + drops, drops + gro, gro[:20], gro[:19], *lengths, *made_metadata()]


def made_metadata() -> list[bytes]:
    """Return marks, times and addresses, of which the last ones are at the edge."""

    def cmsg(level: int, kind: int, data: bytes) -> bytes:
        return struct.pack("@Nii", 16 + len(data), level, kind) + data + bytes(-len(data) % 8)

    def time(seconds: int, nanoseconds: int) -> bytes:
        data = struct.pack("@ll", seconds, nanoseconds)
        return cmsg(socket.SOL_SOCKET, SO_TIMESTAMPNS, data)

    mapped = bytes(10) + b"\xff\xff\x7f\0\0\1"
    of_ipv4 = [
        cmsg(SOL_IP, IP_PKTINFO, struct.pack("@i", index) + source + b"\x7f\0\0\1")
        for index, source in ((1, b"\x7f\0\0\1"), (-1, b"\x0a\0\0\1"), (0, bytes(4)))
    ]
    of_ipv6 = [
        cmsg(SOL_IPV6, IPV6_PKTINFO, host + struct.pack("=I", index))
        for host, index in ((mapped, 1), (bytes(16), 0), (b"\xfe\x80" + mapped[2:], 2**32 - 1))
    ]
    marks = [cmsg(SOL_IP, IP_TOS, data) for data in (b"", b"\x03", b"\xb8\1\2\3")]
    marks += [cmsg(SOL_IPV6, IPV6_TCLASS, struct.pack("=i", value)) for value in (2, -1, -(2**31))]
    times = [time(*at) for at in ((1, 2), (2**62, 0), (-1, 0), (1, 10**9), (1, -1), (2**31, 0))]
    pairs = [b + a for a in of_ipv4 for b in of_ipv6] + [a + b for a in of_ipv4 for b in of_ipv6]
    return [*of_ipv4, *of_ipv6, *marks, *times, *pairs]


def mutations(seeds: list[bytes], n: int, seed: int) -> Iterator[bytes]:
    """Yield ``n`` buffers made of ``seeds``: spliced, cut, and with bytes and lengths changed."""
    chance = random.Random(seed)
    for _ in range(n):
        buffer = bytearray(chance.choice(seeds) + chance.choice(seeds))
        for _ in range(chance.randrange(4)):
            if len(buffer) < 8:
                break
            at = chance.randrange(len(buffer))
            if chance.random() < 0.5:
                buffer[at] ^= 1 << chance.randrange(8)
            else:
                at -= at % 8
                buffer[at : at + 8] = struct.pack("=Q", chance.choice(_SPLICED))
        del buffer[chance.randrange(len(buffer) + 1) if chance.random() < 0.3 else len(buffer) :]
        yield bytes(buffer)


def disagreements(controls: Iterator[bytes]) -> list[bytes]:
    """Return the buffers of which the two back ends do not read the same."""
    return [
        control
        for control in controls
        if _mmsg.parse_control(control) != _portable.parse_control(control)
        or _mmsg.parse_metadata(control) != _portable.parse_metadata(control)
    ]


def build(folder: Path, clang: str) -> Path:
    """Make the program; CalledProcessError where clang has no libFuzzer."""
    program, source = folder / "fuzz_control", folder / "control_harness.c"
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(SOURCE), "-o", str(source)]
    subprocess.run([*cython, str(HERE / "control_harness.pyx")], check=True)
    include = ["-I", sysconfig.get_path("include"), "-w"]
    # What Cython's module would need of Python is never called, and left out.
    no_python = ["-no-pie", "-Wl,--unresolved-symbols=ignore-all"]
    command = [clang, *_CFLAGS, *include, str(source), *no_python, "-o", str(program)]
    subprocess.run(command, check=True, capture_output=True)
    return program


def run(program: Path, folder: Path, *options: str) -> str:
    """Run it over a corpus that stays; return what it tells, or raise CalledProcessError."""
    corpus, seeds = folder / "corpus", folder / "seeds"
    for each in (corpus, seeds):
        each.mkdir(exist_ok=True)
    for i, control in enumerate([*real_controls(), *made_controls()]):
        said = struct.pack("=IHBB", 1000 * i, 0, 16, 1)
        (seeds / f"{i:03}").write_bytes(said + control)
    command = [
        str(program),
        str(corpus),
        str(seeds),
        "-max_len=264",
        "-print_final_stats=1",
        *options,
    ]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, check=False, cwd=folder, errors="replace"
    )
    if done.returncode:
        print(done.stderr[-10_000:], file=sys.stderr)
        done.check_returncode()
    return done.stderr


def kept(folder: Path) -> Iterator[bytes]:
    """Yield the control bytes of the corpus."""
    for path in sorted((folder / "corpus").iterdir()):
        yield path.read_bytes()[HEAD:]


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    clang = shutil.which("clang")
    if clang is None:
        sys.exit("no clang here: on Debian, apt-get install clang libclang-rt-14-dev")
    told = run(build(folder, clang), folder, *sys.argv[2:]).splitlines()
    print("\n".join(line for line in told if "DONE" in line or "Done" in line or "stat::" in line))
    if differing := disagreements(kept(folder)):
        sys.exit(f"the back ends disagree about {differing}")
    print(f"{sum(1 for _ in kept(folder))} buffers of the corpus: the back ends agree about each")


if __name__ == "__main__":
    main()
