"""Small initramfs images: busybox, an init script, modules in the order they are to be loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

from .host import HERE, run

INSTALLER_MODULES = (
    "virtio_pci virtio_scsi sd_mod sr_mod cdrom isofs loop squashfs overlay virtio_blk virtio_console "
    "virtio_net virtio_rng qemu_fw_cfg"
).split()
TARGET_MODULES = "virtio_pci virtio_scsi virtio_blk sd_mod nvme crc32c_generic xfs".split()


def kernel_release(root: Path) -> str:
    """The one kernel of a tree."""
    return next(entry.name for entry in (root / "usr/lib/modules").iterdir())


def build(root: Path, init: str, modules: list[str], output: Path, work: Path) -> None:
    """Make one image from `initrd/<init>` and the tree's busybox and modules."""
    folder = work / init
    for name in ("bin", "modules", "dev", "proc", "sys", "run"):
        (folder / name).mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", folder / "bin/busybox")
    shutil.copy(HERE / "initrd" / init, folder / "init")
    (folder / "init").chmod(0o755)
    order = _load_order(root, modules)
    for path in order:
        shutil.copy(path, folder / "modules" / path.name)
    (folder / "modules/order").write_text("".join(f"{path.name}\n" for path in order))
    # The kernel wants a console before init can make one.
    run(["mknod", "-m", "600", folder / "dev/console", "c", "5", "1"])
    script = f"cd '{folder}' && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | zstd -q -19 -T0 > '{output}'"
    run(["sh", "-c", script])


def _load_order(root: Path, modules: list[str]) -> list[Path]:
    """Files to insmod, dependencies first; modules built into the kernel are not among them."""
    base = root / "usr/lib/modules" / kernel_release(root)
    files: dict[str, Path] = {}
    needs: dict[str, list[str]] = {}
    for line in (base / "modules.dep").read_text().splitlines():
        file, _, dependencies = line.partition(":")
        files[_name(file)] = base / file
        needs[_name(file)] = [_name(dependency) for dependency in dependencies.split()]
    order: list[Path] = []

    def add(name: str) -> None:
        if name not in files or files[name] in order:
            return
        for dependency in needs[name]:
            add(dependency)
        order.append(files[name])

    for module in modules:
        add(module)
    return order


def _name(file: str) -> str:
    return Path(file).name.removesuffix(".ko").replace("-", "_")
