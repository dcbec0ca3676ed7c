"""What pip is told about the package, and what importing it costs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import batching

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))
EXTRAS = {
    "cli": {"typer", "rich", "matplotlib"},
    "metrics": {"prometheus_client"},
    "anyio": {"anyio"},
}


def test_version_is_the_same_everywhere() -> None:
    assert batching.__version__ == importlib.metadata.version("udp-batching")


def test_core_requires_nothing_at_run_time() -> None:
    required = importlib.metadata.requires("udp-batching") or []
    assert [each for each in required if "extra ==" not in each] == []
    assert PROJECT["project"]["dependencies"] == []


def test_extras_are_those_that_the_documentation_names() -> None:
    extras = dict(PROJECT["project"]["optional-dependencies"])
    assert extras.pop("all") == [f"udp-batching[{','.join(EXTRAS)}]"]
    assert {
        extra: {each.partition(">=")[0] for each in required} for extra, required in extras.items()
    } == EXTRAS


def test_licence_and_python_version_are_declared() -> None:
    metadata = importlib.metadata.metadata("udp-batching")
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata["Requires-Python"] == ">=3.11"


def test_command_line_is_installed() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="batching")
    assert script.value == "batching.cli:main"


def test_types_are_shipped() -> None:
    assert (Path(batching.__file__).parent / "py.typed").exists()


def test_importing_the_package_loads_no_extra() -> None:
    unwanted = {"asyncio", *set().union(*EXTRAS.values())}
    code = f"import sys, batching; print(*sorted({unwanted} & set(sys.modules)))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, timeout=30
    ).stdout
    assert loaded.split() == []


def test_importing_the_package_compiles_no_annotation() -> None:
    # Those of a named tuple are, where they are strings, and the first costs 3 ms: a module that
    # has one has no "from __future__ import annotations".
    code = (
        "import typing\n"
        "typing.ForwardRef.__init__ = lambda self, text, *_, **__: print(text)\n"
        "import batching"
    )
    compiled = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, timeout=30
    ).stdout
    assert compiled.split() == []
