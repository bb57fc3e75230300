"""Where a benchmark happens: programs, media, directories; and one timed call of builder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VERSION = "alma9-k3-node-amd64-v1.28.5-v{}"
# The machine of tests/media/bare-install, so that both install on the same one.
MACHINE = ["--cpus", "2", "--memory", "2GiB", "--disk-size", "8GiB", "--accel", "tcg"]
# No bake of the stand-in media takes nearly as long.
BAKE_TIMEOUT = 1200
# How often a process or file is looked at: far below what is measured so.
LOOK_EVERY = 0.01


class BenchError(Exception):
    """Something did not do what is to be measured."""


def say(text: str) -> None:
    print(f"bench: {time.strftime('%H:%M:%S')} {text}", flush=True)


def require(condition: bool, text: str) -> None:
    if not condition:
        raise BenchError(text)


class Timed:
    """One run of builder: when it said what, when it ended, how much memory it took at most."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.peak_bytes = 0
        self._words = words
        self._news = threading.Condition()
        self._began = time.monotonic()
        self._process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._threads = [threading.Thread(target=self._read, args=[pipe], daemon=True) for pipe in (self._process.stdout, self._process.stderr)]
        self._threads.append(threading.Thread(target=self._watch_memory, daemon=True))
        for thread in self._threads:
            thread.start()

    def _read(self, pipe: Any) -> None:
        for line in pipe:
            with self._news:
                self.lines.append((time.monotonic() - self._began, line.rstrip("\n")))
                self._news.notify_all()

    def _watch_memory(self) -> None:
        """VmHWM never falls: the last look before the end counts. (Linux's ru_maxrss
        would not do: it begins with what the parent had when it forked.)"""
        status = Path(f"/proc/{self._process.pid}/status")
        while self._process.poll() is None:
            try:
                found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
            except OSError:
                return
            if found:
                self.peak_bytes = max(self.peak_bytes, int(found[0].split()[1]) * 1024)
            time.sleep(LOOK_EVERY)

    def wait_for(self, what: str, seen: Callable[[str], bool]) -> float:
        """Seconds from the start to the first line that is so."""

        def found() -> float | None:
            return next((at for at, line in self.lines if seen(line)), None)

        deadline = time.monotonic() + BAKE_TIMEOUT
        with self._news:
            while (at := found()) is None:
                ended = self._process.poll() is not None and not any(thread.is_alive() for thread in self._threads)
                require(not ended, f"it ended before {what}:\n{self.said()}")
                require(time.monotonic() < deadline, f"{what} did not come within {BAKE_TIMEOUT} s:\n{self.said()}")
                self._news.wait(0.5)
        return at

    def wait_for_event(self, event: str, stage: str) -> float:
        """Seconds from the start to an event of `--json`."""

        def seen(line: str) -> bool:
            if not line.startswith("{"):
                return False
            told = json.loads(line)
            return told["event"] == event and told.get("stage") == stage

        return self.wait_for(f"{stage} {event}", seen)

    def end(self, code: int) -> float:
        """Waits until it ended, as it must; seconds from the start."""
        ended = self._process.wait(BAKE_TIMEOUT)
        took = time.monotonic() - self._began
        for thread in self._threads:
            thread.join(10)
        require(ended == code, f"{' '.join(self._words)}\nended with {ended}, not {code}:\n{self.said()}")
        return took

    def interrupt(self) -> None:
        """Ctrl-C, unless it is done: it cleans up after itself."""
        self._process.send_signal(signal.SIGINT)
        ended = self._process.wait(BAKE_TIMEOUT)
        require(ended in (0, 130), f"interrupted it ended with {ended}:\n{self.said()}")

    def now(self) -> float:
        """Seconds from the start."""
        return time.monotonic() - self._began

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def kill(self) -> None:
        """For a benchmark that failed: nothing of it runs on."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def said(self) -> str:
        return "\n".join(line for _, line in self.lines[-40:])

    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages that ended, by name."""
        return {event["stage"]: event for event in self.events() if event["event"] == "stage-finished"}

    def events(self) -> list[dict[str, Any]]:
        """What it told with `--json`."""
        return [json.loads(line) for _, line in self.lines if line.startswith("{")]


class Place:
    """The directories and programs of one benchmark, below `.cache/bench`."""

    def __init__(self) -> None:
        self.home = ROOT / ".cache/bench"
        self.builder = ROOT / "target/release/builder"
        self.k3s = ROOT / "target/release/standin-k3s"
        self.agent = ROOT / "target/node/agent"
        self.iso = Path()
        # The most memory any builder took, in bytes.
        self.peak_bytes = 0
        self._running: list[Timed] = []

    def prepare(self) -> None:
        """Programs and media, made or found."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        say("building what is measured")
        for words in (
            ["--release", "-p", "kiln-builder", "-p", "kiln-coordinator"],
            ["--profile", "node", "-p", "kiln-agent"],
            ["--release", "-p", "kiln-tests", "--bin", "standin-k3s"],
        ):
            subprocess.run(["cargo", "build", "--locked", "--quiet", *words], cwd=ROOT, check=True)
        made = subprocess.run([ROOT / "tests/media/build"], check=True, stdout=subprocess.PIPE, text=True)
        self.iso = Path(made.stdout.strip().splitlines()[-1])

    def bake(self, cache: str, release: int, *more: str, k3s: Path | None = None, iso: str | None = None, smoke: bool = False) -> Timed:
        """Starts a bake of `-v<release>` with a cache of this name."""
        words = [str(self.builder), "bake", "--version", VERSION.format(release), "--iso", iso or str(self.iso), "--k3s", str(k3s or self.k3s), "--no-k3s-selinux"]
        words += ["--agent", str(self.agent), "--out", str(self.home / "out"), "--cache", str(self.home / cache), *MACHINE, *more]
        if not smoke:
            words.append("--no-smoke")
        environment = {**os.environ, "XDG_STATE_HOME": str(self.home / "state"), "TMPDIR": str(self.home)}
        timed = Timed(words, environment)
        self._running.append(timed)
        return timed

    def ended(self, timed: Timed, code: int = 0) -> float:
        """Waits for a bake's end; its seconds."""
        took = timed.end(code)
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
        for timed in self._running:
            timed.kill()
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
