"""A short run of the fuzzer of control bytes, with a seed; ``make fuzz`` makes long ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import AVAILABLE, FORCED
from loopback import needs_linux

pytestmark = [
    pytest.mark.slow,
    needs_linux,
    pytest.mark.skipif(
        len(AVAILABLE) < 2 or FORCED == "portable",
        reason="needs both back ends, and runs once: with the native one",
    ),
]


def test_both_parsers_read_the_same_in_mutated_control_bytes() -> None:
    import fuzz_control

    seeds = [*fuzz_control.real_controls(), *fuzz_control.made_controls()]
    assert len(seeds) > 15
    assert not fuzz_control.disagreements(fuzz_control.mutations(seeds, 100_000, seed=4))


def test_libfuzzer_finds_nothing_in_the_native_parser(tmp_path: Path) -> None:
    import fuzz_control

    if "libasan" in os.environ.get("LD_PRELOAD", ""):
        pytest.skip("it has a sanitizer of its own: run without that of make test-sanitized")
    clang = shutil.which("clang")
    if clang is None:
        pytest.skip("no clang here: install clang and libclang-rt-14-dev")
    try:
        program = fuzz_control.build(tmp_path, clang)
    except subprocess.CalledProcessError:
        pytest.skip("clang has no libFuzzer here: install libclang-rt-14-dev")
    told = fuzz_control.run(program, tmp_path, "-runs=100000", "-seed=4")
    assert "Done 100000 runs" in told
    assert not fuzz_control.disagreements(fuzz_control.kept(tmp_path))
