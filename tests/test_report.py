"""When docs/benchmarks.md is written: by a whole run, from files of one kind, and else not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
BOOK = {
    "date": "2026-11-24T10:00:00+00:00",
    "machine": {"processor": "A processor", "kernel": "Linux 6.18"},
    "settings": {"rounds": 7},
    "peers": {"quinn-udp": "0.6.3"},
    "tables": {},
    "outcomes": {},
    "failures": {},
}


@pytest.fixture(autouse=True)
def path_of_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def module(name: str) -> Any:
    return importlib.import_module(name)


def write(directory: Path, name: str, **changed: Any) -> str:
    (directory / name).write_text(json.dumps(BOOK | changed), encoding="utf-8")
    return str(directory / name)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"date": "2026-11-25T10:00:00+00:00"}, "date 2026-11-24, there 2026-11-25"),
        (
            {"machine": {"processor": "A processor", "kernel": "Linux 6.1"}},
            "kernel Linux 6.18, there Linux 6.1",
        ),
        ({"settings": {"rounds": 3}}, "rounds 7, there 3"),
        ({"peers": {}}, "quinn-udp 0.6.3, there None"),
    ],
    ids=["day", "kernel", "settings", "peers"],
)
def test_runs_of_different_kinds_are_not_put_together(
    tmp_path: Path, changed: dict[str, Any], told: str
) -> None:
    files = [write(tmp_path, "one"), write(tmp_path, "other", **changed)]
    with pytest.raises(ValueError, match=r"one and .*other differ: ") as caught:
        module("report").read(files)
    assert str(caught.value).endswith(f"differ: {told}")


def test_runs_of_one_day_are_put_together(tmp_path: Path) -> None:
    later = write(tmp_path, "later", date="2026-11-24T12:00:00+00:00", failures={"send": "hung"})
    found = module("report").read([write(tmp_path, "one"), later])
    assert found.failures == {"send": "hung"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file or directory"),
        ("no JSON", "not what compare.py --json writes: JSONDecodeError("),
        ("[]", "not what compare.py --json writes: TypeError("),
        ('{"date": 1}', "not what compare.py --json writes: KeyError('tables')"),
        ("\x00\xff", "not what compare.py --json writes: "),
    ],
    ids=["missing", "no JSON", "a list", "of others", "binary"],
)
def test_file_that_is_no_run_s_is_named(tmp_path: Path, content: str | None, told: str) -> None:
    name = tmp_path / "found.json"
    if content is not None:
        name.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"found\.json: ") as caught:
        module("report").read([str(name)])
    assert str(caught.value).startswith(f"{name}: {told}")


@pytest.mark.parametrize("arguments", [(), ("missing.json",)])
def test_script_ends_with_a_line_and_status_2_and_writes_nothing(arguments: tuple[str]) -> None:
    document = module("report").DOCUMENT
    before = document.stat().st_mtime_ns
    script = str(BENCHMARKS / "report.py")
    done = subprocess.run(
        [sys.executable, script, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("report.py: ")
    assert "Traceback" not in done.stderr
    assert document.stat().st_mtime_ns == before


def interrupt(_: object) -> list[Any]:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("group", "status", "reports"),
    [(interrupt, 1, 0), (lambda _: [], 0, 1)],
    ids=["interrupted", "whole"],
)
def test_only_a_whole_run_writes_the_report(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    group: Callable[[object], list[Any]],
    status: int,
    reports: int,
) -> None:
    compare = module("compare")
    written: list[Any] = []
    program = module("peers.programs").Program(("true",))
    monkeypatch.setattr(compare, "GROUPS", {"send": group})
    monkeypatch.setattr(compare, "programs", lambda: {"C": program})
    monkeypatch.setattr(compare.report, "write", written.append)
    monkeypatch.setattr("sys.argv", ["compare.py", "--report"])
    assert compare.main() == status
    assert len(written) == reports
    assert ("interrupted: benchmarks.md is left as it was" in capsys.readouterr().out) != reports
