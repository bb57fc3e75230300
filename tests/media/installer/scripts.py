"""Running the kickstart's scripts (`AnacondaKSScript` in `pyanaconda/kickstart.py`)."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pykickstart.constants import (
    KS_SCRIPT_ONERROR,
    KS_SCRIPT_POST,
    KS_SCRIPT_PRE,
    KS_SCRIPT_PREINSTALL,
    KS_SCRIPT_TRACEBACK,
)

from .errors import ScriptError
from .log import Log
from .run import ENVIRONMENT, enter

SYSROOT = "/mnt/sysroot"
__all__ = ["KS_SCRIPT_ONERROR", "KS_SCRIPT_POST", "KS_SCRIPT_PRE", "KS_SCRIPT_PREINSTALL", "KS_SCRIPT_TRACEBACK", "run_scripts"]

TITLES = {
    KS_SCRIPT_PRE: "%pre",
    KS_SCRIPT_PREINSTALL: "%pre-install",
    KS_SCRIPT_POST: "%post",
    KS_SCRIPT_ONERROR: "%onerror",
    KS_SCRIPT_TRACEBACK: "%traceback",
}


def run_scripts(log: Log, scripts: list[Any], kind: int) -> None:
    """Run every script of one kind, in order.

    A script that fails is only logged, unless it has --erroronfail.
    """
    chosen = [script for script in scripts if script.type == kind]
    if not chosen:
        return
    log.info(f"Running kickstart {TITLES[kind]} script(s)", prefix="kickstart")
    for script in chosen:
        _run_script(log, script, kind)
    log.info(f"All kickstart {TITLES[kind]} script(s) have been run", prefix="kickstart")


def _run_script(log: Log, script: Any, kind: int) -> None:
    # Only %post has a chroot by default; the others run in stage 2.
    root = SYSROOT if script.inChroot and kind == KS_SCRIPT_POST else "/"
    descriptor, path = tempfile.mkstemp(prefix="ks-script-", dir=f"{root}/tmp")
    name = os.path.basename(path)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(script.script)
    os.chmod(path, 0o700)

    messages = Path(f"{root}/{script.logfile}") if script.logfile else Path(f"/tmp/{name}.log")
    messages.parent.mkdir(parents=True, exist_ok=True)
    log.program(f"Running... {script.interp} /tmp/{name}")
    with messages.open("wb") as output:
        try:
            status = subprocess.run(
                [script.interp, f"/tmp/{name}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=ENVIRONMENT,
                preexec_fn=None if root == "/" else (lambda: enter(root)),
                check=False,
            ).returncode
        except OSError as error:
            output.write(f"{script.interp}: {error.strerror}\n".encode())
            status = 127
    said = messages.read_text(encoding="utf-8", errors="replace")
    for line in said.splitlines():
        log.program(line)
    log.program(f"Return code: {status}")
    if status != 0:
        log.error(f"Error code {status} running the kickstart script at line {script.lineno}", prefix="kickstart")
        if script.errorOnFail:
            raise ScriptError(script.lineno, said)
