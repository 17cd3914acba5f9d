"""Ctrl-C, SIGTERM and SIGHUP end a command within seconds, in one line, and leave neither process nor lock behind.

The first signal raises KeyboardInterrupt in the main thread: files are put away, leases released, and a server learns
that the run has ended. A thread that the kernel wakes at the same moment waits for that, and then ends the command by
force: the main thread may be inside a computation that sees no signal for minutes. Whatever is cut off, the next run
finds finished work by its manifests and removes temporary files.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from image_longitudinal.core.progress import Step, listening

GRACE = 1.5  # seconds from the first signal to the end by force
RELEASE = 0.5  # seconds at most to give back leases in object stores after that
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}  # as shells count: 128 and the signal's number
RESUMED = ("ingest", "train", "generate", "distill", "evaluate", "publish", "fetch")  # keep finished work
KEPT = ("replicates",)  # units of work that are kept, whatever the command


class Interruption:
    """What a command is asked to do by signals, and how it ends then."""

    def __init__(self, command: str) -> None:
        self.command = command
        self.signal: int | None = None  # the first one
        self._steps: dict[str, Step] = {}  # those of known length, in the order of their beginning
        self._ends = threading.Lock()  # taken by the thread that ends the process, and kept
        self._errors = os.dup(2)

    def listen(self, step: Step) -> None:
        """Remember where the work is."""
        if step.total:
            self._steps[step.what] = step

    def receive(self, number: int) -> None:
        """Remember the first signal; from then on nothing is printed but the last line."""
        if self.signal is None:
            self.signal = number
            logging.disable(logging.CRITICAL)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in (1, 2):
                os.dup2(nowhere, stream)

    def text(self) -> str:
        """The last line."""
        # The outermost one that is not finished: the subjects of a data set, not the images of a shard.
        step = next((one for one in self._steps.values() if not one.finished), None)
        resumed = self.command in RESUMED or (step is not None and step.unit in KEPT)
        where = f"{step.done:,} of {step.total:,} {step.unit} are done; " if step and resumed else ""
        return f"interrupted: {where}give the same command again to {'go on' if resumed else 'start over'}"

    def end(self) -> NoReturn:
        """End the process: what it started, what it holds, and itself."""
        self._ends.acquire()
        assert self.signal is not None
        _kill_children()
        if lease := sys.modules.get("image_longitudinal.storage.io.lease"):
            releasing = threading.Thread(target=lease.release_all, daemon=True)
            releasing.start()
            releasing.join(RELEASE)
        start = "\r\x1b[K\x1b[?25h" if os.isatty(self._errors) else ""  # over "^C"; with a cursor
        with suppress(OSError):  # a closed terminal
            os.write(self._errors, f"{start}{self.text()}\n".encode())
        os._exit(STATUS[signal.Signals(self.signal)])


@contextmanager
def ending_by_signals(command: str) -> Iterator[None]:
    """Run a command so that signals end it; an error on its way out is not shown if it was interrupted.

    Args:
        command: its name, which decides what the last line promises.
    """
    interruption = Interruption(command)
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted:  # a second one could break off the end itself; the thread sees to it
            interrupted = True
            interruption.receive(number)
            raise KeyboardInterrupt

    def watch() -> None:
        while byte := reader.recv(1):
            if byte[0] in set(STATUS):
                interruption.receive(byte[0])
                reader.settimeout(GRACE)
                with suppress(TimeoutError):
                    while reader.recv(1) != bytes([signal.SIGINT]):  # Prefect repeats SIGTERM itself
                        pass
                interruption.end()

    former = {number: signal.getsignal(number) for number in STATUS}
    for number, handler in former.items():
        if handler is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, interrupt)
    wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    try:
        with listening(interruption.listen):
            yield
    except BaseException:
        if interruption.signal is not None:
            interruption.end()
        raise
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in former.items():
            signal.signal(number, handler)
        writer.close()  # ends the thread


def _kill_children() -> None:
    """SIGKILL to all processes below this one; a second round for those that were just being started."""
    try:
        import psutil
    except ModuleNotFoundError:  # without the pipeline, nothing starts processes but multiprocessing
        for child in multiprocessing.active_children():
            child.kill()
        return
    for _ in range(2):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                process.kill()
