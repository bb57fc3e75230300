"""Where a soak happens: its cache, state and output, and what must be true of them after every bake."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VERSION = "alma9-k3-node-amd64-v1.28.5-v1"
# A bake under emulation on a machine that does other things too.
BAKE_TIMEOUT = 3000
# A killed builder's machines end with it; the kernel may be busy.
GONE_WITHIN = 15


class SoakError(Exception):
    """Something was left behind, wrongly reused, or did not end as it must."""


def say(text: str) -> None:
    print(f"soak: {time.strftime('%H:%M:%S')} {text}", flush=True)


def require(condition: bool, text: str) -> None:
    if not condition:
        raise SoakError(text)


class Bake:
    """One run of builder: its events as they come, its end."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._stderr: list[str] = []
        self._readers = [threading.Thread(target=self._read_events, daemon=True), threading.Thread(target=self._read_errors, daemon=True)]
        for reader in self._readers:
            reader.start()

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.events.append(json.loads(line) if line.startswith("{") else {"event": "text", "text": line.strip()})
                self._news.notify_all()
        with self._news:
            self.events.append({"event": "end"})
            self._news.notify_all()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._stderr.extend(self.process.stderr)

    def wait_for_stage(self, stage: str) -> bool:
        """Whether the stage began before the bake ended."""
        def seen() -> bool:
            return any(event["event"] == "end" or (event["event"] == "stage-started" and event["stage"] == stage) for event in self.events)

        with self._news:
            require(self._news.wait_for(seen, BAKE_TIMEOUT), f"{stage} was not reached within {BAKE_TIMEOUT} s")
        return any(event["event"] == "stage-started" and event["stage"] == stage for event in self.events)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def end(self) -> int:
        code = self.process.wait(BAKE_TIMEOUT)
        for reader in self._readers:
            reader.join(10)
        return code

    def said(self) -> str:
        return "".join(self._stderr) + "\n".join(json.dumps(event) for event in self.events)

    def cached(self) -> dict[str, bool]:
        return {event["stage"]: event["cached"] for event in self.events if event["event"] == "stage-finished"}


class Place:
    """The directories of one soak, below `.cache/soak`."""

    def __init__(self) -> None:
        self.root = ROOT
        self.home = ROOT / ".cache/soak"
        self.cache = self.home / "cache"
        self.out = self.home / "out"
        self.state = self.home / "xdg"
        self.builder = ROOT / "target/debug/builder"
        self.k3s = ROOT / "target/release/standin-k3s"
        self.agent = ROOT / "target/node/agent"
        self.iso = Path()
        self._bake: Bake | None = None

    def begin_anew(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def prepare(self) -> None:
        """Programs and media, made or found."""
        self.home.mkdir(parents=True, exist_ok=True)
        for words in (["-p", "kiln-builder"], ["--profile", "node", "-p", "kiln-agent"], ["--release", "-p", "kiln-tests", "--bin", "standin-k3s"]):
            subprocess.run(["cargo", "build", "--locked", "--quiet", *words], cwd=self.root, check=True)
        made = subprocess.run([self.root / "tests/media/build"], check=True, stdout=subprocess.PIPE, text=True)
        self.iso = Path(made.stdout.strip().splitlines()[-1])

    def environment(self) -> dict[str, str]:
        return {**os.environ, "XDG_STATE_HOME": str(self.state), "TMPDIR": str(self.home)}

    def words(self, *more: str, k3s: str | None = None, iso: str | None = None, smoke: bool = False) -> list[str]:
        words = [str(self.builder), "bake", "--version", VERSION, "--accel", "tcg", "--json", "--no-k3s-selinux"]
        words += ["--iso", iso or str(self.iso), "--k3s", k3s or str(self.k3s), "--agent", str(self.agent)]
        words += ["--out", str(self.out), "--cache", str(self.cache)]
        return words + ([] if smoke else ["--no-smoke"]) + list(more)

    def bake(self, words: list[str]) -> Bake:
        self._bake = Bake(words, self.environment())
        return self._bake

    def end(self) -> None:
        """Nothing of a soak that failed runs on."""
        if self._bake is not None and self._bake.process.poll() is None:
            self._bake.kill()

    def plan(self, *more: str) -> dict[str, dict[str, Any]]:
        """What builder would do, by stage."""
        words = [word for word in self.words(*more) if word != "--json"]
        done = subprocess.run([*words, "--explain", "--json"], env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
        require(done.returncode == 0, f"--explain failed: {done.stderr}")
        return {stage["stage"]: stage for stage in json.loads(done.stdout)["stages"]}

    def forget_image(self) -> None:
        shutil.rmtree(self.out, ignore_errors=True)

    def collect(self) -> str:
        """`builder gc --yes`."""
        words = [str(self.builder), "gc", "--yes", "--cache", str(self.cache)]
        done = subprocess.run(words, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
        require(done.returncode == 0, f"builder gc failed: {done.stdout}")
        return done.stdout

    def processes(self) -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if int(entry.name) != os.getpid() and str(self.home) in command:
                found.append(f"{entry.name} {command}")
        return found

    def check_clean(self) -> None:
        """No process, no working file, no lock, no record of a run."""
        deadline = time.monotonic() + GONE_WITHIN
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        require(not self.processes(), f"still running: {self.processes()}")
        left = [*self.cache.glob("tmp/*"), *self.cache.glob("locks/*"), *self.state.glob("kiln/runs/*"), *self.out.glob(".*")]
        left += list(self.home.glob("tmp*"))
        require(not left, f"left behind: {[str(path) for path in left]}")

    def check_cache(self) -> None:
        """Every result in the cache is whole: what its record says, and a sound qcow2."""
        digests = {}
        for entry in sorted([*self.cache.glob("stages/os/*"), *self.cache.glob("stages/node/*")]):
            record = json.loads((entry / "result.json").read_text())
            disk = entry / "disk.qcow2"
            digest = sha256(disk)
            require(digest == record["sha256"], f"{disk} is not what its record says")
            digests[digest] = disk
            checked = subprocess.run(["qemu-img", "check", "-q", disk], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            require(checked.returncode == 0, f"{disk}: {checked.stdout}")

    def check_image(self, expected_key: str) -> None:
        """The finished image is whole, and of exactly the inputs it should be of."""
        image = self.out / VERSION
        manifest = json.loads((image / "manifest.json").read_text())
        require(manifest["content_key"] == expected_key, "the image is of other inputs than were asked for")
        for name, path in (("iso", self.iso), ("k3s", self.k3s), ("agent", self.agent)):
            require(manifest["inputs"][name]["sha256"] == sha256(path), f"the image is of another {name}")
        summed = subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=image, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        require(summed.returncode == 0, f"SHA256SUMS: {summed.stdout}")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit("run tests/soak/run")
