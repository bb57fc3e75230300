"""The installer's course, from the kickstart to power-off (`pyanaconda/installation.py`)."""

from __future__ import annotations

import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from . import bootloader, configure, failures, kickstart, payload, power, scripts, storage
from .bootargs import BootArguments
from .errors import KickstartProblem, NonInteractiveError, ScriptError
from .log import Log
from .storage_plan import Plan, make_plan

KICKSTART = Path("/run/install/ks.cfg")
VERSION_FILE = Path("/usr/lib/standin/version")
SYSROOT = "/mnt/sysroot"
NON_INTERACTIVE_SLEEP = 180
NOSAVE_FILES = {"input_ks": "/tmp/NOSAVE_INPUT_KS", "logs": "/tmp/NOSAVE_LOGS"}
RELABELLED = ("/etc", "/var/lib", "/var/log", "/boot", "/root")


class Installation:
    """One run of the installer."""

    def __init__(self, log: Log, boot: BootArguments, version: str) -> None:
        self.log = log
        self.boot = boot
        self.version = version
        self.product = f"AlmaLinux {version}"
        self.uefi = os.path.isdir("/sys/firmware/efi")
        self.failure = failures.asked_for()
        self.ksdata: Any = None

    def read_kickstart(self) -> None:
        """%pre first, then the whole file, so that %include finds what %pre wrote."""
        configure.check(self.log, ["udevadm", "settle", "--timeout=60"])
        pre = kickstart.read_pre_scripts(KICKSTART)
        if pre:
            self.log.console(f"{time.strftime('%H:%M:%S', time.gmtime())} Running pre-installation scripts")
            scripts.run_scripts(self.log, pre, scripts.KS_SCRIPT_PRE)
        self.ksdata = kickstart.read(KICKSTART)

    def run(self) -> None:
        """Everything between a readable kickstart and a finished system."""
        log = self.log
        log.console("Starting automated install..")
        plan = self._check_storage()
        log.console("Checking software selection")
        self.failure.strike("software", log)
        self._check_source()
        selection = payload.select(log, self.ksdata, self._required_packages(plan))
        archives = payload.archives_of(selection)
        self._check_space(plan, archives)

        log.progress("Setting up the installation environment")
        log.progress("Configuring storage")
        storage.make_file_systems(log, plan)
        storage.mount(log, plan)
        log.progress("Running pre-installation scripts")
        scripts.run_scripts(log, self.ksdata.scripts, scripts.KS_SCRIPT_PREINSTALL)
        log.progress("Running pre-installation tasks")

        log.progress("Installing.")
        log.progress("Starting package installation process")
        payload.download(log, selection, archives)
        log.progress("Preparing transaction from installation source")
        self.failure.strike("transaction", log)
        payload.unpack(log, selection, archives)
        payload.run_scriptlets(log, selection)
        machine_id = configure.machine_id()

        log.progress("Installing boot loader")
        bootloader.install(log, self.ksdata, self.boot, plan, machine_id, self.version, self.uefi)
        log.progress("Performing post-installation setup tasks")
        storage.write_fstab(plan)
        self._configure()
        self._post()
        log.progress("Installation complete")
        log.console("Use of this product is subject to the license agreement found at:")
        log.console("/usr/share/almalinux-release/EULA")

    def _check_storage(self) -> Plan:
        log = self.log
        log.console("Generating updated storage configuration")
        request = storage.request_from(self.ksdata)
        plan = make_plan(request, storage.scan(log), self.uefi, "AlmaLinux")
        if plan.errors:
            problem = "\n".join(plan.errors)
            log.error(f"storage configuration failed: {problem}", prefix="ui.tui.spokes.storage")
            log.console(f"storage configuration failed: {problem}")
            raise NonInteractiveError("The following mandatory spokes are not completed:\nInstallation Destination")
        log.console("Checking storage configuration...")
        return plan

    def _check_source(self) -> None:
        method = self.ksdata.method.method
        if method not in (None, "cdrom", "harddrive"):
            self.log.error(f"Payload setup error: cannot reach {method} source", prefix="packaging", logger="packaging")
            raise NonInteractiveError(f"Non interactive installation failed: Error setting up software source: {method}")

    def _required_packages(self, plan: Plan) -> list[str]:
        """What Anaconda adds by itself: kernel, boot loader, file system tools."""
        names = ["kernel", "grub2-tools", "grub2-tools-minimal"]
        names += ["efibootmgr", "grub2-efi-x64", "shim-x64"] if self.uefi else ["grub2-pc"]
        tools = {"xfs": "xfsprogs", "ext4": "e2fsprogs", "efi": "dosfstools", "vfat": "dosfstools"}
        names += [tools[step.file_system] for step in plan.steps if step.file_system in tools]
        if self.ksdata.timezone.seen and not self.ksdata.timezone.nontp and "chrony" not in self.ksdata.packages.excludedList:
            names.append("chrony")
        return list(dict.fromkeys(names))

    def _check_space(self, plan: Plan, archives: list[payload.Archive]) -> None:
        root = plan.find("/")
        assert root is not None
        needed = sum(archive.unpacked for archive in archives) * 11 // 10
        have = int(Path(f"/sys/class/block/{root.device}/size").read_text()) * 512
        if needed > have:
            message = (
                "Not enough space in file systems for the current software selection. "
                f"An additional {(needed - have) / (1 << 20):.2f} MiB is needed."
            )
            self.log.console(message)
            raise NonInteractiveError(f"Non interactive installation failed: {message}")

    def _configure(self) -> None:
        log, ksdata = self.log, self.ksdata
        log.progress("Configuring installed system")
        configure.selinux(ksdata)
        configure.services(log, ksdata)
        configure.localization(ksdata)
        log.progress("Writing network configuration")
        configure.network(ksdata)
        log.progress("Creating users")
        configure.users(log, ksdata)
        log.progress("Configuring addons")
        configure.addons(log, ksdata)
        log.progress("Generating initramfs")
        configure.copy_initramfs(log, configure.kernel_release())

    def _post(self) -> None:
        """Kickstarts, %post, then Anaconda's own post scripts: relabelling and copying logs come last."""
        log = self.log
        log.progress("Storing configuration files and kickstarts")
        if "output_ks" in self.boot.nosave():
            log.warning("Writing of the output kickstart to installed system has been disabled by the nosave option.")
        else:
            configure.write("/root/anaconda-ks.cfg", f"# Generated by Anaconda\n{self.ksdata}", 0o600)
        log.progress("Running post-installation scripts")
        scripts.run_scripts(log, self.ksdata.scripts, scripts.KS_SCRIPT_POST)
        self._relabel()
        if not Path(NOSAVE_FILES["logs"]).exists():
            self._copy_logs()
        if not Path(NOSAVE_FILES["input_ks"]).exists():
            configure.write("/root/original-ks.cfg", KICKSTART.read_text(), 0o600)

    def _relabel(self) -> None:
        """80-setfilecons.ks: these folders only, not /usr/local and not /opt."""
        contexts = "/etc/selinux/targeted/contexts/files/file_contexts"
        scripts_run = ["setfiles", "-F", contexts, *RELABELLED]
        configure.run(self.log, scripts_run, SYSROOT)

    def _copy_logs(self) -> None:
        """99-copy-logs.ks."""
        folder = configure.path("/var/log/anaconda")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for source in [*Path("/tmp").glob("*.log"), *Path("/tmp").glob("ks-script-*.log")]:
            shutil.copy(source, folder / source.name)


