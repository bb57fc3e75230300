"""Running programs as Anaconda does: everything they say goes to program.log."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from .log import Log

ENVIRONMENT = {"PATH": "/usr/bin:/usr/sbin", "HOME": "/root", "LANG": "C.UTF-8", "TERM": "linux"}


def enter(root: str) -> None:
    """Change into a chroot; run in the child."""
    os.chroot(root)
    os.chdir("/")


def run(log: Log, argv: Sequence[str], root: str = "/", stdin: str | None = None) -> tuple[int, str]:
    """Run a program, in a chroot unless `root` is "/". The exit status and all output."""
    log.program(f"Running{' in chroot ' + repr(root) if root != '/' else ''}... {' '.join(argv)}")
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=ENVIRONMENT,
            preexec_fn=None if root == "/" else (lambda: enter(root)),
            check=False,
        )
    except OSError as error:
        log.program(f"Error running {argv[0]}: {error.strerror}")
        return 127, str(error)
    for line in done.stdout.splitlines():
        log.program(line)
    log.program(f"Return code: {done.returncode}")
    return done.returncode, done.stdout


def check(log: Log, argv: Sequence[str], root: str = "/", stdin: str | None = None) -> str:
    """Run a program that must succeed; its output."""
    status, output = run(log, argv, root, stdin)
    if status != 0:
        raise RuntimeError(f"{argv[0]} exited with status {status}: {output.strip()[-500:]}")
    return output
