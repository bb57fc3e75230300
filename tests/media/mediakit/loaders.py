"""Boot loaders of the installed system, ready made: building them under emulation takes half a minute."""

from __future__ import annotations

import shutil
from pathlib import Path

from .host import run

CORE_IMAGE_MODULES = (
    "biosdisk part_gpt part_msdos xfs ext2 fat search search_fs_file search_fs_uuid normal configfile linux regexp "
    "echo test loadenv serial terminal gzio minicmd ls halt reboot sleep true memdisk tar"
).split()
# Only GRUB's full parser knows `if`; it reads grub.cfg from the prefix, here a tar in the image.
CORE_IMAGE_CONFIG = """\
if search --no-floppy --file --set=root /grub2/grub.cfg; then
  set prefix=($root)/grub2
else
  search --no-floppy --file --set=root /boot/grub2/grub.cfg
  set prefix=($root)/boot/grub2
fi
export prefix
configfile $prefix/grub.cfg
"""


def place(tree: Path, root: Path, work: Path) -> None:
    """shim and GRUB for UEFI, signed as Debian ships them; a core image for BIOS; GRUB's tools by EL's names."""
    efi = root / "usr/lib/standin/efi"
    efi.mkdir(parents=True)
    shutil.copy(tree / "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", efi / "grubx64.efi")
    for name in ("shimx64.efi", "mmx64.efi", "fbx64.efi"):
        shutil.copy(tree / f"usr/lib/shim/{name}.signed", efi / name)
    images = root / "usr/lib/grub/i386-pc"
    images.mkdir(parents=True, exist_ok=True)
    _core_image(tree, images / "core.img", work)
    shutil.copy(tree / "usr/lib/grub/i386-pc/boot.img", images / "boot.img")
    tools = root / "usr/lib/standin/bin"
    tools.mkdir(parents=True, exist_ok=True)
    shutil.copy(tree / "usr/lib/grub/i386-pc/grub-bios-setup", tools / "grub-bios-setup")
    for source, name in (("usr/sbin/grub-probe", "usr/sbin/grub2-probe"), ("usr/bin/grub-editenv", "usr/bin/grub2-editenv")):
        (root / source).rename(root / name)
    for folder, pattern in (("usr/bin", "grub-*"), ("usr/sbin", "grub-*"), ("usr/sbin", "update-grub*")):
        for file in (root / folder).glob(pattern):
            file.unlink()


def _core_image(tree: Path, output: Path, work: Path) -> None:
    memdisk, image = tree / "tmp/core.tar", tree / "tmp/core.img"
    (work / "grub.cfg").write_text(CORE_IMAGE_CONFIG)
    run(["tar", "-C", work, "-cf", memdisk, "grub.cfg"])
    words = ["grub-mkimage", "-O", "i386-pc", "-m", "/tmp/core.tar", "-p", "(memdisk)/", "-o", "/tmp/core.img"]
    run(["chroot", tree, *words, *CORE_IMAGE_MODULES])
    memdisk.unlink()
    shutil.move(image, output)
