"""The shape of the source: imports point down, files are short, public names are sorted."""

from __future__ import annotations

import ast
import graphlib
import importlib
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "batching"
FILES = sorted(
    path
    for folder in (SOURCE, ROOT / "tests")
    for path in folder.rglob("*")
    if path.suffix in (".py", ".pyi", ".pyx", ".pxd")
)
# From top to bottom; a new file is given its layer here.
LAYERS = (
    ("cli", "__main__"),
    ("asyncio", "anyio"),
    ("_transport*",),
    ("_conn*", "_open", "_steering"),
    ("_sender*", "_receiver*", "_options", "_multicast"),
    ("packetconn",),
    (
        "_waiter*",
        "_errqueue",
        "_lessons",
        "_path_mtu",
        "_multicast_interface",
        "_routes",
        "segments",
    ),
    ("_peers", "_backend"),
    ("_mmsg", "_portable"),
    (
        "_kernel",
        "_checks",
        "_errors",
        "offload",
        "metrics",
        "_stats",
        "_collector",
        "geneve",
        "_address",
    ),
)
CYTHON_IMPORT = re.compile(r"^from (\.+)([\w.]*) c?import \(?([\w, ]*)", re.MULTILINE)
PUBLIC = sorted(path.stem for path in SOURCE.glob("[a-z]*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    """Return the full name of a module; of a package's __init__, that of the package."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES if path.is_relative_to(SOURCE)}


def import_statements(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Yield (level, module, names) of every import, those inside functions too."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".pyx", ".pxd"):
        for dots, module, names in CYTHON_IMPORT.findall(text):
            yield len(dots), module, re.findall(r"\w+", names)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield 0, alias.name, []


def imported(path: Path) -> set[str]:
    """Return the modules of ours that a file imports."""
    package = module_of(path).split(".")
    if path.stem != "__init__":
        package.pop()
    found = set()
    for level, module, names in import_statements(path):
        above = package[: len(package) - level + 1] if level else []
        target = ".".join([*above, module] if module else above)
        inside = {f"{target}.{name}" for name in names} & MODULES
        found |= inside or {target}
    return {name for name in found if name.split(".")[0] == "batching"}


def layer(module: str) -> int:
    """Return the number of a module's layer, 0 at the top."""
    first = module.split(".")[1]
    for number, patterns in enumerate(LAYERS):
        if any(fnmatch(first, pattern) for pattern in patterns):
            return number
    raise AssertionError(f"{module} has no layer in tests/test_layout.py")


SOURCE_FILES = [
    path for path in FILES if path.is_relative_to(SOURCE) and module_of(path) != "batching"
]


@pytest.mark.parametrize("path", SOURCE_FILES, ids=label)
def test_imports_point_down_only(path: Path) -> None:
    here = layer(module_of(path))
    for target in imported(path):
        if target == "batching" and "cli" in path.parts:
            continue  # the command line is a user of the package
        assert target != "batching", f"{label(path)} imports from the package's __init__"
        assert layer(target) >= here, f"{label(path)} imports {target}, which is above it"


def test_imports_make_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCE_FILES:
        module = module_of(path)
        graph.setdefault(module, set()).update(imported(path) - {module})
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_geneve_imports_only_the_standard_library() -> None:
    assert not imported(SOURCE / "geneve.py")


@pytest.mark.parametrize("path", FILES, ids=label)
def test_file_has_at_most_400_lines(path: Path) -> None:
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= 400


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.suffix in (".py", ".pyi", ".pyx")], ids=label
)
def test_module_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".pyx":
        assert re.match(r'(#.*\n|\s*\n)*"""', text)
    else:
        assert ast.get_docstring(ast.parse(text))


def in_order(names: list[str]) -> list[str]:
    """Sort as ruff's RUF022 does: constants, classes, the rest."""
    return sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_module_lists_its_names_sorted(name: str) -> None:
    extras = {"anyio": "anyio"}
    if name in extras:
        pytest.importorskip(extras[name], reason=f'needs "udp-batching[{extras[name]}]"')
    module = importlib.import_module(f"batching.{name}")
    assert module.__all__ == in_order(module.__all__)
    for each in module.__all__:
        assert hasattr(module, each)


def test_package_lists_its_names_sorted() -> None:
    package = importlib.import_module("batching")
    assert package.__all__ == in_order(package.__all__)
    for each in package.__all__:
        assert hasattr(package, each)
