"""Debian's kernels: which there are, where they come from, and their files, unpacked.

Nothing is installed on the machine, and its list of package sources is not touched: apt is
asked with a configuration of its own.  Kernels for clouds are taken, a third in size of the
others.  Debian renames a kernel with each security release, so its name is looked up.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

MIRROR: Final = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org")
KEYS: Final = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Kernel(NamedTuple):
    archive: str  # below MIRROR
    suite: str
    meta: str  # the package that depends on the one of the day


KERNELS: Final = {
    # Not bullseye-security: 5.10.223 still answers EINVAL where later ones say EMSGSIZE.
    "5.10": Kernel("debian", "bullseye", "linux-image-cloud-amd64"),
    "6.1": Kernel("debian-security", "bookworm-security", "linux-image-cloud-amd64"),
    "6.12": Kernel("debian-security", "bookworm-security", "linux-image-6.12-cloud-amd64"),
    "7": Kernel("debian", "trixie-backports", "linux-image-cloud-amd64"),
}


class Tree(NamedTuple):
    """A kernel's files, unpacked."""

    folder: Path
    release: str  # as uname -r tells it

    @property
    def modules(self) -> Path:
        return self.folder / "lib" / "modules" / self.release

    @property
    def image(self) -> Path:
        image = self.folder / "boot" / f"vmlinuz-{self.release}"
        return image if image.exists() else self.modules / "vmlinuz"  # Debian from 7.x on


def fetch(name: str, cache: Path) -> Tree:
    """Return a kernel of ``KERNELS``, downloaded unless ``cache`` has it."""
    folder = cache / name
    if not folder.is_dir():
        unfinished = cache / f"{name}.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        _unpack(_download(KERNELS[name], unfinished / "apt"), unfinished / "tree")
        (unfinished / "tree").rename(folder)
        shutil.rmtree(unfinished)
    return Tree(folder, next((folder / "lib" / "modules").iterdir()).name)


def _download(kernel: Kernel, work: Path) -> list[Path]:
    """Return the packages that hold a kernel's image and modules."""
    for folder in ("lists/partial", "cache/archives/partial", "sources"):
        (work / folder).mkdir(parents=True)
    source = f"deb [signed-by={KEYS}] {MIRROR}/{kernel.archive} {kernel.suite} main\n"
    (work / "sources" / "kernel.list").write_text(source, encoding="ascii")
    settings = {
        "Dir::State::lists": f"{work}/lists",
        "Dir::Cache": f"{work}/cache",
        "Dir::Etc::SourceList": "/dev/null",
        "Dir::Etc::SourceParts": f"{work}/sources",
        "APT::Sandbox::User": "root",  # whom these folders belong to
        "Acquire::Languages": "none",
    }
    lines = [f'{key} "{value}";\n' for key, value in settings.items()]
    (work / "apt.conf").write_text("".join(lines), encoding="ascii")

    def apt(*command: str) -> str:
        environment = os.environ | {"APT_CONFIG": f"{work}/apt.conf"}
        done = subprocess.run(
            command, env=environment, cwd=work, stdout=subprocess.PIPE, text=True, check=True
        )
        return done.stdout

    def needs(package: str) -> list[str]:
        return re.findall(r"Depends: (linux-\S+)", apt("apt-cache", "depends", package))

    apt("apt-get", "-qq", "update")
    image = next(package for package in needs(kernel.meta) if "-image-" in package)
    # From 7.x on the image depends on packages that hold its parts.
    parts = [part for part in needs(image) if re.match("linux-(binary|modules|base)-", part)]
    apt("apt-get", "-qq", "download", image, *parts)
    return sorted(work.glob("*.deb"))


def _unpack(packages: list[Path], folder: Path) -> None:
    folder.mkdir()
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, folder], check=True)
    if not (folder / "lib").exists():  # packages of merged /usr
        (folder / "lib").symlink_to("usr/lib")
    (release,) = (folder / "lib" / "modules").iterdir()
    subprocess.run(["depmod", "-b", folder, release.name], check=True)
