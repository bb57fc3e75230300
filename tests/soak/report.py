"""docs/soak.md: what was done, with the seed that does it again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any


def write_report(path: Path, seed: int, bakes: list[dict[str, Any]]) -> None:
    faults: dict[str, int] = {}
    for bake in bakes:
        faults[bake["fault"]] = faults.get(bake["fault"], 0) + 1
    counted = ", ".join(f"{count} × {name}" for name, count in sorted(faults.items()))
    rows = "".join(f"| {bake['bake']} | {bake['fault']} | {bake['what']} | {bake['seconds']:.0f} s | {bake['load']:.0f} |\n" for bake in bakes)
    seconds = sum(bake["seconds"] for bake in bakes)
    path.write_text(
        "# Bakes with faults injected\n\n"
        f"The last result of `make soak`, {time.strftime('%Y-%m-%d')}: {len(bakes)} bakes in a row over one cache "
        f"({counted}), {seconds / 60:.0f} minutes under TCG on a machine that did other things too. After every bake "
        "no process, working file, lock or record was left once `builder gc` had run, and every result in the cache "
        "had the digest its record says and was a sound qcow2; every good bake's image was of exactly the inputs that "
        "were given.\n\n"
        f"The same faults at the same places again: `tests/soak/run --count {len(bakes)} --seed {seed}`. A kill's "
        "moment is so many seconds after the stage began; what the machine was at then depends on its speed.\n\n"
        "| bake | fault | what happened | took | load |\n|---|---|---|---|---|\n" + rows,
        encoding="utf-8",
    )
