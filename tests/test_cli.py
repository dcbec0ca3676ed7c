"""The command line: what it prints, how it refuses, how it ends."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import batching

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from typer.testing import CliRunner

from batching.cli import measure
from batching.cli.app import app
from batching.cli.contenders import CONTENDERS, RECEIVERS, SENDERS, Contender
from batching.cli.measure import Bench, RunError, Sample, Settings

SOURCE = str(Path(batching.__file__).resolve().parent.parent)
PATIENCE_S = 50
QUICK = ["--duration", "0.05", "--size", "64", "--rounds", "1"]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [SOURCE, os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, **more}
    env.pop("COLUMNS", None)
    return env


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "batching", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(**more),
        check=False,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A real bench, as short as can be."""
    path = tmp_path_factory.mktemp("bench") / "result.json"
    done = run("bench", *QUICK, "--json", str(path))
    return SimpleNamespace(done=done, content=json.loads(path.read_text(encoding="utf-8")))


# ---- what it prints ----


def test_version_is_one_line() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"batching {batching.__version__}\n")


def test_no_arguments_print_the_help() -> None:
    done = run()
    assert done.returncode == 0
    assert "bench" in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["bench", "--help"], ["-h"]])
def test_help_has_examples(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0
    assert "Examples" in result.output
    assert "batching bench --size" in result.output


def test_help_needs_no_run_of_the_bench() -> None:
    text = CliRunner().invoke(app, ["bench", "--help"]).output
    for option in ("--size", "--duration", "--batch", "--rounds", "--no-pin", "--json", "--plot"):
        assert option in text


# ---- what it measures ----


def test_bench_prints_a_row_for_every_contender(quick: SimpleNamespace) -> None:
    assert quick.done.returncode == 0, quick.done.stdout + quick.done.stderr
    assert quick.done.stderr == ""
    lines = [line.strip() for line in quick.done.stdout.splitlines()]
    start = lines.index("send, 64 B")
    middle = lines.index("receive, 64 B")
    for contender, line in zip(SENDERS, lines[start + 1 : middle], strict=True):
        assert line.startswith(contender.name)
    for contender, line in zip(RECEIVERS, lines[middle + 1 :], strict=True):
        assert line.startswith(contender.name)


def test_table_fits_100_columns_and_ends_no_line_with_a_blank(quick: SimpleNamespace) -> None:
    lines = quick.done.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if line.endswith(" ")] == []


def test_header_names_machine_kernel_python_and_back_end(quick: SimpleNamespace) -> None:
    header = "\n".join(quick.done.stdout.splitlines()[:3])
    machine = quick.content["machine"]
    for fact in ("kernel", "python", "backend"):
        assert machine[fact] in header
    assert "GSO" in header


def test_json_has_plausible_rows(quick: SimpleNamespace) -> None:
    content = quick.content
    assert content["interrupted"] is False
    assert content["settings"]["sizes"] == [64]
    assert {(row["direction"], row["contender"]) for row in content["rows"]} == {
        (contender.direction, contender.name) for contender in CONTENDERS
    }
    for row in content["rows"]:
        assert row["error"] == ""
        if row["note"]:
            assert row["datagrams_per_second"] is None
            continue
        (only,) = row["rounds"]
        assert 0 < only["received"] <= only["sent"]
        assert 0 < only["seconds"] < 10
        assert only["cpu_s"] > 0
        assert row["datagrams_per_second"] == pytest.approx(only["datagrams"] / only["seconds"])
        assert row["gigabits_per_second"] == pytest.approx(
            row["datagrams_per_second"] * 64 * 8 / 1e9
        )
        assert 0 <= row["loss_percent"] < 100
        assert row["ratio_to_socket"] > 0
    plain = [row for row in content["rows"] if row["contender"] == "socket"]
    assert [row["ratio_to_socket"] for row in plain] == [1, 1]


def test_missing_uvloop_is_noted_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "uvloop" else find_spec(name)
    )
    monkeypatch.setattr(Bench, "run", lambda *_: Sample(1000, 0.1, 0.1, 1000, 1000))
    result = CliRunner().invoke(app, ["bench", *QUICK])
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines() if "uvloop" in line]
    assert rows == [["uvloop", "not", "installed"]] * 2
    assert result.stdout.count("10,000") == sum(
        contender.module != "uvloop" and not contender.note() for contender in CONTENDERS
    )


