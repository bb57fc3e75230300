"""Which partition becomes what: the kickstart's `part` lines against the disks that are there.

No I/O. Messages are Anaconda's and blivet's.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024
GPT_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"
GPT_EFI_SYSTEM = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
FILE_SYSTEMS = ("xfs", "ext4", "efi", "vfat", "swap", "biosboot")
SMALLEST_ROOT = 250 * MIB


@dataclass(frozen=True)
class Partition:
    """A partition found on a disk."""

    name: str
    disk: str
    size: int
    kind: str = ""
    """GPT type GUID, lower case; "" where unknown."""


@dataclass(frozen=True)
class Disks:
    """What the machine has."""

    disks: dict[str, str]
    """Disk name to its partition table: "gpt", "dos" or ""."""
    partitions: dict[str, Partition]


@dataclass(frozen=True)
class PartRequest:
    """One `part` command."""

    mount_point: str
    file_system: str
    on_part: str
    line: int
    format: bool = True
    label: str = ""
    options: str = ""
    make_options: str = ""


@dataclass(frozen=True)
class StorageRequest:
    """The storage commands of a kickstart."""

    parts: tuple[PartRequest, ...]
    only_use: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    ignore_line: int = 0
    automatic: bool = False


@dataclass(frozen=True)
class Step:
    """One partition to format and mount."""

    device: str
    disk: str
    file_system: str
    mount_point: str
    """"" for a partition that is not mounted."""
    format: bool
    label: str
    options: str
    make_options: str


@dataclass(frozen=True)
class Plan:
    """The steps in the order they are to be mounted, or why there are none."""

    steps: tuple[Step, ...] = ()
    errors: tuple[str, ...] = ()

    def find(self, mount_point: str) -> Step | None:
        return next((step for step in self.steps if step.mount_point == mount_point), None)


def on_line(line: int, message: str) -> str:
    """A message as pykickstart's formatErrorMsg words it."""
    return f"The following problem occurred on line {line} of the kickstart file:\n\n{message}\n"


def make_plan(request: StorageRequest, disks: Disks, uefi: bool, product: str) -> Plan:
    """Resolve every request, then check the result as Anaconda's storage checker does."""
    for name in (*request.only_use, *request.ignored):
        if name not in disks.disks:
            return Plan(errors=(on_line(request.ignore_line, f'Disk "{name}" given in ignoredisk command does not exist.'),))
    steps: list[Step] = []
    for part in request.parts:
        try:
            steps.append(_resolve(part, request, disks, steps))
        except ValueError as error:
            return Plan(errors=(on_line(part.line, str(error)),))
    errors = _check(steps, disks, uefi, product)
    if errors:
        return Plan(errors=tuple(errors))
    return Plan(steps=tuple(sorted(steps, key=lambda step: step.mount_point)))


def _resolve(part: PartRequest, request: StorageRequest, disks: Disks, earlier: list[Step]) -> Step:
    if not part.on_part:
        raise ValueError("This medium is a stand-in: it installs only to partitions named with --onpart.")
    name = part.on_part.removeprefix("/dev/")
    partition = disks.partitions.get(name)
    usable = partition is not None and (
        partition.disk in request.only_use if request.only_use else partition.disk not in request.ignored
    )
    if partition is None or not usable:
        raise ValueError(f'Partition "{name}" given in part command does not exist.')
    if part.file_system not in FILE_SYSTEMS:
        raise ValueError(f'The "{part.file_system}" file system type is not supported.')
    if any(step.device == name for step in earlier):
        raise ValueError(f'Partition "{name}" given in part command is already used.')
    mounted = part.mount_point.startswith("/")
    if mounted and any(step.mount_point == part.mount_point for step in earlier):
        raise ValueError(
            f'The mount point "{part.mount_point}" is already in use.  Please choose a different mount point.'
        )
    return Step(
        device=name,
        disk=partition.disk,
        file_system=part.file_system,
        mount_point=part.mount_point if mounted else "",
        format=part.format and part.file_system != "biosboot",
        label=part.label,
        options=part.options,
        make_options=part.make_options,
    )


def _check(steps: list[Step], disks: Disks, uefi: bool, product: str) -> list[str]:
    errors = []
    root = next((step for step in steps if step.mount_point == "/"), None)
    if root is None:
        errors.append(
            f"You have not defined a root partition (/), which is required for installation of {product} to continue."
        )
    else:
        if disks.partitions[root.device].size < SMALLEST_ROOT:
            errors.append(
                f"Your root partition is less than 250 MiB which is usually too small to install {product}."
            )
        if not root.format:
            errors.append("You must create a new file system on the root device.")
    boot_disk = root.disk if root else next(iter(disks.disks), "")
    if uefi:
        esp = next((step for step in steps if step.mount_point == "/boot/efi"), None)
        if esp is None or disks.partitions[esp.device].kind not in ("", GPT_EFI_SYSTEM):
            errors.append("No valid boot loader target device found. See below for details.")
            errors.append(
                "For a UEFI installation, you must include an EFI System Partition on a GPT-formatted disk, "
                "mounted at /boot/efi."
            )
    elif disks.disks.get(boot_disk) == "gpt" and not any(
        step.file_system == "biosboot" and disks.partitions[step.device].kind in ("", GPT_BIOS_BOOT) for step in steps
    ):
        errors.append(
            "Your BIOS-based system needs a special partition to boot from a GPT disk label. To continue, please "
            f"create a 1MiB 'biosboot' type partition on the {boot_disk} disk."
        )
    return errors
