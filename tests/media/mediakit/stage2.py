"""images/install.img: the installer's own system."""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
from pathlib import Path

from .debian import Packages, python_libraries
from .host import HERE, run
from .initramfs import kernel_release

PACKAGES = (
    "base-files bash coreutils util-linux mount udev systemd systemd-sysv kmod sed grep gawk findutils tar gzip "
    "xz-utils bzip2 cpio less parted fdisk dosfstools e2fsprogs xfsprogs iproute2 procps hostname passwd python3"
).split()
NOT_NEEDED = "perl perl-base debconf dpkg apt initramfs-tools init-system-helpers".split()
MODULE_FOLDERS = ("drivers/block", "drivers/scsi", "drivers/virtio", "drivers/char", "drivers/cdrom", "drivers/net", "drivers/firmware", "drivers/nvme", "fs", "lib", "crypto", "block", "net/core", "net/packet", "net/802")
PRIVATE = "usr/lib/standin"


def build(tree: Path, version: str, output: Path, work: Path) -> None:
    """Cut stage 2 out of the Debian tree, add the installer, make a squashfs."""
    root = work / "stage2"
    _copy_packages(tree, root)
    private = root / PRIVATE
    private.mkdir(parents=True)
    _keep_commands(root)
    _add_modules(tree, root)
    shutil.copy(HERE / "stage2/init", private / "init")
    shutil.copy(HERE / "data/catalogue.tsv", private / "catalogue.tsv")
    (private / "version").write_text(version + "\n")
    python = private / "python"
    python_libraries(python)
    shutil.copytree(HERE / "installer", python / "installer", ignore=shutil.ignore_patterns("__pycache__"))
    _compile(root)
    for name in ("dev", "proc", "sys", "run", "tmp", "mnt", "root", "etc", "var/lib"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "target/usr/lib/os-release", root / "etc/os-release")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/usr/bin/bash\n")
    (root / "etc/group").write_text("".join(f"{name}:x:{number}:\n" for number, name in enumerate(
        "root tty disk kmem dialout audio video render input kvm lp cdrom tape floppy sgx utmp".split())))
    run(["chroot", root, "ldconfig"])
    run(["mksquashfs", root, output, "-comp", "zstd", "-Xcompression-level", "6", "-b", "256K", "-noappend", "-no-xattrs", "-all-root", "-quiet", "-no-progress"])


def _copy_packages(tree: Path, root: Path) -> None:
    packages = Packages(tree)
    chosen = packages.closure(PACKAGES, without=NOT_NEEDED) | {"libc-bin"}
    names = sorted({file for package in chosen for file in packages.files(package)})
    root.mkdir()
    for link in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        if (tree / link).is_symlink():
            (root / link).symlink_to(os.readlink(tree / link))
    for name in names:
        source = tree / name
        place = root / name
        if source.is_symlink() or source.is_file():
            place.parent.mkdir(parents=True, exist_ok=True)
            if not (place.is_symlink() or place.exists()):
                os.link(source, place, follow_symlinks=False)
    for link in filter(Path.is_symlink, (tree / "etc/alternatives").iterdir()):
        (root / "etc/alternatives").mkdir(parents=True, exist_ok=True)
        (root / "etc/alternatives" / link.name).symlink_to(os.readlink(link))
    for command in ("awk",):
        (root / "usr/bin" / command).unlink(missing_ok=True)
        (root / "usr/bin" / command).symlink_to("gawk")
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("bash")


def allowed_commands() -> set[str]:
    """The names in `stage2/commands.txt`."""
    lines = (HERE / "stage2/commands.txt").read_text().splitlines()
    return {word for line in lines if not line.startswith("#") for word in line.split()}


def _keep_commands(root: Path) -> None:
    """Remove every command Anaconda's stage 2 does not have."""
    allowed = allowed_commands() | {"ldconfig", "ldconfig.real"}
    for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "usr/games"):
        if (root / folder).is_dir():
            for file in (root / folder).iterdir():
                if file.name not in allowed:
                    file.unlink()
    shutil.rmtree(root / "usr/local", ignore_errors=True)


def _add_modules(tree: Path, root: Path) -> None:
    release = kernel_release(tree)
    source, place = tree / "usr/lib/modules" / release, root / "usr/lib/modules" / release
    for folder in MODULE_FOLDERS:
        if (source / "kernel" / folder).is_dir():
            shutil.copytree(source / "kernel" / folder, place / "kernel" / folder, copy_function=os.link, dirs_exist_ok=True)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(source / name, place / name)
    run(["chroot", root, "depmod", release])


def _compile(root: Path) -> None:
    """Byte-compile everything Python imports at start: under emulation it is the slow part."""
    for folder in (root / PRIVATE / "python", root / "usr/lib/python3.11"):
        compileall.compile_dir(
            folder, quiet=2, workers=2, stripdir=str(root), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
