"""Ending the machine."""

from __future__ import annotations

import os
import struct
import subprocess
import threading
from pathlib import Path

from pykickstart.constants import KS_REBOOT, KS_SHUTDOWN

INITCTL = Path("/run/initctl")
INITCTL_MAGIC = 0x03091969
INITCTL_SIZE = 384


def exit_action(action: int | None) -> str:
    """The program that does what the kickstart asks for in the end.

    `halt` is what KS_WAIT means; without any command Anaconda reboots.
    """
    if action == KS_SHUTDOWN:
        return "poweroff"
    if action in (None, KS_REBOOT):
        return "reboot"
    return "halt"


def finish(action: str) -> None:
    """Unmount the installed system and stop the machine at once."""
    os.sync()
    for _ in range(4):
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        targets = [point for point in mounts if point.startswith("/mnt/")]
        if not targets:
            break
        for point in reversed(targets):
            subprocess.run(["umount", point], stderr=subprocess.DEVNULL, check=False)
    os.sync()
    subprocess.run([action, "-f"], check=False)


def obey_initctl() -> None:
    """Let a plain `poweroff`, `reboot` or `halt` of a script work without systemd as process 1.

    systemctl falls back to this pipe when it finds no service manager.
    """
    if not INITCTL.exists():
        os.mkfifo(INITCTL, 0o600)
    threading.Thread(target=_listen, daemon=True).start()


def _listen() -> None:
    with open(INITCTL, "r+b", buffering=0) as pipe:
        while True:
            magic, _command, runlevel = struct.unpack_from("<iii", pipe.read(INITCTL_SIZE))
            if magic == INITCTL_MAGIC and chr(runlevel) in "06":
                finish("poweroff" if chr(runlevel) == "0" else "reboot")
