"""Check what ``make dist`` built: the sdist's files, and the wheel in a virtual environment.

Usage: check_dist.py DIRECTORY (which holds one sdist and one wheel).
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

NEEDED = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "setup.py",
    "src/batching/grafana.json",
    "src/batching/py.typed",
    "tests/conftest.py",
)
BY_HAND = ("benchmarks/", "tests/faults/")  # where C is written, not made
GENERATED = (".c", ".so", ".pyc", ".html")
REPORT = """
import importlib.metadata, pathlib, batching
assert batching.__version__ == importlib.metadata.version("udp-batching"), batching.__version__
for name in ("grafana.json", "py.typed"):
    assert (pathlib.Path(batching.__file__).parent / name).exists(), name
try:
    import batching._mmsg
    print("native")
except ImportError:
    print("portable")
"""


def check_sdist(path: Path) -> None:
    """Exit unless the sdist holds every source, and nothing generated from one."""
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    core = [str(each) for each in Path("src/batching/_mmsg").glob("*.p*")]
    missing = [name for name in (*NEEDED, *core) if name not in names]
    generated = [
        name for name in names if name.endswith(GENERATED) and not name.startswith(BY_HAND)
    ]
    if missing or generated:
        sys.exit(f"{path.name}: missing {missing}, generated {generated}")


def check_wheel(path: Path) -> str:
    """Install the wheel and import it outside the tree; return the back end it has."""
    with tempfile.TemporaryDirectory() as outside:
        environment = Path(outside, "venv")
        venv.create(environment, with_pip=True)
        python = str(environment / "bin" / "python")
        pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--no-index", str(path.resolve())], check=True, cwd=outside)
        report = subprocess.run(
            [python, "-I", "-c", REPORT], check=True, cwd=outside, stdout=subprocess.PIPE, text=True
        )
    return report.stdout.strip()


def main() -> None:
    """Check both, and that the core is there where BATCHING_EXTENSION demands it."""
    directory = Path(sys.argv[1])
    (sdist,) = directory.glob("*.tar.gz")
    (wheel,) = directory.glob("*.whl")
    check_sdist(sdist)
    back_end = check_wheel(wheel)
    if os.environ.get("BATCHING_EXTENSION") == "yes" and back_end != "native":
        sys.exit(f"{wheel.name}: BATCHING_EXTENSION=yes, but the native core is not in it")
    print(f"{sdist.name} is complete; {wheel.name} installs and imports ({back_end})")


if __name__ == "__main__":
    main()
