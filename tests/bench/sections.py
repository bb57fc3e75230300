"""What is measured of builder, one function a section; each returns its rows."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from baking import ROOT, Failed, require
from place import BAKE_TIMEOUT, LOOK_EVERY, Place, Timed, say
from rows import Row, alone, compared

# Seconds that other installations take, which the small ratio is scaled to: the
# stand-in's on a slower machine, and, roughly, a real one.
INSTALLS = (60.0, 300.0)
# The last word of a %post that then fails, on the serial console.
LAST_WORD = "BENCH the script fails now"
# A DVD image's size is several GB; these are added to the stand-in's.
PADDING = 4 << 30
MB = 1e6
# The first of our own scripts' steps in the machines of node and inspect.
OWN_STEPS = ("mounting", "agent install", "reading the image")


def bare_install(iso: Path) -> float:
    """Seconds QEMU runs for the same installation without builder."""
    done = subprocess.run([ROOT / "tests/media/bare-install", iso], check=True, stdout=subprocess.PIPE, text=True, timeout=BAKE_TIMEOUT)
    return float(done.stdout)


def seconds_booting(events: list[dict[str, Any]]) -> float | None:
    """How much of a bake the machines of node and inspect were only starting, where their steps tell it."""
    took = 0.0
    for stage in ("node", "inspect"):
        steps = [(event["at"], event["text"]) for event in events if event["event"] == "step" and event["stage"] == stage]
        began = next((at for at, text in steps if text.startswith("starting the installer")), None)
        # A step that is over within a tenth of a second may not be told.
        began_work = next((at for at, text in steps if text.startswith(OWN_STEPS)), None)
        if began is None or began_work is None:
            return None
        took += began_work - began
    return took


def bake(place: Place, rounds: int) -> list[Row]:
    """One installation against the bare command line's; another k3s; nothing changed."""
    bare: list[float] = []
    install: list[float] = []
    full: list[float] = []
    bump: list[float] = []
    same: list[float] = []
    parts: list[dict[str, float]] = []
    booting: list[float | None] = []

    def without_builder() -> None:
        bare.append(bare_install(place.iso))
        say(f"the bare command line: {bare[-1]:.1f} s")

    def with_builder() -> None:
        place.forget("out", "bake")
        timed = place.bake("bake", 1, "--json")
        install.append(timed.wait_for_event("stage-finished", "os"))
        full.append(place.ended(timed))
        parts.append({name: stage["seconds"] for name, stage in timed.stages().items()})
        told = ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts[-1].items())
        say(f"builder: {install[-1]:.1f} s until installed, {full[-1]:.1f} s in all ({told})")

    for number in range(rounds):
        # Neither is always the first.
        turns = [without_builder, with_builder]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
        other = place.other_k3s(number)
        timed = place.bake("bake", 2, "--json", k3s=other)
        bump.append(place.ended(timed))
        booting.append(seconds_booting(timed.events()))
        stages = timed.stages()
        require(stages["os"]["cached"] and not stages["node"]["cached"], f"not what another k3s runs: {stages}")
        again = place.bake("bake", 2, "--json", k3s=other)
        same.append(place.ended(again))
        require(all(stage["cached"] for name, stage in again.stages().items() if name != "inputs"), "something ran again")
        say(f"another k3s: {bump[-1]:.1f} s ({bump[-1] / full[-1]:.2f}); nothing changed: {same[-1] * 1000:.0f} ms")

    without_smoke = "baked without the smoke stage, which is the same in both"
    told = [seconds for seconds in booting if seconds is not None]
    starting = f", and {median(told):.0f} s of it are two machines starting the installer" if told else ""
    minute, longer = (median([one / (one + seconds) for one in bump]) for seconds in INSTALLS)
    return [
        compared(
            "bake", "installation", "s", install, "bare QEMU command line", bare, 1.05,
            "ours from builder's start to the stored result of `os`: the inputs' digests, the volume with the kickstart, the machine and "
            "bringing the disk to the host's disk are in it; the peer's is QEMU's run alone, with the same machine, medium and packages",
        ),
        compared(
            "bake", "another k3s, `os` cached", "s", bump, "full bake", full, 0.35,
            f"{without_smoke}; node, pack and inspect run{starting}. With an installation of a minute instead of {median(install):.0f} s the ratio would be "
            f"{minute:.2f}, with one of five minutes {longer:.2f}: computed from these numbers and not measured",
        ),
        compared("bake", "nothing changed", "s", same, "full bake", full, 0.01, without_smoke),
        alone("bake", "nothing changed, by itself", "ms", [seconds * 1000 for seconds in same], 300),
        *(alone("bake", f"stage {name}", "s", [one[name] for one in parts], None) for name in parts[0]),
    ]


