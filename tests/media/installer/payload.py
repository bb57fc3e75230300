"""Installing the packages: unpacking the medium's archives with DNF's and Anaconda's progress."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pykickstart.constants import KS_MISSING_IGNORE

from .errors import NonInteractiveError
from .log import Log
from .packages import Catalogue, Package, Request, Selection

SYSROOT = "/mnt/sysroot"
REPOSITORY = Path("/run/install/repo/BaseOS")
CATALOGUE = Path("/usr/lib/standin/catalogue.tsv")
POLL_SECONDS = 0.2
BUILD_TIME = 1731000000
CONTEXTS = Path(f"{SYSROOT}/etc/selinux/targeted/contexts/files/file_contexts")
PACKAGE_LIST = Path(f"{SYSROOT}/var/lib/rpm/standin-packages.tsv")


@dataclass(frozen=True)
class Archive:
    """A file below Packages/, with the sizes `archives.json` gives."""

    path: Path
    packed: int
    unpacked: int


def select(log: Log, ksdata: Any, required: list[str]) -> Selection:
    """Resolve %packages against the catalogue, or fail as DNF and Anaconda do."""
    section = ksdata.packages
    request = Request(
        packages=tuple(section.packageList),
        excluded=tuple(section.excludedList),
        groups=tuple(dict.fromkeys([*([] if section.nocore else ["core"]), *(group.name for group in section.groupList)])),
        excluded_groups=tuple(group.name for group in section.excludedGroupList),
        environment=section.environment,
        required=tuple(required),
        extra_repositories=bool(ksdata.repo.repoList),
    )
    selection = Catalogue.parse(CATALOGUE.read_text()).select(request)
    problem = selection.problem()
    if problem is None:
        return selection
    log.debug(
        f"Some packages, groups or modules are missing or broken:\n{problem}",
        prefix="modules.payloads.payload.dnf.dnf_manager",
    )
    for name in selection.missing_packages:
        log.error(f"Missed: NoSuchPackage: {name}", prefix="packaging", logger="packaging")
    for name in selection.missing_groups:
        log.error(f"Missed: NoSuchGroup: {name}", prefix="packaging", logger="packaging")
    if section.handleMissing == KS_MISSING_IGNORE:
        log.info("Ignoring missing packages, groups or modules.", prefix="modules.payloads.payload.dnf.dnf_manager")
        return selection
    log.console("Some packages, groups or modules are missing.")
    raise NonInteractiveError(f"Non interactive installation failed: {problem}")


def archives_of(selection: Selection) -> list[Archive]:
    """The archives a selection needs, the common tree first."""
    index: dict[str, dict[str, Any]] = json.loads((REPOSITORY / "archives.json").read_text())
    wanted = dict.fromkeys(package.archive for package in selection.packages if package.archive != "none")
    names = ["base", *(name for name in wanted if name != "base")]
    return [
        Archive(REPOSITORY / index[name]["path"], index[name]["packed"], index[name]["unpacked"])
        for name in names
        if name in index
    ]


def download(log: Log, selection: Selection, archives: list[Archive]) -> None:
    """Anaconda's download phase. From a DVD nothing is copied, so it is over at once."""
    total = sum(archive.packed for archive in archives)
    count = len(selection.packages)
    log.progress("Downloading packages")
    for part in (0, total):
        log.progress(f"Downloading {count} RPMs, {_size(part)} / {_size(total)} ({100 * part // max(total, 1)}%) done.")


def unpack(log: Log, selection: Selection, archives: list[Archive]) -> None:
    """Unpack everything, naming packages as the bytes go by."""
    names = _announcer(log, selection.packages)
    total = sum(archive.packed for archive in archives)
    count = len(selection.packages)
    before = announced = 0
    for archive in archives:
        for position in _extract(archive):
            done = before + position
            while announced < count * done // max(total, 1):
                next(names)
                announced += 1
        before += archive.packed
    for _ in itertools.islice(names, count - announced):
        pass


def _extract(archive: Archive) -> Iterator[int]:
    """Unpack one archive, telling now and then how far tar has read."""
    # vfat has no extended attributes; tar says so about the mount point of the ESP.
    words = ["tar", "-x", "-b", "512", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-C", SYSROOT, "-f", "-"]
    with archive.path.open("rb", buffering=0) as source, Path("/tmp/tar.log").open("ab") as errors:
        tar = subprocess.Popen(words, stdin=source, stderr=errors)
        while tar.poll() is None:
            time.sleep(POLL_SECONDS)
            yield os.lseek(source.fileno(), 0, os.SEEK_CUR)
        if tar.returncode != 0:
            raise RuntimeError(f"An error occurred during the transaction: cannot unpack {archive.path.name}")


def _announcer(log: Log, packages: tuple[Package, ...]) -> Iterator[None]:
    count = len(packages)
    for number, package in enumerate(packages, 1):
        log.progress(f"Installing {package.name}.{package.arch} ({number}/{count})")
        log.packaging(f"Installed: {package.nevra} {BUILD_TIME} {_checksum(package)}")
        yield


def run_scriptlets(log: Log, selection: Selection) -> None:
    """The transaction's end: scriptlets, verification and the package data base."""
    log.packaging("Post installation setup phase started.")
    log.progress("Performing post-installation setup tasks")
    for package in selection.packages:
        _add_contexts(package)
        if package.archive != "none":
            log.packaging(f"Configuring (running scriptlet for): {package.nevra} {BUILD_TIME} {_checksum(package)}")
            log.progress(f"Configuring {package.name}.{package.arch}")
    count = len(selection.packages)
    for number, package in enumerate(selection.packages, 1):
        log.packaging(f"Verifying: {package.nevra} {BUILD_TIME} {_checksum(package)}")
        if number % 50 == 0 or number == count:
            log.progress(f"Verifying {package.name}.{package.arch} ({number}/{count})")
    PACKAGE_LIST.parent.mkdir(parents=True, exist_ok=True)
    now = int(time.time())
    PACKAGE_LIST.write_text("".join(f"{p.name}\t{p.evr}\t{p.arch}\t{now}\n" for p in selection.packages))
    os.sync()


def _add_contexts(package: Package) -> None:
    """What a policy module's scriptlet does: its file contexts become part of the policy's."""
    fragment = Path(f"{SYSROOT}/usr/share/selinux/packages/targeted/{package.name.removesuffix('-selinux')}.fc")
    if package.name.endswith("-selinux") and fragment.exists():
        with CONTEXTS.open("a", encoding="utf-8") as contexts:
            contexts.write(fragment.read_text())


def _checksum(package: Package) -> str:
    return hashlib.sha256(package.nevra.encode()).hexdigest()


def _size(size: int) -> str:
    """As blivet's Size prints it."""
    return f"{size / (1 << 20):.2f} MiB".replace(".00 ", " ") if size else "0 B"
