"""GRUB on the installed system: BLS entries, grub.cfg, the ESP.

EL's GRUB reads BLS entries with its own `blscfg` command. Debian's has none, so
grub.cfg walks over the same files with a glob: a system without entries has an
empty menu, as on EL. The options are repeated in grub.cfg, since GRUB's script
language cannot read a file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from .bootargs import BootArguments
from .configure import kernel_release, path, write
from .log import Log
from .run import check, run
from .storage import uuid_of
from .storage_plan import Plan

LOADERS = "/usr/lib/standin/efi"
ENVIRONMENT_BLOCK_SIZE = 1024


def arguments(ksdata: Any, boot: BootArguments, plan: Plan) -> list[str]:
    """The installed system's kernel command line: root, what was asked for, what is preserved."""
    root = plan.find("/")
    assert root is not None
    wanted = ["ro", *ksdata.bootloader.appendLine.split()]
    wanted += [word for word in boot.preserved() if word not in wanted]
    return [f"root=UUID={uuid_of(root.device)}", *wanted]


def install(log: Log, ksdata: Any, boot: BootArguments, plan: Plan, machine_id: str, version: str, uefi: bool) -> None:
    """Write everything; on a BIOS machine also embed GRUB in the disk."""
    release = kernel_release()
    kernel_arguments = " ".join(arguments(ksdata, boot, plan))
    separate_boot = plan.find("/boot")
    prefix = "" if separate_boot else "/boot"
    device = (separate_boot or plan.find("/")).device
    timeout = ksdata.bootloader.timeout if ksdata.bootloader.timeout is not None else 5

    shutil.copy(path(f"/usr/lib/modules/{release}/vmlinuz"), path(f"/boot/vmlinuz-{release}"))
    entry = f"{machine_id}-{release}"
    write(f"/boot/loader/entries/{entry}.conf", _entry(release, version, prefix, kernel_arguments))
    write("/etc/kernel/cmdline", kernel_arguments + "\n")
    write("/etc/default/grub", _defaults(timeout, kernel_arguments))
    block = f"# GRUB Environment Block\nsaved_entry={entry}\nboot_success=0\n"
    write("/boot/grub2/grubenv", block.ljust(ENVIRONMENT_BLOCK_SIZE, "#"), 0o600)
    boot_uuid = uuid_of(device)
    write("/boot/grub2/grub.cfg", _config(boot_uuid, prefix, release, version, kernel_arguments, timeout), 0o600)
    esp = plan.find("/boot/efi")
    if esp:
        _fill_esp(boot_uuid, prefix)
    if uefi and esp:
        number = esp.device.removeprefix(esp.disk).lstrip("p")
        words = ["efibootmgr", "-c", "-w", "-L", "AlmaLinux", "-d", f"/dev/{esp.disk}", "-p", number]
        run(log, [*words, "-l", "\\EFI\\almalinux\\shimx64.efi"], "/mnt/sysroot")
    elif not uefi:
        disk = (separate_boot or plan.find("/")).disk
        check(log, ["grub2-install", "--target=i386-pc", f"/dev/{disk}"], "/mnt/sysroot")


def _entry(release: str, version: str, prefix: str, kernel_arguments: str) -> str:
    return (
        f"title AlmaLinux ({release}) {version} (Teal Serval)\n"
        f"version {release}\n"
        f"linux {prefix}/vmlinuz-{release}\n"
        f"initrd {prefix}/initramfs-{release}.img\n"
        f"options {kernel_arguments}\n"
        "grub_users $grub_users\n"
        "grub_arg --unrestricted\n"
        "grub_class almalinux\n"
    )


def _defaults(timeout: int, kernel_arguments: str) -> str:
    serial = "console=ttyS" in kernel_arguments
    return (
        f"GRUB_TIMEOUT={timeout}\n"
        'GRUB_DISTRIBUTOR="$(sed \'s, release .*$,,g\' /etc/system-release)"\n'
        "GRUB_DEFAULT=saved\nGRUB_DISABLE_SUBMENU=true\n"
        + ('GRUB_TERMINAL="serial console"\nGRUB_SERIAL_COMMAND="serial --speed=115200"\n' if serial else "")
        + f'GRUB_CMDLINE_LINUX="{kernel_arguments.partition(" ro ")[2]}"\n'
        'GRUB_DISABLE_RECOVERY="true"\nGRUB_ENABLE_BLSCFG=true\n'
    )


def _config(boot_uuid: str, prefix: str, release: str, version: str, kernel_arguments: str, timeout: int) -> str:
    serial = "console=ttyS" in kernel_arguments
    return (
        "# Written by the installer; see GRUB_ENABLE_BLSCFG in /etc/default/grub.\n"
        f"search --no-floppy --fs-uuid --set=root {boot_uuid}\n"
        "load_env -f $prefix/grubenv\n"
        + ("serial --speed=115200\nterminal_input serial console\nterminal_output serial console\n" if serial else "")
        + f"set timeout={timeout}\nset default=0\n"
        f"for entry in ($root){prefix}/loader/entries/*.conf; do\n"
        f'  menuentry "AlmaLinux ({release}) {version} (Teal Serval)" --unrestricted {{\n'
        f"    linux {prefix}/vmlinuz-{release} {kernel_arguments}\n"
        f"    initrd {prefix}/initramfs-{release}.img\n"
        "  }\n"
        "done\n"
    )


def _fill_esp(boot_uuid: str, prefix: str) -> None:
    """shim and GRUB where EL puts them, and under the name Debian's signed GRUB looks for its configuration."""
    esp = path("/boot/efi/EFI")
    stub = (
        f"search --no-floppy --fs-uuid --set=dev {boot_uuid}\n"
        f"set prefix=($dev){prefix}/grub2\nexport prefix\nconfigfile $prefix/grub.cfg\n"
    )
    loaders = Path(f"/mnt/sysroot{LOADERS}")
    for folder, files in {
        "BOOT": {"shimx64.efi": "BOOTX64.EFI", "fbx64.efi": "fbx64.efi"},
        "almalinux": {name: name for name in ("shimx64.efi", "grubx64.efi", "mmx64.efi")},
        "debian": {},
    }.items():
        (esp / folder).mkdir(parents=True, exist_ok=True)
        for source, name in files.items():
            shutil.copyfile(loaders / source, esp / folder / name)
    # Firmware without a boot entry starts BOOTX64.EFI, which runs fbx64.efi, which makes the entry named here.
    entry = "shimx64.efi,AlmaLinux,,This is the boot entry for AlmaLinux\n"
    (esp / "almalinux/BOOTX64.CSV").write_bytes(entry.encode("utf-16"))
    for folder in ("almalinux", "debian"):
        (esp / folder / "grub.cfg").write_text(stub)
