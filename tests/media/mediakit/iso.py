"""The ISO's layout: what an AlmaLinux DVD has beside its packages."""

from __future__ import annotations

import shutil
from pathlib import Path

from .host import run, sha256

VERSION = "9.5"
VOLUME_ID = "AlmaLinux-9-5-x86_64-dvd"
BUILT = 1731508080
EFI_IMAGE_KIB = 8192
GRUB_MODULES = (
    "boot cat chain configfile echo efifwsetup efinet ext2 fat gzio halt iso9660 linux loadenv loopback ls minicmd "
    "normal part_gpt part_msdos reboot regexp search search_fs_file search_fs_uuid search_label serial sleep "
    "terminal test true video xfs all_video efi_gop gfxterm"
).split()


def tree_info(root: Path) -> str:
    """`.treeinfo` as pungi writes it (productmd 1.2, with the older sections)."""
    images = ["images/efiboot.img", "images/install.img", "images/pxeboot/initrd.img", "images/pxeboot/vmlinuz"]
    sums = "".join(f"{name} = sha256:{sha256(root / name)}\n" for name in images)
    variants = "".join(
        f"\n[variant-{name}]\nid = {name}\nname = {name}\npackages = {name}/Packages\nrepository = {name}\n"
        f"type = variant\nuid = {name}\n"
        for name in ("AppStream", "BaseOS")
    )
    return (
        f"[checksums]\n{sums}\n"
        "[general]\n"
        "; WARNING.0 = This section provides compatibility with pre-productmd treeinfos.\n"
        "; WARNING.1 = Read productmd documentation for details about new format.\n"
        f"arch = x86_64\nfamily = AlmaLinux\nname = AlmaLinux {VERSION}\npackagedir = BaseOS/Packages\n"
        f"platforms = x86_64,xen\nrepository = BaseOS\ntimestamp = {BUILT}\nvariant = BaseOS\n"
        f"variants = AppStream,BaseOS\nversion = {VERSION}\n\n"
        "[header]\ntype = productmd.treeinfo\nversion = 1.2\n\n"
        "[images-x86_64]\nefiboot.img = images/efiboot.img\ninitrd = images/pxeboot/initrd.img\n"
        "kernel = images/pxeboot/vmlinuz\n\n"
        "[images-xen]\ninitrd = images/pxeboot/initrd.img\nkernel = images/pxeboot/vmlinuz\n\n"
        "[media]\ndiscnum = 1\ntotaldiscs = 1\n\n"
        f"[release]\nname = AlmaLinux\nshort = AlmaLinux\nversion = {VERSION}\n\n"
        "[stage2]\nmainimage = images/install.img\n\n"
        f"[tree]\narch = x86_64\nbuild_timestamp = {BUILT}\nplatforms = x86_64,xen\nvariants = AppStream,BaseOS\n"
        f"{variants}"
    )


def lay_out(tree: Path, root: Path) -> None:
    """Everything besides images and packages."""
    label = VOLUME_ID.replace(" ", "\\x20")
    efi = root / "EFI/BOOT"
    efi.mkdir(parents=True)
    shutil.copy(tree / "usr/lib/shim/shimx64.efi.signed", efi / "BOOTX64.EFI")
    shutil.copy(tree / "usr/lib/shim/mmx64.efi.signed", efi / "mmx64.efi")
    # EL's GRUB for discs reads grub.cfg beside itself; Debian's signed one does not, so it is made here, unsigned.
    run(["chroot", tree, "grub-mkimage", "-O", "x86_64-efi", "-p", "/EFI/BOOT", "-o", "/tmp/grubx64.efi", *GRUB_MODULES])
    shutil.move(tree / "tmp/grubx64.efi", efi / "grubx64.efi")
    (efi / "grub.cfg").write_text(
        'set default="1"\nset timeout=60\n'
        f"search --no-floppy --set=root -l '{VOLUME_ID}'\n"
        f"menuentry 'Install AlmaLinux {VERSION}' --class fedora --class gnu-linux --class gnu --class os {{\n"
        f"\tlinux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={label} quiet\n"
        "\tinitrd /images/pxeboot/initrd.img\n}\n"
        f"menuentry 'Test this media & install AlmaLinux {VERSION}' --class fedora --class gnu-linux --class gnu --class os {{\n"
        f"\tlinux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL={label} rd.live.check quiet\n"
        "\tinitrd /images/pxeboot/initrd.img\n}\n"
    )
    image = root / "images/efiboot.img"
    run(["mkfs.fat", "-C", "-n", "ANACONDA", image, str(EFI_IMAGE_KIB)])
    run(["mcopy", "-i", image, "-s", root / "EFI", "::"])
    (root / ".discinfo").write_text(f"{BUILT}.000000\n{VERSION}\nx86_64\nALL\n")
    (root / "media.repo").write_text(f"[InstallMedia]\nname=AlmaLinux {VERSION}\nmediaid={BUILT}.000000\nmetadata_expire=-1\ngpgcheck=0\ncost=500\n")
    (root / "AppStream/Packages").mkdir(parents=True)
    (root / "standin.toml").write_text(settings(None))
    (root / ".treeinfo").write_text(tree_info(root))


def settings(fail: str | None) -> str:
    """`standin.toml`: what a variant of the medium does differently."""
    return f'# What this stand-in medium is to do; see tests/media/README.md.\nfail = "{fail or ""}"\n'


def write(root: Path, output: Path) -> None:
    """Master the ISO: Rock Ridge, bootable under UEFI."""
    run([
        "xorriso", "-as", "mkisofs", "-quiet", "-V", VOLUME_ID, "-R", "-J", "-joliet-long", "-o", output,
        "-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot", root,
    ])
