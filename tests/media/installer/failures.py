"""Failures a test asks for, without the product's knowing.

Asked for by, first found: the fw_cfg file `opt/standin/fail`, an SMBIOS type 11
string `standin.fail=CLASS`, `fail` in `standin.toml` on the medium (written by
`tests/media/variant`). A class is one function below, tied to the moment of the
installation at which it strikes.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from .errors import NonInteractiveError
from .log import Log

FW_CFG = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/standin/fail/raw")
SMBIOS_STRINGS = Path("/sys/firmware/dmi/entries")
SETTINGS = Path("/run/install/repo/standin.toml")


def _panic(_log: Log) -> None:
    Path("/proc/sysrq-trigger").write_text("c")
    time.sleep(600)


def _stall(_log: Log) -> None:
    while True:
        time.sleep(3600)


def _no_packages(log: Log) -> None:
    log.error("Payload setup error: Failed to set up the installation source.", prefix="packaging", logger="packaging")
    raise NonInteractiveError(
        "Non interactive installation failed: Error setting up software source: "
        "failed to find a base repository with packages"
    )


FAILURES: dict[str, tuple[str, Callable[[Log], None]]] = {
    # class: (moment, what happens)
    "no-packages": ("software", _no_packages),
    "panic": ("half-unpacked", _panic),
    "stall": ("half-unpacked", _stall),
}


class Failure:
    """The failure asked for, if any."""

    def __init__(self, name: str | None) -> None:
        if name is not None and name not in FAILURES:
            raise SystemExit(f"standin: no failure class {name!r}; known: {', '.join(sorted(FAILURES))}")
        self._name = name

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
