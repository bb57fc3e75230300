"""The Debian tree both stage 2 and the installed system are cut from."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from .host import CACHE, HERE, digest, run, work_folder

SUITE = "bookworm"
PACKAGES = (
    "systemd systemd-sysv libpam-systemd udev dbus linux-image-cloud-amd64 kmod initramfs-tools "
    "network-manager openssh-server chrony qemu-guest-agent policycoreutils selinux-policy-default "
    "xfsprogs e2fsprogs dosfstools parted fdisk cloud-guest-utils "
    "grub-pc-bin grub-common grub2-common grub-efi-amd64-bin grub-efi-amd64-signed shim-signed efibootmgr "
    "iproute2 iputils-ping hostname procps sudo python3 gawk less tar xz-utils bzip2 cpio busybox-static"
).split()
PYKICKSTART = "pykickstart==3.78"
LEFT_OUT = ("doc", "man", "info", "locale", "lintian", "bug", "bash-completion", "zsh")


def tree() -> Path:
    """A minimal Debian with every package above, from the cache or made with mmdebstrap."""
    entry = CACHE / f"debian-{digest([], SUITE, *PACKAGES, *LEFT_OUT)}"
    if entry.exists():
        return entry
    with work_folder("debian") as work:
        root = work / "root"
        arguments = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"]
        for option in ('Apt::Install-Recommends "false"', 'Acquire::Languages "none"'):
            arguments.append(f"--aptopt={option}")
        arguments += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT]
        arguments += ["--dpkgopt=force-unsafe-io", f"--include={','.join(PACKAGES)}", SUITE, str(root)]
        # INITRD=No: the kernel's postinst makes no initramfs, there is one of our own.
        run(arguments, env={**os.environ, "INITRD": "No", "LC_ALL": "C.UTF-8"})
        for old in CACHE.glob("debian-*"):
            shutil.rmtree(old)
        root.rename(entry)
    return entry


def python_libraries(target: Path) -> None:
    """pykickstart, from PyPI.

    Without `requests`, which it imports for kickstarts fetched over HTTP: under
    emulation that import takes seconds. `stage2/requests` stands in for it.
    """
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps", "--root-user-action=ignore"]
    run([*install, "--target", target, PYKICKSTART])
    for name in ("bin", "share"):
        shutil.rmtree(target / name, ignore_errors=True)
    shutil.copytree(HERE / "stage2/requests", target / "requests", ignore=shutil.ignore_patterns("__pycache__"))


class Packages:
    """dpkg's data base of a tree."""

    def __init__(self, root: Path) -> None:
        self._info = root / "var/lib/dpkg/info"
        self._depends: dict[str, set[str]] = {}
        self._provides: dict[str, str] = {}
        for paragraph in (root / "var/lib/dpkg/status").read_text().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line and line[0] != " ")
            if "Package" not in fields:
                continue
            name = fields["Package"]
            text = ",".join(fields.get(key, "") for key in ("Pre-Depends", "Depends"))
            self._depends[name] = {
                alternative.split()[0].split(":")[0]
                for clause in text.split(",")
                for alternative in clause.split("|")
                if alternative.strip()
            }
            for provided in fields.get("Provides", "").split(","):
                if provided.strip():
                    self._provides.setdefault(provided.split()[0], name)

    def closure(self, names: Iterable[str], without: Iterable[str] = ()) -> set[str]:
        """The packages and everything they depend on that is there, less `without`."""
        barred = set(without)
        found: set[str] = set()
        queue = list(names)
        while queue:
            name = queue.pop()
            name = name if name in self._depends else self._provides.get(name, name)
            if name in found or name in barred or name not in self._depends:
                continue
            found.add(name)
            queue += self._depends[name]
        return found

    def names(self) -> set[str]:
        return set(self._depends)

    def files(self, name: str) -> list[str]:
        """Where a package's files lie, without the leading slash."""
        for file in (self._info / f"{name}.list", self._info / f"{name}:amd64.list"):
            if file.exists():
                return [_merged(line[1:]) for line in file.read_text().splitlines() if len(line) > 2]
        return []


def _merged(name: str) -> str:
    """dpkg lists /bin/x for what lies in /usr/bin/x on a merged tree."""
    top, slash, _ = name.partition("/")
    return f"usr/{name}" if slash and top in ("bin", "sbin", "lib", "lib64") else name