def pack(place: Place, rounds: int) -> list[Row]:
    """Our packed disk against `qemu-img convert -c` of the same disk."""
    times: list[tuple[float, float]] = []
    sizes: list[tuple[float, float]] = []
    if not list(place.home.glob("bake/stages/node/*/disk.qcow2")):
        say("a bake to have a disk to pack")
        place.ended(place.bake("bake", 1, "--json"))
    for number in range(rounds):
        place.forget("out")
        timed = place.bake("bake", 1, "--json")
        began = timed.wait_for_event("stage-started", "pack")
        took = timed.wait_for_event("stage-finished", "pack") - began
        # Where it is made, or under its name already; pathlib's * is for hidden names too.
        [packed] = (place.home / "out").glob("*/disk.qcow2")
        size = packed.stat().st_size
        timed.interrupt()
        # The node's disk that went into it, and the copy QEMU's own default makes of it.
        [disk] = [record.parent / "disk.qcow2" for record in place.home.glob("bake/stages/node/*/result.json") if is_of(record, 1)]
        target = place.home / "zlib.qcow2"
        began = time.monotonic()
        subprocess.run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, target], check=True)
        times.append((took, time.monotonic() - began))
        sizes.append((size / MB, target.stat().st_size / MB))
        target.unlink()
        say(f"pack {number + 1}: {times[-1][0]:.2f} s and {sizes[-1][0]:.1f} MB, zlib {times[-1][1]:.2f} s and {sizes[-1][1]:.1f} MB")
    peer = "`qemu-img convert -c` (zlib)"
    note = "ours is the whole stage: bringing the file to the disk and reading it back for its digest are in it"
    return [
        compared("pack", "time", "s", [ours for ours, _ in times], peer, [theirs for _, theirs in times], 0.30, note),
        compared("pack", "size", "MB", [ours for ours, _ in sizes], peer, [theirs for _, theirs in sizes], 1.02),
    ]


def is_of(record: Path, release: int) -> bool:
    """Whether a result in the cache was made for `-v<release>`."""
    return bool(json.loads(record.read_text())["version"].endswith(f"-v{release}"))


def failure(place: Place, rounds: int) -> list[Row]:
    """How soon a person is told."""
    post = place.kickstart("post", "grub2-install --target", f"echo {LAST_WORD!r} >/dev/ttyS0; false; grub2-install --target")
    syntax = place.kickstart("syntax", "bootloader ", "bootlaoder ")
    from_script: list[float] = []
    from_syntax: list[float] = []
    for number in range(rounds):
        place.forget("out", "failure")
        timed = place.bake("failure", 1, "--kickstart", str(post))
        failed = word_on_the_console(place.home / "failure", timed)
        told = timed.wait_for("the error", lambda line: "(post-script)" in line)
        place.ended(timed, 1)
        from_script.append(told - failed)
        place.forget("out", "failure")
        timed = place.bake("failure", 1, "--kickstart", str(syntax))
        from_syntax.append(timed.wait_for("the error", lambda line: "(ks-parse)" in line))
        place.ended(timed, 1)
        say(f"failure {number + 1}: {from_script[-1]:.1f} s after the %post failed; {from_syntax[-1]:.1f} s after builder was started with the syntax error")
    return [
        alone("failure", "a %post that fails: until the error is on the terminal", "s", from_script, 10, "from the failing command's own last word on the serial console"),
        alone(
            "failure", "a kickstart with a syntax error: until the error is on the terminal", "s", from_syntax, 60,
            "from builder's start with an empty cache; the installer boots and reads the kickstart in that time",
        ),
    ]


