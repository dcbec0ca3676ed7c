"""Tests and commands in other kernels: make test-kernels, and by hand this.

    python3 scripts/kernels/main.py run 6.1 ip -V

The first needs root, and installs what is missing of Debian's packages.  Nothing is kept
but the kernels, in build/kernels.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import debian
import guest

CACHE: Final = Path("build/kernels").absolute()
# What takes a second there takes up to 20 in an emulated machine, and none may hang.
PATIENCE_S: Final = 200
TIMEOUT_S: Final = 600  # a test
RUN_TIMEOUT_S: Final = 1800  # a kernel's run over one back end
PACKAGES: Final = {
    "qemu-system-x86_64": "qemu-system-x86",
    "/usr/lib/qemu/virtiofsd": "qemu-system-common",
    "/bin/busybox": "busybox-static",
    "modprobe": "kmod",
    "cpio": "cpio",
    "xz": "xz-utils",
    "zstd": "zstd",
    "ip": "iproute2",  # from here on: what the tests use
    "ethtool": "ethtool",
    "nft": "nftables",
    "ipvsadm": "ipvsadm",  # balancers.py
}


def say(line: str) -> None:
    print(line, flush=True)


class Result:
    """What one kernel's run over one back end came to."""

    def __init__(self, kernel: str, backend: str) -> None:
        self.kernel, self.backend = kernel, backend
        self.release = "-"
        self.text = "nothing was told"  # pytest's last line
        self.passed = False
        self._start = time.monotonic()
        self.took_s = 0.0

    def hear(self, line: str) -> None:
        """Print a line of the guest, and keep it if it is pytest's summary."""
        say(line)
        if re.search(r"\d+ (passed|failed|error|skipped|deselected).* in [\d.]+s", line):
            self.text = line.strip("= ")

    def end(self, passed: bool) -> None:
        self.passed = passed
        self.took_s = time.monotonic() - self._start

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return f"{self.kernel:5} {self.release:28} {self.backend:9} {verdict}  {self.text}"


def install_missing() -> None:
    missing = sorted({package for file, package in PACKAGES.items() if not shutil.which(file)})
    if not missing:
        return
    print(f"Installing {' '.join(missing)}", flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--no-install-recommends", *missing]):
        subprocess.run(["apt-get", "-qq", *command], env=environment, check=True)


def run_tests(kernel: str, backend: str, arguments: list[str]) -> Result:
    result = Result(kernel, backend)
    command = [
        *(
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "kernel and not slow",
            "-p",
            "no:cacheprovider",
            "--color=no",
        ),
        *(f"--timeout={TIMEOUT_S}", "-o", f"faulthandler_timeout={TIMEOUT_S + 60}", *arguments),
    ]
    environment = {
        "BATCHING_BACKEND": backend,
        "BATCHING_TEST_PATIENCE": str(PATIENCE_S),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    try:
        tree = debian.fetch(kernel, CACHE)
        result.release = tree.release
        status = guest.run(tree, command, environment, RUN_TIMEOUT_S, result.hear)
        result.end(status == 0)
    except (guest.BootError, subprocess.CalledProcessError) as error:
        result.text = "the kernel did not end its run"
        print(error, flush=True)
        result.end(False)
    return result


def test(kernels: list[str], backends: list[str], arguments: list[str]) -> int:
    install_missing()
    results = []
    for backend in backends:
        for kernel in kernels:
            print(f"== Linux {kernel}, {backend} back end", flush=True)
            results.append(run_tests(kernel, backend, arguments))
    print("== In all", *results, sep="\n")
    return 0 if all(result.passed for result in results) else 1


def run(kernel: str, command: list[str]) -> int:
    install_missing()
    try:
        return guest.run(debian.fetch(kernel, CACHE), command, {}, RUN_TIMEOUT_S, say)
    except guest.BootError as error:
        print(error, file=sys.stderr)
        return 125


def main() -> int:
    parser = argparse.ArgumentParser(formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tests = commands.add_parser("test", help="run the tests marked kernel")
    tests.add_argument("--kernels", default="5.10 6.1 6.12", help=f"of {' '.join(debian.KERNELS)}")
    tests.add_argument("--backends", default="native portable")
    tests.add_argument("arguments", nargs="*", help="for pytest, after --")
    one = commands.add_parser("run", help="run a command")
    one.add_argument("kernel", choices=debian.KERNELS)
    one.add_argument("words", nargs=argparse.REMAINDER)
    chosen = parser.parse_args()
    if os.geteuid():
        parser.error("needs root: the guest reads this machine's files through a mount of its own")
    if chosen.command == "run":
        return run(chosen.kernel, chosen.words)
    kernels = chosen.kernels.split()
    unknown = set(kernels) - set(debian.KERNELS)
    if unknown or not kernels:
        parser.error(f"no kernel {' '.join(unknown)}: there are {' '.join(debian.KERNELS)}")
    return test(kernels, chosen.backends.split(), chosen.arguments)


if __name__ == "__main__":
    sys.exit(main())
