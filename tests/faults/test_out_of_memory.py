"""No memory, at every allocation of a call: an error, no crash, and nothing lost or doubled.

The process is starved.py's, with a malloc that fails when told (scarce_malloc.c).  Each
allocation of the call fails, alone and with the next thousand; then:

- receiving: what the kernel gave comes once, in that call or in the next (portable: comes
  not twice; where CPython's own recvmsg has no memory for its answer, that is lost);
- sending: nothing is doubled or out of order, and the next batch arrives whole;
- opening: a Conn that works or none;
- descriptors are as before, and (native) so is memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from holdings import needs_mallinfo
from loopback import needs_gso

HERE = Path(__file__).parent
PORTABLE_STEP = 11  # it allocates ten times as often; a prime, so that all kinds are met
pytestmark = [pytest.mark.slow, needs_mallinfo]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here: install gcc")
    built = tmp_path_factory.mktemp("shim") / "scarce_malloc.so"
    source = HERE / "scarce_malloc.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", built, source], check=True)
    return built


def starve(backend: ModuleType, shim: Path, *what: str) -> list[int]:
    """Run out of memory at each point; return how many there were, each alone and in a row."""
    name = "native" if backend.__name__.endswith("_mmsg") else "portable"
    step = "1" if name == "native" else str(PORTABLE_STEP)
    environ = {
        "BATCHING_BACKEND": name,
        "LD_PRELOAD": str(shim),
        "PYTHONMALLOC": "malloc",  # else small objects come from pools, out of its sight
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", HERE / "starved.py", *what, step],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(n) for n in done.stdout.split()]


@pytest.mark.parametrize(
    "way", ["pairs", "segments", "messages", pytest.param("rest", marks=needs_gso)]
)
def test_no_memory_to_receive_loses_and_doubles_nothing(
    backend: ModuleType, shim: Path, way: str
) -> None:
    assert min(starve(backend, shim, "receive", way)) > 10


@pytest.mark.parametrize("way", ["pairs", "errors", "segments", "write"])
def test_no_memory_to_send_doubles_nothing_and_the_next_batch_is_whole(
    backend: ModuleType, shim: Path, way: str
) -> None:
    assert min(starve(backend, shim, "send", way)) > 30


def test_no_memory_to_open_leaves_nothing_behind(backend: ModuleType, shim: Path) -> None:
    assert min(starve(backend, shim, "open", "conn")) > 30
