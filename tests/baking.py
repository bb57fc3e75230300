"""What benchmark and soak share: where they happen, and one run of builder."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
VERSION = "alma9-k3-node-amd64-v1.28.5-v{}"


class Failed(Exception):
    """Something did not do what it must."""


def say(who: str, text: str) -> None:
    print(f"{who}: {time.strftime('%H:%M:%S')} {text}", flush=True)


def require(condition: bool, text: str) -> None:
    if not condition:
        raise Failed(text)


class Line(NamedTuple):
    """Something that was said: how many seconds after the start, and whether on standard error."""

    at: float
    error: bool
    text: str


class Run:
    """One run of builder: what it says as it comes, its end. Nothing of it may take longer than `timeout`."""

    def __init__(self, words: list[str], environment: dict[str, str], timeout: float) -> None:
        self.lines: list[Line] = []
        self._words = words
        self._timeout = timeout
        self._news = threading.Condition()
        self._began = time.monotonic()
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        pipes = [(self.process.stdout, False), (self.process.stderr, True)]
        self._readers = [threading.Thread(target=self._read, args=pipe, daemon=True) for pipe in pipes]
        for reader in self._readers:
            reader.start()

    def _read(self, pipe: Any, error: bool) -> None:
        for line in pipe:
            with self._news:
                self.lines.append(Line(time.monotonic() - self._began, error, line.rstrip("\n")))
                self._news.notify_all()

    def _first(self, what: str, seen: Callable[[str], bool]) -> float | None:
        """Seconds from the start to the first line that is so; nothing if it ended without one."""
        deadline = time.monotonic() + self._timeout
        with self._news:
            while (at := next((line.at for line in self.lines if seen(line.text)), None)) is None:
                if not self.runs() and not any(reader.is_alive() for reader in self._readers):
                    return None
                require(time.monotonic() < deadline, f"{what} did not come within {self._timeout} s:\n{self.said()}")
                self._news.wait(0.5)
        return at

    def wait_for(self, what: str, seen: Callable[[str], bool]) -> float:
        """Seconds from the start to the first line that is so, which must come."""
        at = self._first(what, seen)
        require(at is not None, f"it ended before {what}:\n{self.said()}")
        return at

    def wait_for_event(self, event: str, stage: str) -> float:
        """Seconds from the start to an event of `--json`, which must come."""
        return self.wait_for(f"{stage} {event}", lambda line: is_event(line, event, stage))

    def reaches(self, stage: str) -> bool:
        """Whether the stage begins before the run ends."""
        return self._first(stage, lambda line: is_event(line, "stage-started", stage)) is not None

    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def end(self) -> int:
        """Waits until it ended; its exit code."""
        code = self.process.wait(self._timeout)
        for reader in self._readers:
            reader.join(10)
        return code

    def kill(self) -> None:
        """`kill -9`, unless it has ended."""
        if self.runs():
            self.process.kill()
            self.process.wait()

    def said(self) -> str:
        return "\n".join(line.text for line in self.lines)

    def events(self) -> list[dict[str, Any]]:
        """What it told with `--json`."""
        return [json.loads(line.text) for line in self.lines if line.text.startswith("{")]

    def stages(self) -> dict[str, dict[str, Any]]:
        """The stages that ended, by name."""
        return {event["stage"]: event for event in self.events() if event["event"] == "stage-finished"}


def is_event(line: str, event: str, stage: str) -> bool:
    if not line.startswith("{"):
        return False
    told = json.loads(line)
    return told["event"] == event and told.get("stage") == stage


class Place:
    """Programs, media and directories, all below `.cache/<name>`."""

    def __init__(self, name: str, profile: str) -> None:
        self.home = ROOT / ".cache" / name
        self.out = self.home / "out"
        self.state = self.home / "state"
        self.builder = ROOT / "target" / profile / "builder"
        self.k3s = ROOT / "target/release/standin-k3s"
        self.agent = ROOT / "target/node/agent"
        self.iso = Path()
        self._runs: list[Run] = []

    def make(self, *own: str) -> None:
        """Programs and media, made or found; `own` are cargo's words for builder."""
        self.home.mkdir(parents=True, exist_ok=True)
        for words in (own, ["--profile", "node", "-p", "kiln-agent"], ["--release", "-p", "kiln-tests", "--bin", "standin-k3s"]):
            subprocess.run(["cargo", "build", "--locked", "--quiet", *words], cwd=ROOT, check=True)
        made = subprocess.run([ROOT / "tests/media/build"], check=True, stdout=subprocess.PIPE, text=True)
        self.iso = Path(made.stdout.strip().splitlines()[-1])

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state), "TMPDIR": str(self.home)}

    def bake_words(self, cache: Path, *more: str, release: int = 1, k3s: Path | None = None, iso: str | None = None, smoke: bool = False) -> list[str]:
        """A bake of `-v<release>`."""
        words = [str(self.builder), "bake", "--version", VERSION.format(release), "--no-k3s-selinux"]
        words += ["--iso", iso or str(self.iso), "--k3s", str(k3s or self.k3s), "--agent", str(self.agent)]
        words += ["--out", str(self.out), "--cache", str(cache), *more]
        return words if smoke else [*words, "--no-smoke"]

    def started(self, run: Run) -> None:
        """One that `end` ends."""
        self._runs.append(run)

    def end(self) -> None:
        """Nothing of what failed runs on."""
        for run in self._runs:
            run.kill()
