"""A program in a pseudo-terminal, as a person sees it."""

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from fcntl import ioctl
from pathlib import Path


def in_terminal(
    code: str, *, columns: int = 100, folder: Path | None = None, timeout: float = 120, **variables: str
) -> tuple[int, str]:
    """Run Python code with stdin, stdout and stderr on a terminal; its status and all that it wrote there."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR", "CI")}
    environment: Mapping[str, str] = {**kept, "TERM": "xterm-256color", **variables}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=folder,
        start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    written, end = b"", time.monotonic() + timeout
    while time.monotonic() < end:
        ready, _, _ = select.select([master], [], [], 0.2)
        if ready:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the last process that had the terminal has ended
                break
            if not piece:
                break
            written += piece
        elif process.poll() is not None:
            break
    process.kill()
    status = process.wait()
    os.close(master)
    return status, written.decode()
