"""A command in a terminal of its own: what it prints, keys that are pressed, and what it leaves running."""

import contextlib
import fcntl
import os
import pty
import secrets
import select
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.e2e.conftest import cli_arguments, cli_environment

MARK = "IMAGE_LONGITUDINAL_TERMINAL"  # environment variable that all processes below a command inherit


def _take_terminal() -> None:
    """In the new process: the terminal is its own, and SIGINT is not ignored as a test worker ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # ignored under nohup


class Terminal:
    """The console script with arguments, as the foreground job of a pseudo-terminal."""

    def __init__(self, folder: Path, home: Path, *arguments: object) -> None:
        self.mark = secrets.token_hex(8)
        self.master, slave = pty.openpty()
        environment = {**cli_environment(home), MARK: self.mark, "TERM": "xterm"}
        self.process = subprocess.Popen(
            cli_arguments(*arguments), cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(slave)
        self.output = ""
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def press_ctrl_c(self) -> None:
        """The terminal sends SIGINT to all processes of its foreground group."""
        os.write(self.master, b"\x03")

    def close(self) -> None:
        """As a person closes a window: the terminal's processes get SIGHUP.

        Nothing may be reading then: a read that waits holds the terminal open until the command prints something.
        """
        self._closed.set()
        self._reader.join()
        os.close(self.master)

    def wait_for(self, condition: Callable[[], object], seconds: float = 240) -> None:
        """Wait until a condition is true, while the command runs."""
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.output[-4000:]
            assert time.monotonic() < until, self.output[-4000:]
            time.sleep(0.05)

    def ended(self, seconds: float) -> int:
        """The exit status, within so many seconds."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def left_running(self) -> list[str]:
        """Command lines of processes that the command started and that still run."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline()))
        return found

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the command has ended
            while not self._closed.is_set():
                if select.select([self.master], [], [], 0.1)[0]:
                    self.output += os.read(self.master, 65536).decode(errors="replace")
