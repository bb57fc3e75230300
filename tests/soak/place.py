"""Where a soak happens: its cache, state and output, and what must be true of them after every bake."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import baking
from baking import VERSION, Run, require

# A bake under emulation on a machine that does other things too.
BAKE_TIMEOUT = 3000
# A killed builder's machines end with it; the kernel may be busy.
GONE_WITHIN = 15

say = partial(baking.say, "soak")


class Place(baking.Place):
    """The directories of one soak, below `.cache/soak`."""

    def __init__(self) -> None:
        super().__init__("soak", "debug")
        self.cache = self.home / "cache"

    def begin_anew(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    def prepare(self) -> None:
        """Programs and media, made or found."""
        self.make("-p", "kiln-builder")

    def words(self, *more: str, iso: str | None = None, smoke: bool = False) -> list[str]:
        return self.bake_words(self.cache, "--accel", "tcg", "--json", *more, iso=iso, smoke=smoke)

    def bake(self, words: list[str]) -> Run:
        run = Run(words, self.environment(), BAKE_TIMEOUT)
        self.started(run)
        return run

    def plan(self, *more: str) -> dict[str, dict[str, Any]]:
        """What builder would do, by stage."""
        done = subprocess.run([*self.words(*more), "--explain"], env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=600)
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
        image = self.out / VERSION.format(1)
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
