"""Failures a test asks for, without the product's knowing.

Asked for by, first found: the fw_cfg file `opt/standin/fail`, an SMBIOS type 11
string `standin.fail=CLASS`, `fail` in `standin.toml` on the medium (written by
`tests/media/variant`). A class is one function below, tied to the moment of the
installation at which it strikes, or one of `EARLY`, which need no installer: those
are in `initrd/installer-init` and only a medium can ask for them.
"""

from __future__ import annotations

import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from .errors import NonInteractiveError
from .log import Log

FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/standin/fail/raw")
SMBIOS_STRINGS = Path("/sys/firmware/dmi/entries")
SETTINGS = Path("/run/install/repo/standin.toml")


def _wait_for_ever() -> NoReturn:
    while True:
        time.sleep(3600)


def _low_memory(log: Log) -> None:
    """`check_memory` of pyanaconda/startup_utils.py: it prints, and `input()` waits for ever."""
    log.info("check_memory(): total:1494, needed:1536, graphical:2048", prefix="startup_utils")
    log.console(
        "AlmaLinux requires 1536 MB of memory to install, but you only have 1494 MB on this machine.\n\n"
        "Press [Enter] to reboot your system.\n"
    )
    log.console("The installation cannot continue and the system will be rebooted")
    log.console("Press ENTER to continue")
    _wait_for_ever()


def _question(log: Log) -> None:
    """The hub of pyanaconda/ui/tui/hubs/summary.py, where a kickstart leaves something open in text mode."""
    log.console("=" * 80)
    log.console(
        "Installation\n\n"
        "1) [x] Language settings                 2) [x] Time settings\n"
        "       (English (United States))                (Etc/UTC timezone)\n"
        "3) [x] Installation source               4) [x] Software selection\n"
        "       (Local media)                            (Custom software selected)\n"
        "5) [!] Installation Destination          6) [x] Kdump\n"
        "       (Automatic partitioning selected)        (Kdump is disabled)\n"
    )
    # simpleline's prompt has no end of line.
    sys.stdout.write("Please make a selection from the above ['b' to begin installation, 'q' to quit,\n'r' to refresh]: ")
    sys.stdout.flush()
    _wait_for_ever()


def _crash(_log: Log) -> None:
    """Any exception nobody expected goes to Anaconda's exception handler."""
    raise OSError(2, "No such file or directory", "/usr/share/anaconda/interactive-defaults.ks")


def _scriptlet(log: Log) -> None:
    """What dnf's yum/rpmtrans.py logs, as in kickstart-tests#1055; the transaction goes on after it."""
    package = "coreutils-common-8.32-36.el9.x86_64"
    log.packaging(f"Configuring (running scriptlet for): {package} 1673019296 f916e02672303e038ed39fee2bba94096db4d87d9ea061b1aba0e95930ecc28f")
    log.info(
        "error: failed to exec scriptlet interpreter /bin/sh: No such file or directory\n"
        f"warning: %post({package}) scriptlet failed, exit status 127",
        prefix="dnf",
        logger="packaging",
    )
    log.error("Error in POSTIN scriptlet in rpm package coreutils-common", prefix="dnf", logger="packaging")


def _no_packages(log: Log) -> None:
    log.error("Payload setup error: Failed to set up the installation source.", prefix="packaging", logger="packaging")
    raise NonInteractiveError(
        "Non interactive installation failed: Error setting up software source: "
        "failed to find a base repository with packages"
    )


FAILURES: dict[str, tuple[str, Callable[[Log], None]]] = {
    # class: (moment, what happens)
    "crash": ("software", _crash),
    "low-memory": ("startup", _low_memory),
    "no-packages": ("software", _no_packages),
    "question": ("startup", _question),
    "scriptlet": ("transaction", _scriptlet),
}

EARLY: dict[str, str] = {
    # class: what happens, before there is an installer
    "boot": "the initramfs holds no files, so the kernel finds no root (made by `variant`)",
    "media-check": "checkisomd5 finds the medium damaged",
    "oom": "a process takes all memory",
    "panic": "the kernel panics",
    "power-off": "the machine powers off without a word",
    "reset": "the machine resets itself",
    "stage2": "images/install.img is not where .treeinfo says",
    "stall": "nothing happens any more",
}


class Failure:
    """The failure asked for, if any."""

    def __init__(self, name: str | None) -> None:
        if name is not None and name not in FAILURES and name not in EARLY:
            raise SystemExit(f"standin: no failure class {name!r}; known: {', '.join(sorted([*FAILURES, *EARLY]))}")
        self._name = name if name in FAILURES else None

    def strike(self, moment: str, log: Log) -> None:
        """Called as the installation passes `moment`: fails here if this was asked for."""
        if self._name is not None and FAILURES[self._name][0] == moment:
            FAILURES[self._name][1](log)


def asked_for() -> Failure:
    """Look in the three places."""
    return Failure(_from_fw_cfg() or _from_smbios() or _from_medium())


def _from_fw_cfg() -> str | None:
    try:
        return FW_CFG.read_text().strip("\0\n ") or None
    except OSError:
        return None


def _from_smbios() -> str | None:
    for entry in sorted(SMBIOS_STRINGS.glob("11-*/raw")):
        try:
            raw = entry.read_bytes()
        except OSError:
            continue
        for text in raw[raw[1] :].split(b"\0"):
            if text.startswith(b"standin.fail="):
                return text.partition(b"=")[2].decode()
    return None


def _from_medium() -> str | None:
    try:
        return tomllib.loads(SETTINGS.read_text()).get("fail") or None
    except OSError:
        return None
