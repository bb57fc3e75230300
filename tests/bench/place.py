"""Where a benchmark happens: its directories, and one timed bake."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import baking
from baking import require

# The machine of tests/media/bare-install, so that both install on the same one.
MACHINE = ["--cpus", "2", "--memory", "2GiB", "--disk-size", "8GiB", "--accel", "tcg"]
# No bake of the stand-in media takes nearly as long.
BAKE_TIMEOUT = 1200
# How often a process or file is looked at: far below what is measured so.
LOOK_EVERY = 0.01

say = partial(baking.say, "bench")


class Timed(baking.Run):
    """One run of builder, and how much memory it took at most."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        super().__init__(words, environment, BAKE_TIMEOUT)
        self.peak_bytes = 0
        self._memory = threading.Thread(target=self._watch_memory, daemon=True)
        self._memory.start()

    def _watch_memory(self) -> None:
        """VmHWM never falls: the last look before the end counts. (Linux's ru_maxrss
        would not do: it begins with what the parent had when it forked.)"""
        status = Path(f"/proc/{self.process.pid}/status")
        while self.runs():
            try:
                found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            except OSError:
                return
            if found:
                self.peak_bytes = max(self.peak_bytes, int(found[0].split()[1]) * 1024)
            time.sleep(LOOK_EVERY)

    def ended_with(self, code: int) -> float:
        """Waits until it ended, as it must; seconds from the start."""
        ended = self.process.wait(BAKE_TIMEOUT)
        took = self.now()
        self.end()
        self._memory.join(10)
        require(ended == code, f"{' '.join(self._words)}\nended with {ended}, not {code}:\n{self.said()}")
        return took

    def interrupt(self) -> None:
        """Ctrl-C, unless it is done: it cleans up after itself."""
        self.process.send_signal(signal.SIGINT)
        ended = self.end()
        require(ended in (0, 130), f"interrupted it ended with {ended}:\n{self.said()}")

    def now(self) -> float:
        """Seconds from the start."""
        return time.monotonic() - self._began


class Place(baking.Place):
    """The directories and programs of one benchmark, below `.cache/bench`."""

    def __init__(self) -> None:
        super().__init__("bench", "release")
        # The most memory any builder took, in bytes.
        self.peak_bytes = 0

    def prepare(self) -> None:
        """Programs and media, made or found."""
        shutil.rmtree(self.home, ignore_errors=True)
        say("building what is measured")
        self.make("--release", "-p", "kiln-builder", "-p", "kiln-coordinator")

    def bake(self, cache: str, release: int, *more: str, k3s: Path | None = None, iso: str | None = None, smoke: bool = False) -> Timed:
        """Starts a bake of `-v<release>` with a cache of this name."""
        words = self.bake_words(self.home / cache, *MACHINE, *more, release=release, k3s=k3s, iso=iso, smoke=smoke)
        timed = Timed(words, self.environment())
        self.started(timed)
        return timed

    def ended(self, timed: Timed, code: int = 0) -> float:
        """Waits for a bake's end; its seconds."""
        took = timed.ended_with(code)
        self.peak_bytes = max(self.peak_bytes, timed.peak_bytes)
        return took

    def other_k3s(self, number: int) -> Path:
        """The same program, another file: what is after an ELF's sections is not looked at."""
        path = self.home / f"k3s-{number}"
        shutil.copy(self.k3s, path)
        with path.open("ab") as file:
            file.write(f"another {number}\n".encode())
        return path

    def kickstart(self, name: str, old: str, new: str) -> Path:
        """The os stage's own kickstart, changed in one place."""
        template = subprocess.run([self.builder, "kickstart", "os", "--template"], check=True, stdout=subprocess.PIPE, text=True).stdout
        require(old in template, f"the kickstart has no {old!r}")
        path = self.home / f"{name}.ks"
        path.write_text(template.replace(old, new, 1))
        return path

    def forget(self, *names: str) -> None:
        """Removes directories of this place, `out` or a cache."""
        for name in names:
            shutil.rmtree(self.home / name, ignore_errors=True)

    def end(self) -> None:
        """Nothing runs on, nothing is left."""
        super().end()
        shutil.rmtree(self.home, ignore_errors=True)


def machine() -> str:
    """This machine in general terms."""
    version = subprocess.run(["qemu-system-x86_64", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    release = version.split("version ")[1].split()[0]
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {memory:.0f} GiB of memory, QEMU {release} under TCG, load {os.getloadavg()[0]:.1f} when it began"


if __name__ == "__main__":
    sys.exit("run tests/bench/run")
