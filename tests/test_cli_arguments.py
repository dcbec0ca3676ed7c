"""The command line refuses: wrong arguments, missing extras, a back end that is not to be had."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason='needs pip install "udp-batching[cli]"')
pytest.importorskip("rich", reason='needs pip install "udp-batching[cli]"')

from typer.testing import CliRunner

from batching.cli.app import app
from test_cli import PATIENCE_S, SOURCE, environment, run

# By command: the words behind it, and what the answer tells.
WRONG = {
    "batching": [
        ("--speed", "--version"),
        ("benhc", "bench"),
        ("bench --size", "requires an argument"),
    ],
    "batching bench": [
        ("--size 0", "1 to 65507"),
        ("--size 65508", "1 to 65507"),
        ("--size big", "1 to 65507"),
        ("--size 64 --size -1", "1 to 65507"),
        ("--duration 0", "0.02 to 60"),
        ("--duration nan", "0.02 to 60"),
        ("--batch 1025", "1 to 1024"),
        ("--rounds 1.5", "1 to 100"),
        ("--json /no/such/place/x.json", "/no/such/place"),
        ("--json /", "must be a file"),
        ("--plot x.pdf", ".png"),
        ("--speed", "--duration"),
        ("somewhere", "takes options only"),
    ],
    "batching probe": [
        ("localhost", "HOST:PORT"),
        (":7478", "HOST:PORT"),
        ("localhost:65536", "1 to 65535"),
        ("localhost:0", "1 to 65535"),
        ("localhost:http", "1 to 65535"),
        (f"localhost:{'9' * 5000}", "1 to 65535"),
        ("::1:7478", "[HOST]:PORT"),
        ("--duration 61", "0.5 to 60"),
        ("--json /no/such/place/x.json", "/no/such/place"),
        ("--speed", "--duration"),
        ("a:1 b:2", "takes HOST:PORT and options only"),
    ],
    "batching probe serve": [
        ("--port 65536", "0 to 65535"),
        ("--host localhost", "not numeric"),
        ("now", "takes options only"),
    ],
}
REFUSED = [
    pytest.param(command, words, allowed, id=f"{command} {words}"[:50])
    for command, wrong in WRONG.items()
    for words, allowed in wrong
]


@pytest.mark.parametrize(("command", "words", "allowed"), REFUSED)
def test_wrong_argument_is_one_line_and_status_2(command: str, words: str, allowed: str) -> None:
    result = CliRunner().invoke(app, [*command.split()[1:], *words.split()])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"{command}: ")
    assert allowed in result.stderr


def test_wrong_argument_of_a_real_process_is_one_line_on_stderr() -> None:
    done = run("bench", "--size", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "batching bench: invalid value for '--size': 0, must be a whole number from 1 to 65507\n"
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_missing_extra_is_one_line_and_status_2(missing: str) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; import batching.cli as c; c.main()"
    done = started("-c", code)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'the command line needs: pip install "udp-batching[cli]"\n'


def started(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env=environment(**more),
        check=False,
    )


@pytest.fixture
def without_core(tmp_path: Path) -> str:
    """Give a folder that has the package as it is where the native core was not built."""
    built = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(f"{SOURCE}/batching", tmp_path / "source" / "batching", ignore=built)
    return str(tmp_path / "source")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("native", "ImportError: BATCHING_BACKEND=native: "),
        ("quick", "ValueError: BATCHING_BACKEND=quick, must be native, portable or empty\n"),
    ],
)
def test_a_back_end_that_is_not_to_be_had_is_told(
    without_core: str, wanted: str, told: str
) -> None:
    done = started("-c", "import batching", PYTHONPATH=without_core, BATCHING_BACKEND=wanted)
    assert done.returncode == 1
    assert f"\n{told}" in done.stderr
