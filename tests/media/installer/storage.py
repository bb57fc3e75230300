"""Acting on a storage plan: scan, format, mount, fstab."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from .errors import StorageError
from .log import Log
from .run import check, run
from .storage_plan import Disks, Partition, PartRequest, Plan, Step, StorageRequest, on_line

SYSIMAGE = "/mnt/sysimage"
SYSROOT = "/mnt/sysroot"
SYS_BLOCK = Path("/sys/class/block")
OEM_DRIVER_LABEL = "OEMDRV"


def request_from(ksdata: Any) -> StorageRequest:
    """The storage commands of a parsed kickstart."""
    parts = tuple(
        PartRequest(
            mount_point=part.mountpoint,
            file_system=part.fstype or "xfs",
            on_part=part.onPart,
            line=part.lineno,
            format=part.format,
            label=part.label,
            options=part.fsopts,
            make_options=part.mkfsopts,
        )
        for part in ksdata.partition.partitions
    )
    return StorageRequest(
        parts=parts,
        only_use=tuple(ksdata.ignoredisk.onlyuse),
        ignored=tuple(ksdata.ignoredisk.ignoredisk),
        ignore_line=ksdata.ignoredisk.lineno,
        automatic=bool(ksdata.autopart.autopart),
    )


def scan(log: Log) -> Disks:
    """Every writable disk and its partitions, from sysfs and blkid's low-level probe."""
    disks: dict[str, str] = {}
    partitions: dict[str, Partition] = {}
    for entry in sorted(SYS_BLOCK.iterdir()):
        name = entry.name
        if (entry / "partition").exists():
            disk = (entry.resolve().parent).name
            size = int((entry / "size").read_text()) * 512
            partitions[name] = Partition(name, disk, size, _probe(name, "PART_ENTRY_TYPE"))
        elif (entry / "device").exists() and (entry / "ro").read_text().strip() == "0" and not name.startswith("sr"):
            if _probe(name, "LABEL") == OEM_DRIVER_LABEL:
                continue
            disks[name] = _probe(name, "PTTYPE")
    log.storage(f"disks: {disks}; partitions: {sorted(partitions)}")
    return Disks(disks, {name: part for name, part in partitions.items() if part.disk in disks})


def _probe(name: str, tag: str) -> str:
    with os.popen(f"blkid -p -o value -s {tag} /dev/{name} 2>/dev/null") as output:
        return output.read().strip()


def make_file_systems(log: Log, plan: Plan) -> None:
    """Format everything the plan wants formatted."""
    for step in plan.steps:
        if not step.format:
            continue
        log.progress(f"Creating {step.file_system} on /dev/{step.device}")
        log.storage(f"executing action: [create] {step.file_system} on partition {step.device}")
        check(log, ["wipefs", "-a", "-q", f"/dev/{step.device}"])
        status, output = run(log, _make_command(step))
        if status != 0:
            raise StorageError(
                on_line(0, f"format creation failed on /dev/{step.device}: {output.strip()[-300:]}").strip()
            )
    check(log, ["udevadm", "settle", "--timeout=30"])


def _make_command(step: Step) -> list[str]:
    device = f"/dev/{step.device}"
    extra = step.make_options.split()
    if step.file_system == "xfs":
        return ["mkfs.xfs", "-f", *(["-L", step.label] if step.label else []), *extra, device]
    if step.file_system == "ext4":
        return ["mke2fs", "-t", "ext4", "-F", "-q", *(["-L", step.label] if step.label else []), *extra, device]
    if step.file_system in ("efi", "vfat"):
        return ["mkfs.fat", *(["-n", step.label] if step.label else []), *extra, device]
    return ["mkswap", *(["-L", step.label] if step.label else []), device]


def mount(log: Log, plan: Plan) -> None:
    """Mount the plan on /mnt/sysimage, bind it to /mnt/sysroot, add the kernel's file systems."""
    Path(SYSIMAGE).mkdir(parents=True, exist_ok=True)
    Path(SYSROOT).mkdir(parents=True, exist_ok=True)
    for step in plan.steps:
        if not step.mount_point:
            continue
        point = SYSIMAGE + step.mount_point.rstrip("/")
        Path(point).mkdir(parents=True, exist_ok=True)
        kind = "vfat" if step.file_system == "efi" else step.file_system
        options = ["-o", step.options] if step.options else []
        check(log, ["mount", "-t", kind, *options, f"/dev/{step.device}", point])
    for name in ("dev", "proc", "sys", "run"):
        point = f"{SYSIMAGE}/{name}"
        Path(point).mkdir(exist_ok=True)
        check(log, ["mount", "--bind" if name != "dev" else "--rbind", f"/{name}", point])
    efivars = "/sys/firmware/efi/efivars"
    if os.path.isdir(efivars):
        run(log, ["mount", "--bind", efivars, SYSIMAGE + efivars])
    check(log, ["mount", "--rbind", SYSIMAGE, SYSROOT])


def uuid_of(device: str) -> str:
    """The file system's UUID."""
    return _probe(device, "UUID")


def write_fstab(plan: Plan) -> None:
    """As blivet writes it."""
    created = time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime())
    lines = [
        "",
        "#",
        "# /etc/fstab",
        f"# Created by anaconda on {created}",
        "#",
        "# Accessible filesystems, by reference, are maintained under '/dev/disk/'.",
        "# See man pages fstab(5), findfs(8), mount(8) and/or blkid(8) for more info.",
        "#",
        "# After editing this file, run 'systemctl daemon-reload' to update systemd",
        "# units generated from this file.",
        "#",
    ]
    for step in plan.steps:
        if not step.mount_point and step.file_system != "swap":
            continue
        kind = "vfat" if step.file_system == "efi" else step.file_system
        default = "umask=0077,shortname=winnt" if step.file_system == "efi" else "defaults"
        point = "none" if kind == "swap" else step.mount_point
        check_pass = "2" if step.file_system == "efi" else {"ext4": "1" if step.mount_point == "/" else "2"}.get(kind, "0")
        dump = "1" if kind == "ext4" else "0"
        source = f"UUID={uuid_of(step.device)}"
        lines.append(f"{source} {point:<23} {kind:<7} {step.options or default:<15} {dump} {check_pass}")
    Path(f"{SYSROOT}/etc/fstab").write_text("\n".join(lines) + "\n")
