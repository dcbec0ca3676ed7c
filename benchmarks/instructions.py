"""Count the instructions of the hot paths, and compare them with the recorded ones.

python benchmarks/instructions.py [--record | --must-compare]

callgrind counts what hot_paths.py executes in user space; the kernel's part is not seen.
Nothing else that the machine does changes the counts, so a small change of the code shows.
What they depend on is the key they are recorded under, in instructions.json.  Where nothing is
recorded for this interpreter and this core, nothing is compared; with --must-compare that fails.
It fails where a path takes more than ALLOWED of what is recorded; where one takes as much less,
that is told, so that it will be recorded.
"""

from __future__ import annotations

import argparse
import compileall
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from process import HERE, SOURCE

ALLOWED = 1.03
RECORD = HERE / "instructions.json"
RECORD_IT = "record with: make bench-check ARGS=--record"
LIMIT_S = 300
# glibc copies memory in the way that suits the processor; this is the one that every x86-64 has.
# Each release heeds the names that it knows.
FEATURES = (
    "AVX_Fast_Unaligned_Load",
    "AVX2",
    "AVX2_Usable",
    "AVX512F",
    "AVX512VL",
    "ERMS",
    "FSRM",
    "SSSE3",
)
ENVIRONMENT = {
    "BATCHING_BACKEND": "native",
    "GLIBC_TUNABLES": f"glibc.cpu.hwcaps={','.join(f'-{name}' for name in FEATURES)}",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": str(SOURCE),
}

Counts = dict[str, float]  # instructions a datagram, by the path's name


class Row(NamedTuple):
    """One path, and what is to be said of it."""

    name: str
    counted: float
    recorded: float | None

    @property
    def ratio(self) -> float:
        return self.counted / self.recorded if self.recorded else 1.0

    @property
    def is_worse(self) -> bool:
        return self.ratio > ALLOWED

    @property
    def verdict(self) -> str:
        if self.recorded is None:
            return "not recorded"
        if self.is_worse:
            return "WORSE"
        return "better: record it" if self.ratio < 1 / ALLOWED else ""

    def __str__(self) -> str:
        known = f"{self.recorded:12.2f}{self.ratio:8.3f}" if self.recorded else f"{'-':>12}{'-':>8}"
        return f"{self.name:46}{self.counted:10.2f}{known}  {self.verdict}".rstrip()


HEAD = f"{'instructions a datagram, in user space':46}{'counted':>10}{'recorded':>12}{'ratio':>8}"


def core() -> Path | None:
    """Return a part of the native core as it was built for this interpreter."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    built = SOURCE / "batching" / "_mmsg" / f"send{suffix}"
    return built if built.exists() else None


def key(built: Path, offload: str) -> str:
    """Say what the counts depend on: what made the interpreter and the core, libc, the kernel."""
    is_optimized = "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "")
    binary = built.read_bytes()
    compiler = re.search(rb"(GCC|clang)[^\0]*?(\d+\.\d+)\.\d+\0", binary)  # of .comment
    cython = re.search(rb"_cython_(\d+_\d+_\d+)", binary)  # the module of its shared types
    parts = (
        f"CPython {platform.python_version()}",
        platform.python_compiler() + (", optimized" if is_optimized else ""),
        "core by " + (b" ".join(compiler.groups()).decode() if compiler else "another compiler"),
        "Cython " + (cython[1].decode().replace("_", ".") if cython else "unknown"),
        " ".join(platform.libc_ver()),
        platform.machine(),
        offload,
    )
    return "; ".join(parts)


def run(valgrind: str, directory: Path) -> dict[str, Any]:
    """Run the hot paths, whose dumps are then in the directory; return what they answer."""
    # What compiling leaves in the heap would change the counts by a percent.
    compileall.compile_dir(SOURCE / "batching", quiet=1)
    done = subprocess.run(
        [
            valgrind,
            "--tool=callgrind",
            "--dump-before=getppid",  # hot_paths.mark
            f"--callgrind-out-file={directory / 'counts'}",
            f"--log-file={directory / 'log'}",
            *(sys.executable, "-S", str(HERE / "hot_paths.py")),
        ],
        cwd=directory,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode:
        sys.exit(f"the hot paths ended with {done.returncode}\n{(directory / 'log').read_text()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def dumps(directory: Path) -> list[int]:
    """Return the instructions of each dump in the order in which they were made."""
    totals = []
    for number in range(1, len(list(directory.glob("counts.*"))) + 1):
        text = (directory / f"counts.{number}").read_text()
        found = re.search(r"^totals: (\d+)$", text, re.MULTILINE)
        if found is None:
            sys.exit(f"dump {number} of callgrind has no totals")
        totals.append(int(found[1]))
    return totals


def counts(answer: dict[str, Any], totals: list[int]) -> Counts:
    """Make instructions a datagram of dumps in threes: what is between, prepared, run."""
    paths, blocks, calls = answer["paths"], answer["blocks"], answer["calls"]
    if len(totals) != 3 * blocks * len(paths):
        sys.exit(f"{len(totals)} dumps of callgrind, must be {3 * blocks * len(paths)}")
    net = [run - prepared for prepared, run in zip(totals[1::3], totals[2::3], strict=True)]
    return {
        path["name"]: round(min(net[at : at + blocks]) / calls / path["datagrams"], 2)
        for at, path in zip(range(0, len(net), blocks), paths, strict=True)
    }


def compare(found: Counts, recorded: Counts | None) -> list[Row]:
    """Print the table and return its rows."""
    rows = [Row(name, count, (recorded or {}).get(name)) for name, count in found.items()]
    print(HEAD, *rows, sep="\n")
    if gone := (recorded or {}).keys() - found.keys():
        print(f"Recorded, and counted no more: {'; '.join(sorted(gone))}")
    return rows


def missing(rows: list[Row], recorded: dict[str, Counts], which: str) -> str:
    """Say what could not be compared, and why; nothing where all was."""
    if which not in recorded:
        known = " and for ".join(sorted(recorded)) or "nothing"
        return f"Nothing was compared: recorded for {known}; here is {which}; {RECORD_IT}"
    new = "; ".join(row.name for row in rows if row.recorded is None)
    return f"Not compared, since not recorded: {new}; {RECORD_IT}" if new else ""


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of the hot paths.")
    wish = parser.add_mutually_exclusive_group()
    wish.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    wish.add_argument("--must-compare", action="store_true", help="fail where nothing is recorded")
    arguments = parser.parse_args()
    built = core()
    if built is None:
        print("The native core was not built: nothing is counted.")
        return int(arguments.must_compare)
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        sys.exit("valgrind is not installed, without which nothing is counted")
    with tempfile.TemporaryDirectory() as directory:
        answer = run(valgrind, Path(directory))
        found = counts(answer, dumps(Path(directory)))
    recorded: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    which = key(built, answer["offload"])
    print(which)
    rows = compare(found, recorded.get(which))
    if arguments.record:
        recorded[which] = found
        RECORD.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n")
        print(f"Recorded in {RECORD.name}.")
        return 0
    unknown = missing(rows, recorded, which)
    if unknown:
        print(unknown)
    is_worse = any(row.is_worse for row in rows)
    if is_worse:
        print(f"Worse by more than {ALLOWED - 1:.0%}; if that is the price of something,")
        print(RECORD_IT)
    return int(is_worse or (arguments.must_compare and bool(unknown)))


if __name__ == "__main__":
    sys.exit(main())