def main() -> None:
    """Called as the one program of stage 2."""
    boot = BootArguments.parse(Path("/proc/cmdline").read_text())
    version = VERSION_FILE.read_text().strip()
    log = Log(plain_console=not boot.is_set("inst.notmux"))
    power.obey_initctl()
    for what in boot.nosave() & NOSAVE_FILES.keys():
        Path(NOSAVE_FILES[what]).touch()
    _greet(log, version)
    installation = Installation(log, boot, version)
    installation.failure.strike("startup", log)
    try:
        installation.read_kickstart()
    except KickstartProblem as problem:
        _refuse_kickstart(log, problem)
    except ScriptError as error:
        _ask(log, error)
    _guarded(log, installation)
    action = power.exit_action(installation.ksdata.reboot.action)
    log.console({"poweroff": "Powering off.", "reboot": "Rebooting."}.get(action, "Halting."))
    power.finish(action)
    sys.exit(0)


def _greet(log: Log, version: str) -> None:
    log.console("Starting installer, one moment...")
    log.console(f"anaconda 34.25.5.9-1.el9.alma.1 for AlmaLinux {version} started.")
    log.console(" * installation log files are stored in /tmp during the installation")
    log.console(" * shell is available on TTY2")
    log.console(" * when reporting a bug add logs from /tmp as separate text/plain attachments")
    log.info("/sbin/anaconda 34.25.5.9-1.el9.alma.1")
    log.info(f"Kernel command line: {Path('/proc/cmdline').read_text().strip()}")


