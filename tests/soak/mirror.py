"""A mirror that cuts connections in the middle of a file, over real HTTP."""

from __future__ import annotations

import http.server
import re
import socket
import struct
import threading
from dataclasses import dataclass
from pathlib import Path

PIECE = 64 << 10
TAG = '"the-only-content"'


@dataclass
class Transfer:
    """One answer: from which byte on, up to which, and how its connection ended."""

    first: int
    last: int
    ended: str


class CuttingMirror:
    """Serves one file, ranges included. Each transfer is cut at the first of `cuts` (offsets
    in the file) beyond its begin; `dead`, it then gives no byte more until it is `heal`ed."""

    def __init__(self, file: Path, cuts: list[int], dead: bool = False) -> None:
        self.file = file
        self.transfers: list[Transfer] = []
        self._cuts = sorted(cuts)
        self._dead = dead
        self._lock = threading.Lock()
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:  # noqa: N802 - the name it is called by
                mirror.answer(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    def __enter__(self) -> CuttingMirror:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/{self.file.name}"

    def heal(self) -> None:
        """No connection is cut any more."""
        with self._lock:
            self._cuts, self._dead = [], False

    def _end_of(self, first: int, size: int) -> int:
        """Where a transfer that begins here ends. A cut is made once, a dead mirror's last one always."""
        with self._lock:
            ahead = [cut for cut in self._cuts if cut > first or (self._dead and cut == self._cuts[-1])]
            if not ahead:
                return size
            if not (self._dead and len(ahead) == 1):
                self._cuts.remove(ahead[0])
            return max(first, ahead[0])

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        size = self.file.stat().st_size
        if request.path != f"/{self.file.name}":
            request.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        same = request.headers.get("If-Range", TAG) == TAG
        first = int(asked[1]) if asked and same else 0
        request.send_response(206 if first else 200)
        request.send_header("ETag", TAG)
        if first:
            request.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        # What is promised is the whole rest, whatever comes of it.
        request.send_header("Content-Length", str(size - first))
        request.end_headers()
        end = self._end_of(first, size)
        with self.file.open("rb") as file:
            file.seek(first)
            left = end - first
            while left and (piece := file.read(min(PIECE, left))):
                request.wfile.write(piece)
                left -= len(piece)
        request.wfile.flush()
        request.close_connection = True
        ended = "whole" if end == size else "closed"
        if end < size and len(self.transfers) % 2:
            # A reset instead of an end: closing with nothing to wait for.
            request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            ended = "reset"
        with self._lock:
            self.transfers.append(Transfer(first, end, ended))
        if ended == "reset":
            request.connection.close()
