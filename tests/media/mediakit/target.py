"""The tree that gets installed, packed into archives named after EL packages."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from . import contexts, loaders
from .debian import Packages
from .host import HERE, run
from .initramfs import TARGET_MODULES, kernel_release
from .initramfs import build as build_initramfs

# The Debian packages the installed system is made of, with what they depend on.
PACKAGES = (
    "base-files base-passwd bash bsdutils coreutils diffutils findutils grep gzip hostname libc-bin login mount "
    "ncurses-base ncurses-bin passwd sed sysvinit-utils util-linux util-linux-extra tzdata netbase libpam-runtime "
    "linux-image-cloud-amd64 kmod systemd systemd-sysv libpam-systemd udev dbus network-manager openssh-server chrony "
    "qemu-guest-agent policycoreutils selinux-utils xfsprogs e2fsprogs dosfstools parted fdisk cloud-guest-utils "
    "grub-common efibootmgr iproute2 iputils-ping procps sudo python3-minimal gawk less tar xz-utils bzip2 cpio"
).split()
# Dependencies that are about Debian's packaging, or that nothing here calls.
BARRED = (
    "perl perl-base debconf dpkg apt ucf adduser init-system-helpers initramfs-tools linux-base sgml-base xml-core "
    "runit-helper mawk dash media-types dns-root-data wpasupplicant ppp modemmanager mobile-broadband-provider-info "
    "python3 python3.11 libpython3-stdlib libpython3.11-stdlib gettext-base libfuse3-3 libfreetype6 gdisk libicu72 openssh-client-ssh1 python3-pkg-resources"
).split()
# EL packages with an archive of their own: the Debian packages and the overlay files they are made of.
OPTIONAL: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "chrony": (
        ("chrony",),
        ("usr/lib/systemd/system/chronyd.service", "etc/chrony.conf", "etc/chrony.keys", "etc/sysconfig/chronyd"),
    ),
    "qemu-guest-agent": (
        ("qemu-guest-agent",),
        ("usr/lib/systemd/system/qemu-guest-agent.service", "etc/sysconfig/qemu-ga", "usr/bin/qemu-ga"),
    ),
    "cloud-utils-growpart": (("cloud-guest-utils",), ()),
    "efibootmgr": (("efibootmgr",), ()),
    "grub2-pc": ((), ("usr/lib/grub/i386-pc/boot.img", "usr/lib/grub/i386-pc/core.img")),
    "grub2-efi-x64": ((), ("usr/lib/standin/efi/grubx64.efi",)),
    "shim-x64": ((), ("usr/lib/standin/efi/shimx64.efi", "usr/lib/standin/efi/mmx64.efi", "usr/lib/standin/efi/fbx64.efi")),
    "container-selinux": ((), ("usr/share/selinux/packages/targeted/container.fc",)),
    "k3s-selinux": ((), ("usr/share/selinux/packages/targeted/k3s.fc",)),
}
REMOVED = (
    "boot vmlinuz vmlinuz.old initrd.img initrd.img.old etc/apt var/lib/apt var/lib/dpkg var/cache var/log var/backups "
    "etc/machine-id var/lib/dbus/machine-id etc/fstab etc/hostname etc/resolv.conf etc/hosts etc/kernel etc/grub.d "
    "etc/default/grub etc/selinux/default usr/share/selinux/default var/lib/selinux "
    "etc/os-release usr/lib/udev/hwdb.d usr/lib/udev/hwdb.bin usr/lib/python3 "
    "usr/share/zoneinfo/right usr/share/zoneinfo/posix usr/lib/x86_64-linux-gnu/gconv var/lib/systemd etc/issue etc/issue.net etc/motd etc/debian_version etc/dpkg etc/cron.daily etc/cron.d "
    "etc/init.d etc/rc0.d etc/rc1.d etc/rc2.d etc/rc3.d etc/rc4.d etc/rc5.d etc/rc6.d etc/rcS.d etc/network "
    "etc/NetworkManager/NetworkManager.conf etc/NetworkManager/dispatcher.d/01-ifupdown etc/chrony etc/default/chrony etc/ssh etc/systemd/system usr/share/bug usr/share/doc usr/share/man "
    "usr/share/info usr/share/locale usr/share/lintian usr/share/grub usr/lib/systemd/system/ssh.service "
    "usr/lib/systemd/system/ssh.socket usr/lib/systemd/system/ssh@.service usr/lib/systemd/system/sshd.service "
    "usr/lib/systemd/system/chrony.service usr/lib/systemd/system/qemu-guest-agent.service "
    "usr/lib/systemd/system/basic.target.wants/selinux-autorelabel-mark.service usr/lib/systemd/system-preset "
    "usr/lib/systemd/system-generators/selinux-autorelabel-generator.sh usr/lib/NetworkManager/conf.d"
).split()
MODULES_REMOVED = (
    "arch/x86/crypto arch/x86/kvm drivers/cpufreq drivers/infiniband drivers/gpu drivers/media drivers/hid drivers/usb drivers/xen net/wireless net/bluetooth "
    "drivers/net/ethernet drivers/target drivers/block/drbd drivers/md drivers/comedi drivers/thermal drivers/watchdog drivers/hv drivers/nvdimm drivers/vhost "
    "drivers/misc drivers/ata drivers/input/rmi4 drivers/platform fs/orangefs fs/cachefiles fs/lockd fs/erofs net/l2tp net/vmw_vsock "
    "net/sunrpc drivers/iio drivers/staging net/sctp net/tipc net/ceph "
    "net/rds net/smc net/openvswitch net/9p net/dccp net/rxrpc net/sunrpc/xprtrdma fs/smb fs/nfs fs/nfsd fs/9p fs/ocfs2 fs/gfs2 fs/dlm fs/jfs fs/reiserfs fs/btrfs fs/f2fs fs/nilfs2 fs/ufs fs/afs fs/ceph"
).split()
BLOCKING_FACTOR = 512
CONTEXTS = "etc/selinux/targeted/contexts/files/file_contexts"


@dataclass(frozen=True)
class Built:
    """What was packed."""

    index: dict[str, dict[str, object]]
    release: str


def build(tree: Path, output: Path, work: Path) -> Built:
    """Make the target tree, label it, pack it into `output`/Packages with an index beside it."""
    root = work / "target"
    run(["cp", "-al", tree, root])
    _strip(tree, root)
    _arrange(tree, root, work)
    # setfiles sets labels through /proc/self/fd; the private mount goes away with its namespace.
    label = f"mount -t proc proc '{root}/proc' && chroot '{root}' setfiles -F /{CONTEXTS} /"
    run(["unshare", "--mount", "sh", "-c", label])
    index = _pack(tree, root, output)
    (output / "archives.json").write_text(json.dumps(index, indent=1) + "\n")
    return Built(index, kernel_release(root))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _strip(tree: Path, root: Path) -> None:
    packages = Packages(tree)
    wanted = packages.closure(PACKAGES, without=BARRED)
    keep = {file for name in wanted for file in packages.files(name)}
    folders = []
    for name in packages.names() - wanted:
        for file in packages.files(name):
            path = root / file
            if file in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                folders.append(path)
            else:
                path.unlink(missing_ok=True)
    for folder in sorted(set(folders), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    for name in REMOVED:
        _remove(root / name)
    modules = root / "usr/lib/modules" / kernel_release(root)
    for name in MODULES_REMOVED:
        _remove(modules / "kernel" / name)
    for cache in [*root.glob("usr/lib/python3*/**/__pycache__")]:
        _remove(cache)
    # depmod rewrites files that are still links into the Debian tree.
    for file in modules.glob("modules.*"):
        data = file.read_bytes()
        file.unlink()
        file.write_bytes(data)
    run(["chroot", root, "depmod", modules.name])


def _arrange(tree: Path, root: Path, work: Path) -> None:
    """Everything that makes the tree look like EL."""
    release = kernel_release(root)
    for name in ("boot/loader/entries", "boot/efi", "var/log", "var/cache", "etc/systemd/system", "usr/libexec/openssh", "var/lib/rpm", "srv", "media", "usr/lib/standin/bin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    modules = root / "usr/lib/modules" / release
    shutil.copy(tree / f"boot/vmlinuz-{release}", modules / "vmlinuz")
    build_initramfs(tree, "target-init", TARGET_MODULES, modules / "initramfs.img", work)

    policy = root / "etc/selinux/targeted"
    shutil.copytree(tree / "etc/selinux/default", policy, ignore=shutil.ignore_patterns("*.bin"))
    loaders.place(tree, root, work)
    (root / "usr/bin/qemu-ga").unlink(missing_ok=True)
    (root / "usr/sbin/qemu-ga").rename(root / "usr/bin/qemu-ga")
    _replace_link(root / "usr/bin/sh", "bash")
    _replace_link(root / "usr/bin/awk", "gawk")
    for name in ("sftp-server",):
        if (root / "usr/lib/openssh" / name).exists():
            (root / "usr/libexec/openssh" / name).symlink_to(f"/usr/lib/openssh/{name}")
    _accounts(root)

    shutil.copytree(HERE / "target", root, symlinks=True, dirs_exist_ok=True, copy_function=_copy_fresh)
    for link in ("redhat-release", "system-release"):
        (root / "etc" / link).symlink_to("almalinux-release")
    (root / "etc/os-release").symlink_to("../usr/lib/os-release")
    _replace_link(root / "etc/localtime", "../usr/share/zoneinfo/UTC")
    (root / "etc/hosts").write_text(
        "127.0.0.1   localhost localhost.localdomain localhost4 localhost4.localdomain4\n"
        "::1         localhost localhost.localdomain localhost6 localhost6.localdomain6\n"
    )
    run(["chroot", root, "systemctl", "preset-all"])
    _contexts(root)


def _contexts(root: Path) -> None:
    """Leave out what the medium has no use for."""
    file = root / CONTEXTS
    text = contexts.prune(file.read_text(), lambda name: os.path.lexists(f"{root}{name}"))
    file.write_text(text)


def _copy_fresh(source: str, place: str) -> str:
    """Copy without writing through a link into the Debian tree."""
    Path(place).unlink(missing_ok=True)
    return shutil.copy2(source, place)


def _replace_link(path: Path, to: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(to)


def _accounts(root: Path) -> None:
    """Rewrite the account files unlinked from the Debian tree, with EL's names where it matters."""
    for name in ("passwd", "shadow", "group", "gshadow"):
        file = root / "etc" / name
        text = file.read_text().replace("_chrony", "chrony")
        mode = file.stat().st_mode
        gid = file.stat().st_gid
        file.unlink()
        file.write_text(text)
        os.chown(file, 0, gid)
        file.chmod(mode)
        (root / f"etc/{name}-").unlink(missing_ok=True)