def _guarded(log: Log, installation: Installation) -> None:
    """Run the installation; whatever fails returns to the exit handler, which acts all the same."""
    try:
        installation.run()
    except ScriptError as error:
        _ask(log, error)
    except NonInteractiveError as error:
        log.critical(traceback.format_exc(), prefix="exception")
        text = (
            "\nThe installation was stopped due to an error which occurred while running in non-interactive cmdline "
            "mode. Since there cannot be any questions in cmdline mode, edit your kickstart file and retry "
            f"installation. \nThe exact error message is: \n\n{error}. \n\nThe installer will now terminate."
        )
        _die(log, installation, text)
    except Exception as error:  # noqa: BLE001 - Anaconda's exception handler takes everything
        log.critical(traceback.format_exc(), prefix="exception")
        report = Path(f"/tmp/anaconda-tb-{os.urandom(4).hex()}")
        report.write_text(traceback.format_exc())
        text = (
            "\nAn unknown error has occured, look at the /tmp/anaconda-tb* file(s) for more details\n"
            "\nRunning in cmdline mode, no interactive debugging allowed.\nThe exact error message is: "
            f"\n\n{error}.\n\nThe installer will now terminate."
        )
        _die(log, installation, text)


def _die(log: Log, installation: Installation, text: str) -> None:
    log.console(text)
    ignore_errors: list[Callable[[], None]] = [
        lambda: scripts.run_scripts(log, installation.ksdata.scripts, scripts.KS_SCRIPT_ONERROR),
        lambda: scripts.run_scripts(log, installation.ksdata.scripts, scripts.KS_SCRIPT_TRACEBACK),
    ]
    for step in ignore_errors:
        try:
            step()
        except Exception as error:  # noqa: BLE001
            log.error(f"Error running a script: {error}", prefix="exception")
    time.sleep(NON_INTERACTIVE_SLEEP)


def _refuse_kickstart(log: Log, problem: KickstartProblem) -> NoReturn:
    """No exit handler is registered yet: Anaconda ends and the machine just sits."""
    log.critical(str(problem), prefix="startup_utils")
    log.console(
        f"\nAn error occurred during reading the kickstart file:\n\n{problem}\nThe installer will now terminate."
    )
    sys.exit(1)


def _ask(log: Log, error: ScriptError) -> NoReturn:
    """A modal dialog, even in cmdline mode: nobody presses the key."""
    log.error(str(error), prefix="errors")
    log.console("=" * 80)
    log.console("Error")
    log.console("")
    log.console(str(error))
    log.console("Press ENTER to exit: ")
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
