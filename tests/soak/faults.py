"""The faults: each bakes once, sees that it ends as it must, and says in a few words what happened."""

from __future__ import annotations

import http.server
import random
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from place import Place, require, sha256

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
    cached = bake.cached()
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
    require(bake.wait_for_stage(stage), f"the bake ended before {stage}:\n{bake.said()}")
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
    return f"killed {delay:.1f} s into {stage}; gc removed {removed} things"


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
    left = [event["text"] for event in bake.events if event["event"] == "text"]
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
    require(not bake.cached()[stage], f"the damaged {stage} was used again")
    require(not bake.cached()["node"], "an overlay of a disk that is gone was used again")
    place.check_image(plan["pack"]["key"])
    return f"64 bytes of {stage}'s disk changed: noticed, made again, good image"


def truncated_download(place: Place, chance: random.Random, last: bool) -> str:
    """The server closes the connection early, each time, and the builder is killed while it tries; then it is mended."""
    whole = place.k3s.read_bytes()
    server = Server(whole, chance.uniform(0.1, 0.9))
    place.forget_image()
    url = f"http://127.0.0.1:{server.port}/k3s#sha256={sha256(place.k3s)}"
    bake = place.bake(place.words(k3s=url))
    try:
        require(server.wait_for(2), f"the download was not tried twice:\n{bake.said()}")
        bake.kill()
        place.collect()
        kept = [path for path in place.cache.glob("inputs/*/*") if path.is_file()]
        require(all(sha256(path) == path.parent.name for path in kept), f"a part counts as the whole: {kept}")
        server.mend()
        bake = place.bake(place.words(k3s=url))
        code = bake.end()
        require(code == 0, f"the bake from a mended server failed ({code}):\n{bake.said()}")
    finally:
        server.stop()
    place.check_image(place.plan()["pack"]["key"])
    return f"cut at {server.cut} of {len(whole)} bytes {server.cuts} times and killed; then {'resumed' if server.resumed else 'fetched'}, good image"


class Server:
    """Serves one file on loopback, cut short until it is mended."""

    def __init__(self, content: bytes, part: float) -> None:
        self.cut = int(len(content) * part)
        self.cuts = 0
        self.resumed = False
        self._mended = False
        self._news = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                begin = 0
                asked = self.headers.get("Range", "")
                if asked.startswith("bytes=") and asked.endswith("-"):
                    begin = min(int(asked[6:-1]), len(content))
                outer.answer(self, content, begin)

            def log_message(self, *_arguments: Any) -> None:
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, handler: http.server.BaseHTTPRequestHandler, content: bytes, begin: int) -> None:
        handler.send_response(206 if begin else 200)
        if begin:
            handler.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - begin))
        handler.send_header("ETag", '"soak"')
        handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        with self._news:
            mended = self._mended
            self.resumed = self.resumed or (mended and begin > 0)
        try:
            handler.wfile.write(content[begin:] if mended else content[begin : max(begin, self.cut)])
            handler.wfile.flush()
        except OSError:
            return
        if not mended:
            handler.close_connection = True
            with self._news:
                self.cuts += 1
                self._news.notify_all()

    def wait_for(self, cuts: int) -> bool:
        with self._news:
            return self._news.wait_for(lambda: self.cuts >= cuts, 300)

    def mend(self) -> None:
        with self._news:
            self._mended = True

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


# What comes up in turns, in an order of the seed's own: kills most of all.
TURNS: list[tuple[str, Fault]] = [
    ("kill -9", kill),
    ("full disk", full_disk),
    ("kill -9", kill),
    ("corrupt cache entry", corrupt_entry),
    ("kill -9", kill),
    ("truncated download", truncated_download),
]
