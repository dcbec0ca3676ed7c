"""Build the native core: the one thing that pyproject.toml cannot say.

BATCHING_EXTENSION: "yes" makes a failed build an error, "no" leaves the core out; otherwise
it is left out where it cannot be built.  BATCHING_SANITIZE=1: ASan and UBSan watch it.
"""

import os
import sys
from glob import glob

from setuptools import Extension, setup

wanted = os.environ.get("BATCHING_EXTENSION", "")
if wanted not in ("", "yes", "no"):
    sys.exit(f"BATCHING_EXTENSION={wanted}, must be yes, no or empty")
if wanted == "yes" and sys.platform != "linux":
    sys.exit("BATCHING_EXTENSION=yes: the native core is for Linux only")
is_sanitized = os.environ.get("BATCHING_SANITIZE", "0") not in ("", "0")
flags = ["-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined"] if is_sanitized else []
core = []
for noun in (
    "arrivals",
    "descriptor",
    "dispatcher",
    "message",
    "peers",
    "recv",
    "segments",
    "send",
    "slab",
):
    part = Extension(
        f"batching._mmsg.{noun}",
        [f"src/batching/_mmsg/{noun}.pyx"],
        depends=glob("src/batching/_mmsg/*.pxd"),
        extra_compile_args=["-O3", *flags],
        extra_link_args=flags,
        optional=wanted != "yes",
    )
    # Read by Cython's build_ext; c_in_temp: generated C is kept out of the tree.  auto_pickle:
    # a copy of what owns memory would own the same once more.
    directives = {"auto_pickle": False, "freethreading_compatible": True, "language_level": 3}
    vars(part).update(cython_c_in_temp=True, cython_directives=directives)
    core.append(part)
setup(
    ext_modules=core if sys.platform == "linux" and wanted != "no" else [],
    options={"build_ext": {"parallel": str(os.cpu_count() or 1)}},
)
