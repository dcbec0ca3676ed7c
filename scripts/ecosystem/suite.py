"""Suite: a package's own tests, from its sdist, in a venv that has the package from its wheel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final

from run import Run

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
BUILD: Final = ROOT / "build" / "ecosystem"
RUNNER: Final = ["pytest==9.2.0", "pytest-timeout==2.4.0"]
_NO_SETTINGS: Final = "pytest.ini"  # an empty one, lest pytest takes ours, further up
LIMIT_S: Final = 600  # of one run
TEST_LIMIT_S: Final = 60


class SetupError(Exception):
    """A suite cannot be run, and why."""


class MissingToolError(SetupError):
    """This machine lacks a tool that is not installed from here."""


@dataclass
class Suite:
    """A suite as suites.toml describes it."""

    name: str
    version: str
    sha256: str
    requirements: list[str]
    keep: list[str]
    tests: list[str]
    options: list[str] = field(default_factory=list)
    runner: list[str] = field(default_factory=lambda: RUNNER)
    leave_out: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        python = "{}.{}".format(*sys.version_info)
        return BUILD / f"{self.name}-{self.version}-python{python}"

    @property
    def python(self) -> Path:
        return self.home / "venv" / "bin" / "python"

    def prepare(self) -> None:
        """Fetch, unpack, install; what was done before is not done again."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._unpack(self._fetch())
        wanted = [f"{self.name}=={self.version}", *self.runner, *self.requirements]
        make_venv(self.home / "venv", wanted)

    def _fetch(self) -> Path:
        sdists = self.home / "sdist"
        if not list(sdists.glob("*.tar.gz")):
            wanted = ["--no-deps", "--no-binary", self.name, f"{self.name}=={self.version}"]
            call([sys.executable, "-m", "pip", "download", "--quiet", "--dest", sdists, *wanted])
        (sdist,) = sdists.glob("*.tar.gz")
        found = hashlib.sha256(sdist.read_bytes()).hexdigest()
        if found != self.sha256:
            raise SetupError(f"{sdist.name} has the hash {found}, not {self.sha256}")
        return sdist

    def _unpack(self, sdist: Path) -> None:
        tree = self.home / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extraction_filter = tarfile.data_filter
            for member in archive:
                _, _, path = member.name.partition("/")
                if any(PurePosixPath(path).is_relative_to(kept) for kept in self.keep):
                    member.name = path
                    archive.extract(member, tree)
        if "pyproject.toml" not in self.keep:
            (tree / _NO_SETTINGS).touch()
        stand_ins = HERE / "stand_ins" / self.name
        if stand_ins.is_dir():
            shutil.copytree(stand_ins, tree, dirs_exist_ok=True)

    def run(self, loop: str, tests: Iterable[str] = ()) -> Run:
        """Run the tests, or just ``tests``, on a loop: stock or ours."""
        log = self.home / f"{loop}.jsonl"
        log.unlink(missing_ok=True)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(HERE / "plugin")]),
            "ECOSYSTEM_LOOP": loop,
            "ECOSYSTEM_LOG": str(log),
            **self.environment,
        }
        if backend := os.environ.get("BATCHING_BACKEND"):
            environment["BATCHING_BACKEND"] = backend
        settings = "pyproject.toml" if "pyproject.toml" in self.keep else _NO_SETTINGS
        command = [self.python, "-m", "pytest", "-q", "-p", "ecosystem_plugin", "-c", settings]
        command += ["-p", "no:cacheprovider", "--timeout", TEST_LIMIT_S, *self.options]
        command += [f"--deselect={test}" for test in self.leave_out]
        command += tests or self.tests
        command = with_localhost(command, self.home)
        with (self.home / f"{loop}.txt").open("w") as output:
            is_in_time = run_bounded(command, self.home / "tree", environment, output)
        return Run.read(log, is_in_time=is_in_time)


def with_localhost(command: list[object], folder: Path) -> list[object]:
    """Let localhost be ::1 too for a command, where it is not and root may say so.

    Suites look it up for IPv6.  The command sees another /etc/hosts, which this machine does not.
    """
    try:
        socket.getaddrinfo("localhost", 0, socket.AF_INET6)
    except socket.gaierror:
        unshare = ["unshare", "--mount"]
        with contextlib.suppress(SetupError, OSError):
            call([*unshare, "true"])
            hosts = folder / "hosts"
            hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
            bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
            return [*unshare, "sh", "-c", bind, hosts, *command]
    return command


def run_bounded(
    command: list[object], folder: Path, environment: dict[str, str], output: IO[str]
) -> bool:
    """Run a command; tell whether it ended in time.  If not, it and its children are ended."""
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return False
    return True


def make_venv(folder: Path, wanted: list[str]) -> Path:
    """Make a venv that has what is wanted, unless it is there; return its Python."""
    python = folder / "bin" / "python"
    mark = folder / "wanted.txt"
    if not mark.exists() or mark.read_text() != "\n".join(wanted):
        shutil.rmtree(folder, ignore_errors=True)
        call([sys.executable, "-m", "venv", folder])
        call([python, "-m", "pip", "install", "--quiet", "--prefer-binary", *wanted])
        mark.write_text("\n".join(wanted))
    return python


def call(command: list[object]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(words)}: {done.stderr or done.stdout}")


def read_suites() -> list[Suite]:
    with (HERE / "suites.toml").open("rb") as file:
        return [Suite(name, **described) for name, described in tomllib.load(file).items()]
