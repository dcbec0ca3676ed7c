"""The programs of the peers: built with the toolchains that are found, or missing for a reason.

Rule 1: a toolchain that is missing, or a build that fails, is a reason and never an exception.
Rule 2: what is needed comes from the registries by their own clients, at the versions that
        go.sum and Cargo.lock hold; nothing of it stands in this tree.
Rule 3: go and cargo know themselves what has changed and has to be built anew.

``python -m peers.programs`` (in benchmarks/) builds all and prints what came of it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from process import CEILING

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build" / "peers"
LIMIT_S = 900  # for a build from nothing, downloads too
NICE = ("nice", "-n", "19")


@dataclass(frozen=True, slots=True)
class Program:
    """A peer's program, or why there is none."""

    command: tuple[str, ...] = ()
    """What comes before ROLE WAY SIZE COUNT DEST..., see README.md; empty if it is missing."""
    version: str = ""
    """The versions of the peer and of the toolchain."""
    missing: str = ""


class MissingError(RuntimeError):
    """There is no such program here; says why."""


def programs(directory: Path = BUILD) -> dict[str, Program]:
    """Build what can be built; return the program of each peer."""
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, build in _BUILDS.items():
        try:
            found[name] = build(directory)
        except MissingError as why:
            found[name] = Program(missing=str(why))
    return found


def tool(name: str, *, of: str = "") -> str:
    path = shutil.which(name)
    if path is None:
        raise MissingError(f"no {of or name}: the row is left out")
    return path


def run(
    command: list[str], *, within: Path | None = None, more: Mapping[str, str] | None = None
) -> str:
    """Run a step of a build; return what it printed."""
    try:
        done = subprocess.run(
            [*NICE, *command],
            cwd=within,
            env={**os.environ, **(more or {})},
            stdin=subprocess.DEVNULL,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]}: {error}") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        said = next((line for line in lines if line.startswith("error")), lines[-1])
        raise MissingError(f"{Path(command[0]).name} {command[1]}: {said}")
    return done.stdout


def go(source: Path, program: Path) -> None:
    """Build a Go module."""
    run([tool("go", of="go toolchain"), "build", "-trimpath", "-o", str(program)], within=source)


def _go(directory: Path) -> Program:
    program = directory / "peers-go"
    go(HERE / "go", program)
    said = json.loads(run([str(program), "version"]))
    return Program((str(program),), f"{said['batching']}, {said['toolchain']}")


def _rust(directory: Path) -> Program:
    cargo = tool("cargo", of="Rust toolchain")
    built = directory / "rust"
    run([cargo, "build", "--release", "--locked", "--target-dir", str(built)], within=HERE / "rust")
    lock = tomllib.loads((HERE / "rust" / "Cargo.lock").read_text(encoding="utf-8"))
    versions = {package["name"]: package["version"] for package in lock["package"]}
    toolchain = run([cargo, "--version"]).split()[1]
    version = f"quinn-udp {versions['quinn-udp']}, Rust {toolchain}"
    return Program((str(built / "release" / "peers"),), version)


def _c(directory: Path) -> Program:
    compiler = tool(os.environ.get("CC", "cc"), of="C compiler")
    program = directory / "ceiling"
    sources = [str(HERE.parent / name) for name in CEILING]
    run([compiler, "-O2", "-Wall", "-Wextra", "-pthread", "-o", str(program), *sources])
    return Program((str(program),), run([compiler, "--version"]).splitlines()[0])


def _iperf3(directory: Path) -> Program:
    iperf3 = tool("iperf3")
    version = re.search(r"iperf (\S+)", run([iperf3, "--version"]))
    if version is None:
        raise MissingError("iperf3: its version is not told")
    return Program((iperf3,), f"iperf3 {version[1]}")


_BUILDS: dict[str, Callable[[Path], Program]] = {
    "batching (Go)": _go,
    "quinn-udp": _rust,
    "C": _c,
    "iperf3": _iperf3,
}

if __name__ == "__main__":
    for name, program in programs().items():
        print(f"{name}: {program.missing or program.version}")
