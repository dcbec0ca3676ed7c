"""A guest: another kernel, under qemu, that runs one command over this machine's files.

Its root is this machine's root, read-only, by virtiofs, under an overlay in memory: the
command sees the tree, the interpreters and what was built, may write anywhere, and nothing
of that is kept.  What it prints is handed over line by line.  There is no network but lo.

The processor is emulated (TCG), about 20 times slower than Python runs here: kernels of
Debian need no more than that, and nothing of the machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from debian import Tree

MEMORY_MIB: Final = 2048  # what the command writes is held in it too
PASSED_ON: Final = ("PATH", "HOME", "LANG", "LC_ALL")
MODULES: Final = ("virtio_pci", "virtiofs", "overlay")

# Runs as the first process, from the initramfs.  The serial lines: 0 is the kernel's
# console, 1 the command's output, 2 its exit status.
INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do insmod "$module" || echo "$module: not loaded"; done
mount -t virtiofs -o ro root /host && mount -t tmpfs tmpfs /memory || poweroff -f
mkdir /memory/new /memory/work
layers=lowerdir=/host,upperdir=/memory/new,workdir=/memory/work
mount -t overlay -o $layers root /root || poweroff -f
mkdir -p /root/proc /root/sys /root/dev /root/lib/modules
ln -s {modules} /root/lib/modules/
mount -t tmpfs tmpfs /root/run
mkdir /root/run/lock; cp /bin/busybox /command /root/run/
for folder in proc sys dev; do mount -o move /$folder /root/$folder; done
cd /root/dev
mkdir -p pts shm net
mount -t devpts devpts pts; mount -t tmpfs tmpfs shm
[ -e net/tun ] || mknod net/tun c 10 200
ln -s /proc/self/fd fd; ln -s fd/0 stdin; ln -s fd/1 stdout; ln -s fd/2 stderr
ip link set lo up; hostname localhost
exec switch_root /root /run/busybox sh /run/command
"""
COMMAND: Final = """\
set -o pipefail
for line in 1 2; do /run/busybox stty raw -echo < /dev/ttyS$line; done
cd {folder}
{exports}
{command} < /dev/null 2>&1 | /run/busybox cat > /dev/ttyS1
echo $? > /dev/ttyS2
/run/busybox poweroff -f
"""


class BootError(Exception):
    """The command did not come to its end; the text has the end of the kernel's console."""


def run(
    tree: Tree,
    command: list[str],
    environment: Mapping[str, str],
    timeout_s: float,
    tell: Callable[[str], object],
) -> int:
    """Run a command, in this process's working directory, and return its exit status."""
    with tempfile.TemporaryDirectory(prefix="kernel-") as name:
        work = Path(name)
        _write_initramfs(tree, command, environment, work)
        with _root_served(work), _started(tree, work) as qemu:
            end = threading.Timer(timeout_s, qemu.kill)
            end.start()
            assert qemu.stdout is not None
            for line in qemu.stdout:
                tell(line.rstrip("\n"))
            end.cancel()
        status = (work / "status").read_text(encoding="ascii").strip()
        if not status:
            console = (work / "console").read_text(encoding="utf-8", errors="replace")
            raise BootError(f"died, or not done after {timeout_s:.0f} s:\n{console[-3000:]}")
        return int(status)


def _write_initramfs(
    tree: Tree, command: list[str], environment: Mapping[str, str], work: Path
) -> None:
    """Write what the kernel starts with: busybox, modules that lead to the root, INIT."""
    root = work / "initramfs"
    for folder in ("bin", "dev", "proc", "sys", "host", "memory", "root", "modules"):
        (root / folder).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    for number, module in enumerate(_in_order(tree, MODULES)):
        _write_plain(module, root / "modules" / f"{number:02}-{module.name.split('.')[0]}")
    passed = {key: os.environ[key] for key in PASSED_ON if key in os.environ} | dict(environment)
    texts = {
        "init": INIT.replace("{modules}", shlex.quote(str(tree.modules))),
        "command": COMMAND.format(
            folder=shlex.quote(os.getcwd()),
            exports="\n".join(f"export {key}={shlex.quote(passed[key])}" for key in passed),
            command=shlex.join(command),
        ),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
        (root / name).chmod(0o755)
    with (work / "initramfs.cpio").open("wb") as archive:
        files = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        subprocess.run(
            ["cpio", "--quiet", "-o", "-H", "newc"],
            input=files.encode(),
            cwd=root,
            stdout=archive,
            check=True,
        )


def _in_order(tree: Tree, names: tuple[str, ...]) -> list[Path]:
    """Return the files of modules, each after those that it needs."""
    files: dict[str, None] = {}
    for name in names:
        done = subprocess.run(
            ["modprobe", "-d", tree.folder, "-S", tree.release, "--show-depends", name],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        lines = (line.split() for line in done.stdout.splitlines())
        files |= dict.fromkeys(line[1] for line in lines if line[0] == "insmod")
    return [Path(file) for file in files]


def _write_plain(module: Path, to: Path) -> None:
    """Copy a module uncompressed, as busybox wants it."""
    reader = {".xz": ["xz", "-dc"], ".zst": ["zstd", "-qdc"]}.get(module.suffix, ["cat"])
    with to.open("wb") as file:
        subprocess.run([*reader, module], stdout=file, check=True)


@contextlib.contextmanager
def _root_served(work: Path) -> Iterator[None]:
    """Run virtiofsd over a read-only view of /, at /mnt in a mount namespace of its own."""
    daemon = shutil.which("virtiofsd", path="/usr/lib/qemu:/usr/libexec:/usr/bin")
    script = (
        "mount --rbind / /mnt && mount -o remount,bind,ro /mnt && "
        f"exec {daemon} --socket-path={work}/socket -f "
        "-o source=/mnt,sandbox=chroot,cache=always,log_level=warn"
    )
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with (work / "virtiofsd").open("w+", encoding="utf-8", errors="replace") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 20
            while not (work / "socket").is_socket():
                if server.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    raise BootError(f"virtiofsd did not start: {log.read()}")
                time.sleep(0.02)
            yield
        finally:
            server.kill()
            server.wait()


@contextlib.contextmanager
def _started(tree: Tree, work: Path) -> Iterator[subprocess.Popen[str]]:
    qemu = subprocess.Popen(
        _qemu(tree, work),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        yield qemu
    finally:
        qemu.kill()
        qemu.wait()


def _qemu(tree: Tree, work: Path) -> list[str]:
    options = {
        "accel": "tcg,thread=multi",
        "cpu": "max",
        "machine": "q35",
        "smp": "2",
        "m": str(MEMORY_MIB),
        "kernel": str(tree.image),
        "initrd": f"{work}/initramfs.cpio",
        # panic=-1 with -no-reboot: a kernel that dies ends qemu.
        "append": "console=ttyS0 panic=-1 mitigations=off tsc=reliable random.trust_cpu=on"
        " nowatchdog audit=0 apparmor=0 quiet",
        "display": "none",
        "nic": "none",
        "object": f"memory-backend-memfd,id=memory,size={MEMORY_MIB}M,share=on",
        "numa": "node,memdev=memory",
        "device": "vhost-user-fs-pci,chardev=host,tag=root",
        "chardev": f"socket,id=host,path={work}/socket",
    }
    lines = [f"file:{work}/console", "stdio", f"file:{work}/status"]
    (work / "status").touch()
    return [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        *(word for name, value in options.items() for word in (f"-{name}", value)),
        *(word for line in lines for word in ("-serial", line)),
    ]
