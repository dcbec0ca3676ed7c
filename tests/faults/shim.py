"""A child process whose kernel is faulty: shim.c, compiled and preloaded.

Its rules are described at the head of shim.c; what the child does is in shim_child.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from loopback import PATIENCE_S

_SOURCE = Path(__file__).with_name("shim.c")
_COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]


class FaultyKernel:
    """Runs jobs in children that have the shim between them and the kernel."""

    def __init__(self, library: Path) -> None:
        self._library = library

    def run(self, backend: ModuleType, job: str, **arguments: Any) -> Any:
        """Call shim_child's function ``job`` over ``backend``; return what it returns."""
        name = "native" if backend.__name__.endswith("_mmsg") else "portable"
        preloaded = filter(None, [os.environ.get("LD_PRELOAD"), str(self._library)])
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "shim_child", job],
            input=json.dumps(arguments),
            env=os.environ
            | {
                "BATCHING_BACKEND": name,
                "LD_PRELOAD": ":".join(preloaded),
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr
        return json.loads(done.stdout)


def build(folder: Path) -> Path:
    """Compile the shim into a folder.

    Raises:
        FileNotFoundError: It cannot be compiled here.
    """
    compiler = shutil.which(_COMPILER) or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        raise FileNotFoundError("needs Linux and a C compiler")
    library = folder / "shim.so"
    options = ["-std=gnu11", "-Wall", "-Wextra", "-O1", "-fPIC", "-shared", "-fvisibility=hidden"]
    done = subprocess.run(
        [compiler, *options, "-o", str(library), str(_SOURCE), "-lpthread"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return library


@pytest.fixture(scope="session")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> FaultyKernel:
    """Give the shim, compiled anew."""
    try:
        return FaultyKernel(build(tmp_path_factory.mktemp("shim")))
    except FileNotFoundError as error:
        pytest.skip(str(error))
