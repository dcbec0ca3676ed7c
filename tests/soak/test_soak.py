"""The soak itself: it runs, notices each kind of defect, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from loopback import PATIENCE_S, needs_linux, until
from soak import plan
from soak.plan import Options

ROOT = Path(__file__).parent.parent.parent
pytestmark = needs_linux


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "soak", *map(str, arguments)]


def environment() -> dict[str, str]:
    folders = (ROOT / "src", ROOT / "tests", ROOT / "tests" / "faults")
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders))}


def soak(*arguments: object) -> tuple[int, str]:
    """Run it to its end; return its status and what it printed."""
    with subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        output, _ = process.communicate(timeout=2 * PATIENCE_S)
    assert_gone(process.pid)
    return process.returncode, output


def assert_gone(session: int) -> None:
    """Wait for the end of all processes of a session."""

    def is_gone() -> bool:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        return False

    until(is_gone)


def name_of(backend: ModuleType) -> str:
    return "native" if backend.__name__.endswith("_mmsg") else "portable"


@pytest.mark.slow
def test_some_rounds_with_faults_are_in_order(backend: ModuleType) -> None:
    status, output = soak("--seed", 1695, "--rounds", 3, "--backends", name_of(backend))
    assert status == 0, output
    assert "lost, all explained" in output


@pytest.mark.slow
def test_without_namespaces_it_soaks_the_loopback(backend: ModuleType) -> None:
    arguments = "--loopback", "--seed", 31, "--rounds", 2, "--backends", name_of(backend)
    status, output = soak(*arguments)
    assert status == 0, output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "told"),
    [("lose", "LOST"), ("double", "DOUBLED"), ("swap", "REORDERED"), ("corrupt", "CORRUPT")],
)
def test_a_defect_ends_the_run(backend: ModuleType, kind: str, told: str) -> None:
    arguments = "--seed", 3, "--rounds", 5, "--backends", name_of(backend), "--sabotage", kind
    status, output = soak(*arguments)
    assert status == 1, output
    assert told in output
    assert "seed 3 round " in output


@pytest.mark.slow
def test_a_run_that_is_killed_takes_its_workers_along() -> None:
    with subprocess.Popen(
        command("--minutes", 1, "--verbose"),
        env=environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout
        while b"round 1" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    assert_gone(process.pid)


def test_a_seed_gives_the_same_rounds_again() -> None:
    rounds = [plan.make(Options(seed=1), number) for number in range(50)]
    assert rounds == [plan.make(Options(seed=1), number) for number in range(50)]
    assert rounds != [plan.make(Options(seed=2), number) for number in range(50)]


def test_every_fault_and_every_pair_of_back_ends_has_its_turn() -> None:
    rounds = [plan.make(Options(seed=1), number) for number in range(300)]
    kinds = set().union(*(each.kinds() for each in rounds))
    assert kinds == {*plan.OF_ENDS, *plan.OF_NETWORK, *plan.OF_LINK}
    assert len({tuple(end.backend for end in each.ends) for each in rounds}) == 4