def word_on_the_console(cache: Path, timed: Timed) -> float:
    """Seconds from the start until the guest said that it fails now."""
    deadline = time.monotonic() + BAKE_TIMEOUT
    while time.monotonic() < deadline:
        logs = list(cache.glob("tmp/*/os/machine/serial.log"))
        at = timed.now()
        # The kickstart itself is on no console, so the word is there only once.
        if logs and LAST_WORD.encode() in read(logs[0]):
            return at
        require(timed.runs(), f"it ended before its %post failed:\n{timed.said()}")
        time.sleep(LOOK_EVERY)
    raise Failed(f"no %post within {BAKE_TIMEOUT} s:\n{timed.said()}")


def read(path: Path) -> bytes:
    """A file that may go at any moment."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def memory(place: Place, rounds: int) -> list[Row]:
    """The most memory builder itself takes, with a small medium and with a large one."""
    place.forget("out", "memory")
    place.peak_bytes = 0
    place.ended(place.bake("memory", 1, "--json"))
    small = place.peak_bytes
    say(f"memory: {small / MB:.1f} MB at most with a medium of {place.iso.stat().st_size / MB:.0f} MB")
    large = place.home / "media/large.iso"
    large.parent.mkdir()
    with place.iso.open("rb") as source, large.open("wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
        target.truncate(target.tell() + PADDING)
    size = large.stat().st_size
    place.forget("out", "memory")
    place.peak_bytes = 0
    with served(large.parent) as url:
        place.ended(place.bake("memory", 1, "--json", iso=f"{url}/large.iso"))
    large.unlink()
    place.forget("out", "memory")
    say(f"memory: {place.peak_bytes / MB:.1f} MB at most with a medium of {size / MB:.0f} MB, downloaded")
    note = "VmHWM of builder's process over one whole bake, QEMU not in it"
    return [
        alone("memory", f"peak, medium of {place.iso.stat().st_size / MB:.0f} MB by path", "MB", [small / MB], 64, note),
        alone("memory", f"peak, medium of {size / 1e9:.1f} GB by URL", "MB", [place.peak_bytes / MB], 64, f"{note}; the same medium, padded, downloaded and hashed"),
    ]


class served:  # noqa: N801 - reads as what it does, in a `with`
    """A directory, over HTTP on this host."""

    def __init__(self, directory: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()



def coordinator(_place: Place, _rounds: int) -> list[Row]:
    """What tests/src/bin/bench-coordinator.rs measures; it sets its own rounds."""
    if not (ROOT / "tests/src/bin/bench-coordinator.rs").exists():
        say("this tree has no bench-coordinator: its section stays as it was")
        return []
    subprocess.run(["cargo", "build", "--locked", "--quiet", "--release", "-p", "kiln-tests", "--bin", "bench-coordinator"], cwd=ROOT, check=True)
    process = subprocess.Popen([ROOT / "target/release/bench-coordinator"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    rows: list[Row] = []
    for line in process.stdout:
        if line.startswith("{"):
            rows.append(json.loads(line))
            say(f"coordinator: {rows[-1]['name']}: {rows[-1].get('ours')} {rows[-1].get('ours_unit') or ''}")
    require(process.wait() == 0, f"bench-coordinator ended with {process.returncode}")
    return rows


# In the order in which they are run: pack finds bake's disk in the cache.
SECTIONS: dict[str, Callable[[Place, int], list[Row]]] = {
    "bake": bake,
    "pack": pack,
    "failure": failure,
    "memory": memory,
    "coordinator": coordinator,
}
# What is measured once, however many rounds are asked for: it does not vary.
ONCE = ("memory", "coordinator")
