"""Tell what is missing to build the package here, in words, before anything else fails.

The Makefile runs it with the Python of ``make PYTHON=...``, which may be an old one.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig


def missing_for_build() -> "list[str]":
    """Return what the native core cannot be compiled without and is not here."""
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    missing = []
    if shutil.which(compiler.split()[0]) is None:
        missing.append("a C compiler (%s is not in PATH; Debian: gcc)" % compiler.split()[0])
    if not os.path.exists(header):
        missing.append("Python's headers (no %s; Debian: python3-dev)" % header)
    return missing


def main() -> "str | None":
    """Return what is wrong, or None."""
    if sys.version_info < (3, 11):
        return "%s is Python %s, at least 3.11 is needed: make PYTHON=python3.13" % (
            sys.executable,
            sys.version.split()[0],
        )
    if importlib.util.find_spec("ensurepip") is None:
        return "%s has no ensurepip (Debian: python3-venv)" % sys.executable
    wanted = os.environ.get("BATCHING_EXTENSION", "")
    missing = missing_for_build() if sys.platform == "linux" and wanted != "no" else []
    if missing and wanted == "yes":
        return "BATCHING_EXTENSION=yes, but missing: " + " and ".join(missing)
    if missing:
        print("note: the native core is left out, missing: " + " and ".join(missing))
    return None


if __name__ == "__main__":
    sys.exit(main())
