"""Configuring the installed system from the kickstart's commands."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any

from pykickstart.constants import SELINUX_DISABLED, SELINUX_PERMISSIVE

from .errors import TaskError
from .log import Log
from .run import check, run

SYSROOT = "/mnt/sysroot"


def path(name: str) -> Path:
    """A path of the installed system."""
    return Path(SYSROOT + name)


def write(name: str, text: str, mode: int = 0o644) -> None:
    """Write a file of the installed system with exactly this mode."""
    target = path(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    target.write_text(text)
    target.chmod(mode)


def machine_id() -> str:
    """What systemd's own scriptlet leaves: an initialised machine-id."""
    value = uuid.uuid4().hex
    write("/etc/machine-id", value + "\n", 0o444)
    return value


def selinux(ksdata: Any) -> None:
    """SELINUX= in /etc/selinux/config; the policy's name is the package's."""
    modes = {SELINUX_DISABLED: "disabled", SELINUX_PERMISSIVE: "permissive"}
    mode = modes.get(ksdata.selinux.selinux, "enforcing")
    config = path("/etc/selinux/config")
    config.write_text(re.sub(r"(?m)^SELINUX=.*$", f"SELINUX={mode}", config.read_text()))


def localization(ksdata: Any) -> None:
    """Language, keyboard, time zone."""
    write("/etc/locale.conf", f'LANG="{ksdata.lang.lang or "en_US.UTF-8"}"\n')
    keymap = ksdata.keyboard.vc_keymap or (ksdata.keyboard.x_layouts or ["us"])[0].split()[0] or "us"
    write("/etc/vconsole.conf", f'KEYMAP="{keymap}"\nFONT="eurlatgr"\n')
    zone = ksdata.timezone.timezone or "America/New_York"
    localtime = path("/etc/localtime")
    if localtime.is_symlink() or localtime.exists():
        localtime.unlink()
    localtime.symlink_to(f"../usr/share/zoneinfo/{zone}")
    write("/etc/adjtime", f"0.0 0 0.0\n0\n{'UTC' if ksdata.timezone.isUtc else 'LOCAL'}\n")


def services(log: Log, ksdata: Any) -> None:
    """`services --enabled --disabled`; enabling one that does not exist is fatal, as in Anaconda."""
    for name in ksdata.services.disabled:
        if any(path(folder + _unit(name)).exists() for folder in ("/usr/lib/systemd/system/", "/etc/systemd/system/")):
            run(log, ["systemctl", "disable", _unit(name)], SYSROOT)
    for name in ksdata.services.enabled:
        status, output = run(log, ["systemctl", "enable", _unit(name)], SYSROOT)
        if status != 0:
            raise TaskError(f"Error enabling service {name}: {output.strip()}")


def _unit(name: str) -> str:
    return name if "." in name else f"{name}.service"


def network(ksdata: Any) -> None:
    """A NetworkManager keyfile per `network --device`, and the host name."""
    for data in ksdata.network.network:
        if data.hostname:
            write("/etc/hostname", f"{data.hostname}\n")
        if not data.bootProto or (data.hostname and not data.device and not data.ip):
            continue
        device = _device(data.device)
        if device:
            connection = f"/etc/NetworkManager/system-connections/{device}.nmconnection"
            write(connection, _keyfile(data, device), 0o600)


def _device(name: str) -> str:
    nics = sorted(nic.name for nic in Path("/sys/class/net").iterdir() if nic.name != "lo")
    if name in ("", "link", None):
        return nics[0] if nics else ""
    return name


def _keyfile(data: Any, device: str) -> str:
    lines = [
        "[connection]",
        f"id={device}",
        f"uuid={uuid.uuid4()}",
        "type=ethernet",
        *(["autoconnect=false"] if not data.onboot else []),
        "autoconnect-priority=-999",
        f"interface-name={device}",
        "timestamp=0",
        "",
        "[ethernet]",
        "",
        "[ipv4]",
    ]
    if data.bootProto == "static":
        lines += [f"address1={data.ip}/{_prefix_length(data.netmask)}" + (f",{data.gateway}" if data.gateway else "")]
        lines += [f"dns={data.nameserver.replace(',', ';')};"] if data.nameserver else []
        lines += ["method=manual"]
    else:
        lines += ["method=auto"]
    lines += ["", "[ipv6]", "addr-gen-mode=eui64", f"method={'disabled' if data.noipv6 else 'auto'}", "", "[proxy]", ""]
    return "\n".join(lines)


def _prefix_length(netmask: str) -> int:
    return sum(bin(int(part)).count("1") for part in netmask.split("."))


def users(log: Log, ksdata: Any) -> None:
    """rootpw, user, sshkey."""
    root = ksdata.rootpw
    if root.password:
        check(log, ["chpasswd", *(["-e"] if root.isCrypted else [])], SYSROOT, stdin=f"root:{root.password}\n")
    if root.lock or not root.password:
        check(log, ["usermod", "-L", "root"], SYSROOT)
    for user in ksdata.user.userList:
        groups = ["-G", ",".join(user.groups)] if user.groups else []
        check(log, ["useradd", "-m", "-s", user.shell or "/bin/bash", *groups, "-c", user.gecos, user.name], SYSROOT)
        if user.password:
            check(log, ["chpasswd", *(["-e"] if user.isCrypted else [])], SYSROOT, stdin=f"{user.name}:{user.password}\n")
    for key in ksdata.sshkey.sshUserList:
        _authorize(log, key.username, key.key)


def _authorize(log: Log, user: str, key: str) -> None:
    home = "/root" if user == "root" else f"/home/{user}"
    file = f"{home}/.ssh/authorized_keys"
    existing = path(file).read_text() if path(file).exists() else ""
    write(file, f"{existing}{key}\n", 0o600)
    path(f"{home}/.ssh").chmod(0o700)
    check(log, ["chown", "-R", f"{user}:", f"{home}/.ssh"], SYSROOT)


def addons(log: Log, ksdata: Any) -> None:
    """`com_redhat_kdump` is the one addon EL ships by default; others are unknown to this medium."""
    for name in ksdata.addon_lines:
        if name != "com_redhat_kdump":
            log.warning(f"Unable to handle addon {name}", prefix="addons")


def copy_initramfs(log: Log, release: str) -> None:
    """The initramfs comes ready made with the kernel: it already holds what virtual machines need."""
    ready = path(f"/usr/lib/modules/{release}/initramfs.img")
    target = path(f"/boot/initramfs-{release}.img")
    target.write_bytes(ready.read_bytes())
    target.chmod(0o600)
    log.program(f"Running in chroot '{SYSROOT}'... dracut -f /boot/initramfs-{release}.img {release}")


def kernel_release() -> str:
    """The installed kernel's `uname -r`."""
    return sorted(os.listdir(path("/usr/lib/modules")))[-1]