def _pack(tree: Path, root: Path, output: Path) -> dict[str, dict[str, object]]:
    packages = Packages(tree)
    index: dict[str, dict[str, object]] = {}
    taken: set[str] = set()
    for name, (debian, own) in OPTIONAL.items():
        owned = [file for package in debian for file in packages.files(package)] + list(own)
        files = sorted({
            file for file in owned
            # Not the links of the merged tree, /bin and the like, which every package lists.
            if "/" in file and ((root / file).is_symlink() or (root / file).is_file())
        } - taken)
        taken |= set(files)
        index[name] = _archive(root, output, name, files)
    everything = []
    for folder, names, files in os.walk(root):
        here = os.path.relpath(folder, root)
        if here == ".":
            names[:] = [name for name in names if name not in ("proc", "sys", "dev", "run", "tmp")]
            everything += ["proc", "sys", "dev", "run", "tmp"]
        else:
            everything.append(here)
        everything += [os.path.normpath(f"{here}/{file}") for file in files]
        everything += [os.path.normpath(f"{here}/{name}") for name in names if os.path.islink(f"{folder}/{name}")]
    index["base"] = _archive(root, output, "base", sorted(set(everything) - taken))
    return index


def _archive(root: Path, output: Path, name: str, files: list[str]) -> dict[str, object]:
    place = output / "Packages" / name[0] / f"{name}.tar"
    place.parent.mkdir(parents=True, exist_ok=True)
    listing = output.parent / f"{name}.files"
    listing.write_text("".join(f"{file}\n" for file in files))
    # Not compressed: under emulation decompressing and piping cost more than reading three times as much.
    run([
        "tar", "-C", root, "-c", "-b", str(BLOCKING_FACTOR), "-f", place, "--no-recursion", "--numeric-owner",
        "--xattrs", "--xattrs-include=*", "-T", listing,
    ])
    unpacked = sum((root / file).lstat().st_size for file in files)
    listing.unlink()
    return {"path": str(place.relative_to(output)), "packed": place.stat().st_size, "unpacked": unpacked}
