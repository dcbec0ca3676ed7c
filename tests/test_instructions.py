"""make bench-check's judgement: what is worse, what is only told, what is recorded."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PATHS = [{"name": "send", "datagrams": 10}, {"name": "receive", "datagrams": 1}]
ANSWER = {"paths": PATHS, "blocks": 2, "calls": 5, "offload": "GSO"}
# Between, prepared, run: what matters is run less prepared, and the least of two blocks.
TOTALS = [9, 100, 5100, 9, 200, 5300, 9, 0, 800, 9, 50, 800]
COUNTS = {"send": 100.0, "receive": 150.0}


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("instructions")


@pytest.fixture
def counted(instructions: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Return the script, for which callgrind has counted already, and nothing is recorded."""
    monkeypatch.setattr(instructions, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(instructions, "run", lambda *_: ANSWER)
    monkeypatch.setattr(instructions, "dumps", lambda *_: TOTALS)
    monkeypatch.setattr(instructions, "core", lambda: tmp_path)
    monkeypatch.setattr(instructions, "key", lambda *_: "here")
    monkeypatch.setattr("shutil.which", lambda _: "valgrind")
    monkeypatch.setattr("sys.argv", ["instructions.py"])
    return instructions


def test_the_least_block_counts_without_its_preparation(instructions: Any) -> None:
    assert instructions.counts(ANSWER, TOTALS) == COUNTS


def test_a_missing_dump_is_no_count(instructions: Any) -> None:
    with pytest.raises(SystemExit, match="11 dumps of callgrind, must be 12"):
        instructions.counts(ANSWER, TOTALS[:-1])


def test_totals_are_read_in_the_order_of_the_dumps(tmp_path: Path, instructions: Any) -> None:
    for number in range(1, 12):
        (tmp_path / f"counts.{number}").write_text(f"fn=(1)\n1 2\ntotals: {number * 7}\n")
    assert instructions.dumps(tmp_path) == [number * 7 for number in range(1, 12)]


@pytest.mark.parametrize(
    ("recorded", "status", "told"),
    [
        ({"send": 97.2, "receive": 150.0}, 0, ""),
        ({"send": 97.0, "receive": 150.0}, 1, "WORSE"),
        ({"send": 103.1, "receive": 150.0}, 0, "better: record it"),
        ({"send": 100.0}, 0, "not recorded"),
        ({"send": 100.0, "receive": 150.0, "forward": 1.0}, 0, "counted no more: forward"),
    ],
    ids=["as recorded", "worse", "better", "new", "gone"],
)
def test_only_what_is_worse_by_more_than_three_percent_fails(
    counted: Any,
    capsys: pytest.CaptureFixture[str],
    recorded: dict[str, float],
    status: int,
    told: str,
) -> None:
    counted.RECORD.write_text(json.dumps({"here": recorded}))
    assert counted.main() == status
    said = capsys.readouterr().out
    assert told in said
    assert ("WORSE" in said) == bool(status)


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({}, "recorded for nothing; here is here; "),
        ({"elsewhere": COUNTS}, "recorded for elsewhere; here is here; "),
        ({"here": {"send": 100.0}}, "not recorded: receive; "),
    ],
    ids=["nothing", "nothing of here", "not all"],
)
def test_what_is_not_recorded_is_said_and_fails_only_where_it_must_be_compared(
    counted: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    recorded: dict[str, dict[str, float]],
    told: str,
) -> None:
    counted.RECORD.write_text(json.dumps(recorded))
    assert counted.main() == 0
    monkeypatch.setattr("sys.argv", ["instructions.py", "--must-compare"])
    assert counted.main() == 1
    said = capsys.readouterr().out
    assert said.count(f"{told}{counted.RECORD_IT}") == 2
    counted.RECORD.write_text(json.dumps({"here": COUNTS}))
    assert counted.main() == 0


def test_a_core_that_was_not_built_fails_where_it_must_be_compared(
    counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counted, "core", lambda: None)
    assert counted.main() == 0
    monkeypatch.setattr("sys.argv", ["instructions.py", "--must-compare"])
    assert counted.main() == 1


def test_recording_replaces_what_was_known_of_here_only(
    counted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"send": 1.0}
    counted.RECORD.write_text(json.dumps({"here": {"gone": 2.0}, "elsewhere": elsewhere}))
    monkeypatch.setattr("sys.argv", ["instructions.py", "--record"])
    assert counted.main() == 0
    assert json.loads(counted.RECORD.read_text()) == {"here": COUNTS, "elsewhere": elsewhere}
