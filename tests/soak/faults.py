"""The faults: each bakes once, sees that it ends as it must, and says in a few words what happened."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Callable

from baking import Run, require
from mirror import CuttingMirror
from place import Place, sha256

Fault = Callable[..., str]
# A stage's moments are drawn from so many seconds after its begin: longer than
# the stage takes on an idle machine, so that a kill may also come too late.
MOMENTS = {"inputs": 1.0, "os": 60.0, "node": 25.0, "pack": 4.0, "smoke": 60.0}


def good(place: Place, _chance: random.Random, last: bool) -> str:
    """No fault: what can be used again is, and the image is right."""
    place.forget_image()
    plan = place.plan()
    bake = place.bake(place.words(smoke=last))
    code = bake.end()
    require(code == 0, f"a good bake failed ({code}):\n{bake.said()}")
    cached = used_again(bake)
    for stage in ("os", "node"):
        expected = plan[stage]["action"] == "reuse"
        require(cached[stage] == expected, f"{stage} was {'' if cached[stage] else 'not '}used again, --explain said otherwise")
    place.check_image(plan["pack"]["key"])
    reused = [stage for stage in ("os", "node") if cached[stage]]
    return f"good image; used again: {', '.join(reused) or 'nothing'}" + ("; its clones became a cluster" if last else "")


def kill(place: Place, chance: random.Random, last: bool) -> str:
    """`kill -9` at a random moment of a random stage."""
    stage = chance.choice(list(MOMENTS))
    delay = chance.uniform(0, MOMENTS[stage])
    if stage in ("os", "node"):
        # Results that are there would be used again.
        forget(place, ["os", "node"] if stage == "os" else ["node"])
    place.forget_image()
    bake = place.bake(place.words(smoke=stage == "smoke"))
    require(bake.reaches(stage), f"the bake ended before {stage}:\n{bake.said()}")
    try:
        bake.process.wait(delay)
    except subprocess.TimeoutExpired:
        # It still runs, as it should.
        bake.kill()
    late = bake.process.returncode == 0
    text = place.collect()
    removed = sum(1 for line in text.splitlines() if line.startswith("  "))
    if late:
        return f"killed too late: done {delay:.1f} s after {stage} began"
    return f"killed {delay:.1f} s into {stage}; gc removed {removed} thing{'' if removed == 1 else 's'}"


def used_again(bake: Run) -> dict[str, bool]:
    """The stages that ended, and whether their result was there."""
    return {name: stage["cached"] for name, stage in bake.stages().items()}


def forget(place: Place, stages: list[str]) -> None:
    """As `builder cache prune` would."""
    for stage in stages:
        shutil.rmtree(place.cache / "stages" / stage, ignore_errors=True)


def full_disk(place: Place, chance: random.Random, last: bool) -> str:
    """The output's file system is too small: in a mount namespace of its own."""
    size = chance.randrange(2, 60)
    place.forget_image()
    place.out.mkdir(parents=True)
    # What is left on it is listed before it goes with its namespace.
    script = f'mount -t tmpfs -o size={size}m small "$0" && "$@"; code=$?; find "$0" -mindepth 1; exit $code'
    bake = place.bake(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, str(place.out), *place.words()])
    code = bake.end()
    require(code == 1, f"a bake onto {size} MiB ended with {code}:\n{bake.said()}")
    require("no space left" in bake.said().lower(), f"nobody said that the disk is full:\n{bake.said()}")
    left = [line.text for line in bake.lines if not line.error and not line.text.startswith("{")]
    require(not left, f"left on the full disk: {left}")
    return f"{size} MiB for the output: refused with its reason, nothing left on it"


def corrupt_entry(place: Place, chance: random.Random, last: bool) -> str:
    """Some bytes of a result in the cache are changed; its size and record stay."""
    disks = sorted([*place.cache.glob("stages/os/*/disk.qcow2"), *place.cache.glob("stages/node/*/disk.qcow2")])
    if not disks:
        place.forget_image()
        require(place.bake(place.words()).end() == 0, "a bake to have something to damage failed")
        disks = sorted([*place.cache.glob("stages/os/*/disk.qcow2"), *place.cache.glob("stages/node/*/disk.qcow2")])
    disk = chance.choice(disks)
    stage = disk.parent.parent.name
    before = sha256(disk)
    with disk.open("r+b") as file:
        file.seek(chance.randrange(disk.stat().st_size - 64))
        file.write(chance.randbytes(64))
    require(sha256(disk) != before, "nothing was changed")
    place.forget_image()
    plan = place.plan()
    require(plan[stage]["action"] == "run", f"--explain would use the damaged {stage} again")
    bake = place.bake(place.words())
    code = bake.end()
    require(code == 0, f"the bake over a damaged {stage} failed ({code}):\n{bake.said()}")
    require(not used_again(bake)[stage], f"the damaged {stage} was used again")
    require(not used_again(bake)["node"], "an overlay of a disk that is gone was used again")
    place.check_image(plan["pack"]["key"])
    return f"64 bytes of {stage}'s disk changed: noticed, made again, good image"


def truncated_download(place: Place, chance: random.Random, last: bool) -> str:
    """The mirror of the install medium cuts connections in the middle of the file."""
    whole = place.iso.stat().st_size
    cuts = sorted(int(whole * chance.uniform(0.02, 0.98)) for _ in range(chance.randint(1, 3)))
    dead = chance.random() < 0.5
    place.forget_image()
    plan = place.plan()
    with CuttingMirror(place.iso, cuts, dead) as mirror:
        if dead:
            bake = place.bake(place.words("--download-tries", "2", iso=mirror.url))
            code = bake.end()
            require(code == 1, f"a mirror that gives no more ended with {code}:\n{bake.said()}")
            require(mirror.url in bake.said(), f"nobody said which place failed:\n{bake.said()}")
            require(not list(place.out.glob("*")), "something was made from half a medium")
            mirror.heal()
        served = len(mirror.transfers)
        bake = place.bake(place.words(iso=mirror.url))
        code = bake.end()
        require(code == 0, f"the bake from a mirror that cuts connections failed ({code}):\n{bake.said()}")
        transfers = mirror.transfers
    # Nothing is asked for twice but what a reset may have taken with it.
    for before, after in zip(transfers, transfers[1:]):
        lost = before.last - after.first
        require(lost == 0 if before.ended == "closed" else 0 <= lost < before.last, f"not continued where it was cut: {transfers}")
    require(not dead or transfers[served].first > 0, f"begun anew after a failure: {transfers}")
    require(transfers[-1].ended == "whole" and len(transfers) > len(cuts), f"not cut, or not whole: {transfers}")
    require(not list(place.cache.glob("partials/*")), "half a download is left beside the whole one")
    [kept] = place.cache.glob(f"inputs/*/{place.iso.name}")
    require(sha256(kept) == sha256(place.iso), "what was put together is not the medium")
    place.check_image(plan["pack"]["key"])
    where = ", ".join(f"{100 * cut // whole} %" for cut in cuts)
    told = "given up, the next bake continued it" if dead else "continued"
    return f"connection cut at {where} of the ISO: {told}, good image"


# What comes up in turns, in an order of the seed's own: kills most of all.
TURNS: list[tuple[str, Fault]] = [
    ("kill -9", kill),
    ("full disk", full_disk),
    ("kill -9", kill),
    ("corrupt cache entry", corrupt_entry),
    ("kill -9", kill),
    ("truncated download", truncated_download),
]
