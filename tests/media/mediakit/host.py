"""The host: running its programs, keeping what was built."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
CACHE = HERE.parent.parent / ".cache" / "media"
PROGRAMS = {
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
    "xorriso": "xorriso",
    "cpio": "cpio",
    "zstd": "zstd",
    "mkfs.fat": "dosfstools",
    "mcopy": "mtools",
}


class BuildError(Exception):
    """Something a person has to put right."""


def run(argv: Sequence[str | Path], **options: object) -> subprocess.CompletedProcess[bytes]:
    """Run a program that must succeed; its output is shown only when it fails."""
    words = [str(word) for word in argv]
    try:
        return subprocess.run(words, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)  # type: ignore[call-overload,no-any-return]
    except FileNotFoundError as error:
        raise BuildError(f"running {words[0]}: not found; install the package {PROGRAMS.get(words[0], words[0])}") from error
    except subprocess.CalledProcessError as error:
        tail = error.stdout.decode(errors="replace")[-4000:]
        raise BuildError(f"running {' '.join(words)[:500]}: exit status {error.returncode}\n{tail}") from error


def require_programs() -> None:
    """Fail early, naming every missing package at once."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    os.environ["PATH"] = path
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program, path=path) is None})
    if missing:
        raise BuildError(f"programs are missing; run: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        # mmdebstrap, device nodes and extended attributes need root.
        if shutil.which("sudo") is None:
            raise BuildError("building the medium needs root: run it as root, or install sudo")
        os.execvp("sudo", ["sudo", "--preserve-env=HOME,PIP_INDEX_URL,PIP_CERT", sys.executable, *sys.argv])


def say(text: str, began: float) -> None:
    """A progress line on stderr; stdout carries only the result."""
    print(f"media: {time.monotonic() - began:5.1f} s  {text}", file=sys.stderr, flush=True)


def digest(paths: Iterable[Path], *more: str) -> str:
    """One digest over files' names, modes and contents, and some strings."""
    total = hashlib.sha256()
    for path in sorted(paths):
        mode = "x" if os.access(path, os.X_OK) else "-"
        total.update(f"{path.relative_to(HERE)}\0{mode}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for text in more:
        total.update(text.encode() + b"\0")
    return total.hexdigest()[:16]


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of the cache; the kernel drops it whatever happens to this process."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def work_folder(prefix: str) -> Iterator[Path]:
    """A folder beside the cache's entries, removed at the end and when left over from a killed run."""
    for left_over in CACHE.glob(f"{prefix}.work-*"):
        if not Path(f"/proc/{left_over.name.rpartition('-')[2]}").exists():
            shutil.rmtree(left_over, ignore_errors=True)
    folder = CACHE / f"{prefix}.work-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
