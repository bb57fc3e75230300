"""Anaconda's logs: files in /tmp, the virtio port, the last console=.

Formats: `pyanaconda/anaconda_logging.py` (files), lorax's rsyslog.conf template
`anaconda_syslog` (virtio port), anaconda-direct.service's journal+console (console).
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

VIRTIO_PORT = Path("/dev/virtio-ports/org.fedoraproject.anaconda.log.0")
FILES = {
    "anaconda": Path("/tmp/anaconda.log"),
    "program": Path("/tmp/program.log"),
    "storage": Path("/tmp/storage.log"),
    "packaging": Path("/tmp/packaging.log"),
}
SHORT_LEVELS = {"DEBUG": "DBG", "INFO": "INF", "WARNING": "WRN", "ERR": "ERR", "CRIT": "CRT"}
KERNEL_LEVELS = ("EMERG", "ALERT", "CRIT", "ERR", "WARNING", "NOTICE", "INFO", "DEBUG")


class Log:
    """Everything one log line has to reach."""

    def __init__(self, plain_console: bool = False) -> None:
        self._lock = threading.Lock()
        self._plain = plain_console
        self._port = _open_port()
        self._files = {name: path.open("a", encoding="utf-8") for name, path in FILES.items()}
        threading.Thread(target=self._forward_kernel, daemon=True).start()

    def _write(self, logger: str, level: str, prefix: str, message: str) -> None:
        now = time.time()
        stamp = time.strftime("%H:%M:%S", time.gmtime(now)) + f",{int(now * 1000) % 1000:03d}"
        file = self._files[logger]
        with self._lock:
            file.write(f"{stamp} {SHORT_LEVELS[level]} {prefix}: {message}\n")
            file.flush()
        tag = "anaconda: " if logger == "anaconda" else ""
        self.port_line(f"{stamp} {level} anaconda:{tag}{prefix}: {message}")

    def port_line(self, line: str) -> None:
        """One line to the virtio port; dropped when nobody reads and its buffers are full."""
        if self._port is None:
            return
        data = (line.replace("\n", "#012") + "\n").encode()
        try:
            with self._lock:
                os.write(self._port, data)
        except OSError:
            pass

    def debug(self, message: str, prefix: str = "main", logger: str = "anaconda") -> None:
        self._write(logger, "DEBUG", prefix, message)

    def info(self, message: str, prefix: str = "main", logger: str = "anaconda") -> None:
        self._write(logger, "INFO", prefix, message)

    def warning(self, message: str, prefix: str = "main", logger: str = "anaconda") -> None:
        self._write(logger, "WARNING", prefix, message)

    def error(self, message: str, prefix: str = "main", logger: str = "anaconda") -> None:
        self._write(logger, "ERR", prefix, message)

    def critical(self, message: str, prefix: str = "main", logger: str = "anaconda") -> None:
        self._write(logger, "CRIT", prefix, message)

    def program(self, message: str) -> None:
        self._write("program", "INFO", "program", message)

    def storage(self, message: str) -> None:
        self._write("storage", "INFO", "blivet", message)

    def packaging(self, message: str) -> None:
        self._write("packaging", "INFO", "packaging", message)

    def console(self, text: str) -> None:
        """What Anaconda's text interface prints."""
        for line in text.split("\n"):
            prefix = "" if self._plain else f"[{time.monotonic():12.6f}] anaconda[{os.getpid()}]: "
            sys.stdout.write(f"{prefix}{line}\n")
        sys.stdout.flush()

    def progress(self, message: str) -> None:
        """A progress message: on the console and, as the user interface logs it, in the log."""
        self.console(message)
        self.info(message, prefix="ui.lib.progress")

    def _forward_kernel(self) -> None:
        try:
            with open("/dev/kmsg", "rb", buffering=0) as kmsg:
                while True:
                    self._kernel_record(kmsg.read(8192))
        except OSError:
            return

    def _kernel_record(self, record: bytes) -> None:
        head, _, text = record.decode(errors="replace").partition(";")
        level = KERNEL_LEVELS[int(head.split(",")[0]) & 7]
        message = text.split("\n")[0]
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        self.port_line(f"{stamp},000 {level} kernel:{message}")


def _open_port() -> int | None:
    try:
        return os.open(VIRTIO_PORT, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None
