"""The README's snippets, run as they are written, and what it says of commands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
EXPECTED = [
    r"(hello \d from port \d+\n){3}",
    r"2 sent; \{1: OSError\(\d+, .*\)\}\n",
    r"2 127\.0\.0\.2 1 \d{19}\n\[\(b'one,', .*\)\]\n\[TransportError\(errno=111, .*\n",
    r"b'one' True\nb'two' True\n",
    r"all came back\n",
]


def test_every_snippet_has_its_expected_output() -> None:
    assert len(SNIPPETS) == len(EXPECTED)


@pytest.mark.parametrize(
    ("snippet", "expected"), list(zip(SNIPPETS, EXPECTED, strict=False)), ids=range(len(EXPECTED))
)
def test_snippet_runs_as_written(snippet: str, expected: str) -> None:
    command = [sys.executable, "-W", "error", "-c", snippet]
    run = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert run.stderr == ""
    assert re.fullmatch(expected, run.stdout)


def test_make_targets_that_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", README, re.MULTILINE))
    assert {"bench", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()
