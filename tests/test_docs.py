"""What the documents name is there: tests, files, links, headings."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
TESTS = set(re.findall(r"^ *(?:async )?def (test_\w+)", SOURCES, re.MULTILINE))
SNIPPETS = [
    snippet
    for path in (ROOT / "docs").glob("*.md")
    for snippet in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
]
each_doc = pytest.mark.parametrize("doc", DOCS, ids=lambda path: path.name)


def headings(doc: Path) -> set[str]:
    """Return the anchors of a document's headings, as the usual renderers make them."""
    found = re.findall(r"^#+ (.*)$", doc.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in found}


@each_doc
def test_every_test_that_is_named_exists(doc: Path) -> None:
    text = doc.read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text)) | set(re.findall(r"::(test_\w+)", text))
    assert not named - TESTS


@each_doc
def test_every_file_that_is_named_exists(doc: Path) -> None:
    named = re.findall(
        r"`((?:tests|scripts|docs|benchmarks|src)/[\w./-]+\.\w+)`", doc.read_text(encoding="utf-8")
    )
    assert not [name for name in named if not (ROOT / name).exists()]


@each_doc
def test_every_link_within_the_project_leads_somewhere(doc: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", doc.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        place = (doc.parent / path).resolve() if path else doc
        assert place.exists(), target
        assert not anchor or anchor in headings(place), target


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_every_snippet_runs(snippet: str) -> None:
    if "anyio" in snippet:
        pytest.importorskip("anyio", reason='needs "udp-batching[anyio]"')
    if "prometheus_client" in snippet:
        pytest.importorskip("prometheus_client", reason='needs "udp-batching[metrics]"')
    command = [sys.executable, "-W", "error", "-c", snippet]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, "")
