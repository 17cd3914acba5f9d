"""What a command shows while it works, on stderr: live rows on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from image_longitudinal.core.escapes import for_terminal
from image_longitudinal.core.progress import Step, Throttle, duration, listening

if TYPE_CHECKING:  # 20 ms to import, for commands that end before anything is shown
    from rich.progress import Progress, TaskID

SILENCE = 3.0  # seconds after which something is shown, and after which finished work is worth a line
LINE_SECONDS = 10.0  # between two lines about the same work where there is no terminal
LONGEST_PAUSE = 60.0  # seconds between two lines that only say that work goes on
NARROW, WIDE = 80, 110  # columns; below and above, rows have no bar, or also what else is known


class Display:
    """Shows the steps that :mod:`core.progress` reports during the ``with`` block.

    A terminal shows one live region at its bottom: a row for each piece of work, or what has been silent for how long.
    Elsewhere (a file, a pipe, TERM=dumb) each piece of work has a line every ten seconds.

    Args:
        command: what to call work that has reported nothing yet.
        live: use the live region.
    """

    def __init__(self, command: str, live: bool) -> None:
        self.command, self.live = command, live
        self._lock, self._ended, self._process = threading.RLock(), threading.Event(), os.getpid()
        self._latest, self._heard, self._pause = command, time.monotonic(), LINE_SECONDS
        self._printed, self._lines = time.monotonic(), dict[str, Throttle]()
        self._stages, self._uncounted = Throttle(LINE_SECONDS, ready_at_once=True), False
        self._active: set[str] = set()  # work that has begun and not ended
        self._rows: dict[str, TaskID] = {}
        self._region: Progress | None = None
        self._idle: TaskID | None = None

    def __enter__(self) -> Display:
        self._listening = listening(self.show)
        self._listening.__enter__()
        self._thread = threading.Thread(target=self._watch, name="display", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.__exit__(None, None, None)
        self._ended.set()
        self._thread.join()
        with self._lock:
            self._close()

    def show(self, step: Step) -> None:
        """Show where a piece of work is; a listener of :func:`core.progress.report`."""
        if os.getpid() != self._process:  # a forked worker has a copy of this object, not the terminal
            return
        with self._lock:
            if self._ended.is_set():
                return
            self._latest = self.command if step.finished else step.what
            self._heard, self._pause, self._uncounted = time.monotonic(), LINE_SECONDS, not step.total
            if not step.total:
                if not self.live and self._stages.ready():
                    self.line(step.what)
                return
            (self._active.discard if step.finished else self._active.add)(step.what)
            # Work that ends within other work (one shard of many) leaves no line.
            ends = step.finished and step.elapsed > SILENCE and not self._active
            if self.live:
                self._show_row(step, ends)
            elif self._lines.setdefault(step.what, Throttle(LINE_SECONDS)).ready(always=ends):
                self.line(str(step))

    def line(self, text: str) -> None:
        """Print one line, above the live region if there is one."""
        with self.paused():
            print(for_terminal(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Take the live region away while the body prints."""
        with self._lock:
            region = self._region
            if region:
                self._set_idle(None)
                region.stop()
            try:
                yield
            finally:
                self._printed = time.monotonic()
                if region:
                    self._start(region)

    def _show_row(self, step: Step, ends: bool) -> None:
        if step.finished:
            if (row := self._rows.pop(step.what, None)) is not None and self._region:
                self._region.remove_task(row)
            if ends:
                self.line(f"{step.what}: {step.total:,} {step.unit} in {duration(step.elapsed)}")
            return
        region = self._opened()
        if step.what not in self._rows:
            self._rows[step.what] = region.add_task(for_terminal(step.what), total=step.total, text="", extra="")
        left = f"{duration(step.seconds_left)} left" if step.rate > 0 else ""
        rate = f"{step.rate:.3g}/s" if step.rate > 0 else ""
        text = "  ".join(part for part in (f"{step.done:,}/{step.total:,} {step.unit}", rate, left) if part)
        region.update(
            self._rows[step.what], completed=step.done, total=step.total, text=text, extra=for_terminal(step.extra)
        )
        self._set_idle(None)

    def _watch(self) -> None:
        """Say that work goes on where nothing has been heard of it."""
        while not self._ended.wait(0.5):
            with self._lock:
                now = time.monotonic()
                silent, unprinted = now - self._heard, now - self._printed
                if self.live:
                    text = self._latest + (f": at work for {duration(silent)}" if silent > SILENCE else "")
                    shown = unprinted > SILENCE and (silent > SILENCE or self._uncounted)
                    self._set_idle(text if shown else None)
                elif min(silent, unprinted) > self._pause:
                    self.line(f"{self._latest}: at work for {duration(silent)}")
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _set_idle(self, text: str | None) -> None:
        """Show, change or remove the row that counts seconds."""
        text = text and for_terminal(text)
        if text is None:
            if self._idle is not None and self._region:
                self._region.remove_task(self._idle)
            self._idle = None
        elif self._idle is None:
            self._idle = self._opened().add_task(text, total=None, text="", extra="")
        elif self._region:
            self._region.update(self._idle, description=text)

    def _opened(self) -> Progress:
        if self._region is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn

            console = Console(stderr=True, highlight=False)
            columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
            if console.width >= NARROW:
                columns.append(BarColumn(bar_width=20))
            columns.append(TextColumn("{task.fields[text]}", markup=False))
            if console.width >= WIDE:
                columns.append(TextColumn("{task.fields[extra]}", style="dim", markup=False))
            options: dict[str, Any] = {"transient": True, "redirect_stdout": False, "redirect_stderr": False}
            self._region = Progress(*columns, console=console, refresh_per_second=5, **options)
            self._start(self._region)
        return self._region

    def _start(self, region: Progress) -> None:
        region.start()
        region.console.show_cursor(True)  # a process that is killed would leave the terminal without one

    def _close(self) -> None:
        if self._region:
            self._region.stop()
            self._region = None


def can_be_live() -> bool:
    """Whether stderr is a terminal that can move its cursor."""
    return sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