def test_a_batch_size_of_the_environment_does_not_concern_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BATCHING_BATCH_SIZE", "many")
    monkeypatch.setattr(Bench, "run", lambda *_: Sample(1000, 0.1, 0.1, 1000, 1000))
    assert CliRunner().invoke(app, ["bench", *QUICK]).exit_code == 0


def settings() -> Settings:
    return Settings(duration_s=0.05, batch=16, cpus=None, spin=False)


def test_child_that_dies_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WORKER", "import os, signal; os.kill(os.getpid(), 9)")
    with pytest.raises(RunError, match="SIGKILL"):
        Bench(settings()).run(SENDERS[0], 64)


def test_child_that_fails_is_an_error_with_its_last_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WORKER", "raise SystemExit('no more electricity')")
    with pytest.raises(RunError, match="status 1: no more electricity"):
        Bench(settings()).run(SENDERS[0], 64)


@pytest.mark.parametrize("line", ["a banner of somebody's", "42"])
def test_child_that_prints_something_else_is_an_error_with_the_line(
    monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(measure, "_WORKER", f"print({line!r}); input()")
    with pytest.raises(RunError, match=rf"^drain.* printed b.*{line}.*, must be a JSON object"):
        Bench(settings()).run(SENDERS[0], 64)


def test_child_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WORKER", "import signal; signal.pause()")
    monkeypatch.setattr(measure, "_GRACE_S", 1.0)
    with pytest.raises(RunError, match="no answer within 1 s"):
        Bench(settings()).run(SENDERS[0], 64)


def test_child_imports_nothing_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "json.py").write_text("print('a file of somebody, and not the module')")
    monkeypatch.chdir(tmp_path)
    assert Bench(settings()).run(SENDERS[0], 64).datagrams > 0


def test_unknown_contender_is_reported_by_the_child() -> None:
    nobody = Contender("nobody", "send", SENDERS[0].sender)
    with pytest.raises(RunError, match=r"KeyError.*nobody"):
        Bench(settings()).run(nobody, 64)


def test_failed_row_does_not_keep_the_others_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(self: Bench, contender: Contender, size: int) -> Sample:
        if contender.name == "asyncio":
            raise RunError("asyncio was ended by SIGKILL")
        return Sample(1000, 0.1, 0.1, 1000, 1000)

    monkeypatch.setattr(Bench, "run", failing)
    result = CliRunner().invoke(app, ["bench", *QUICK])
    assert result.exit_code == 1
    assert "asyncio (send, 64 B) failed: asyncio was ended by SIGKILL" in result.output
    assert result.output.count("10,000") >= 10


def test_bench_that_was_stopped_starts_nothing_more() -> None:
    runner = Bench(settings())
    runner.stop()
    with pytest.raises(RunError, match="SIGKILL"):
        runner.run(SENDERS[0], 64)


@contextlib.contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "batching", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        process_group=0,  # as a shell does: a signal to the group is a Ctrl-C
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def wait_for_children(process: subprocess.Popen[str]) -> list[int]:
    """Return the children once there are two; a run is in progress then."""
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    timer = threading.Timer(PATIENCE_S, ended.put, [None])
    timer.start()
    try:
        while ended.empty() and process.poll() is None:
            if len(found := children_of(process.pid)) >= 2:
                return found
    finally:
        timer.cancel()
        timer.join()
    raise AssertionError("no run was ever in progress")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see children")
def test_interrupt_ends_cleanly_with_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with running(
        "bench", "--size", "64", "--duration", "60", "--rounds", "100", "--json", str(path)
    ) as process:
        children = wait_for_children(process)
        os.killpg(process.pid, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert stderr == "interrupted: finished rows only\n"
    assert "datagrams/s" in stdout
    assert "failed" not in stdout
    assert json.loads(path.read_text(encoding="utf-8"))["interrupted"] is True
    for child in children:
        assert not Path(f"/proc/{child}").exists()


def test_interrupted_table_has_the_finished_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_then_interrupt(self: Bench, contender: Contender, size: int) -> Sample:
        if contender.name == "asyncio":
            signal.raise_signal(signal.SIGINT)
            raise RunError("asyncio was ended by SIGKILL")
        return Sample(1000, 0.1, 0.1, 1000, 1000)

    monkeypatch.setattr(Bench, "run", two_then_interrupt)
    result = CliRunner().invoke(app, ["bench", *QUICK])
    assert result.exit_code == 130
    rows = [line for line in result.stdout.splitlines() if "10,000" in line]
    assert len(rows) == 2
    assert "asyncio" not in result.stdout
    assert "receive" not in result.stdout.partition("datagrams/s")[2]
