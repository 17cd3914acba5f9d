"""Record commands in a terminal as an animated SVG: ``python -m docs.recording docs/pictures/first-minutes.svg``.

The commands are run as they are shown, in a new folder and with the program of this environment. Time in which nothing
changes on the screen is shortened. A line that begins with ``^C`` interrupts the command before it after some seconds.
"""

import html
import itertools
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path
from typing import NamedTuple

COLUMNS, ROWS = 96, 26
LONGEST, FASTEST, END = 1.2, 0.25, 4.0  # seconds: of a frame, of the shortest, of the last
WIDTH, HEIGHT, SIZE = 8.4, 18, 14  # pixels of a character, of a row, of the letters
BACK, FORE = "#1d2430", "#d7dde8"
COLOURS = ("#5c6773", "#f07178", "#9ece6a", "#e6b450", "#59a6f0", "#c792ea", "#56c8d8", "#ffffff")
CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")
INTERRUPT = "^C"
GENERATE = "image-longitudinal generate --output first --set generator.backend=phantom --set dataset.n_subjects=6000"
SCRIPT = (
    "image-longitudinal --version",
    GENERATE,
    f"{INTERRUPT} 8",
    GENERATE,
    "image-longitudinal show first",
    "image-longitudinal evaluate first --set evaluation.bootstrap=200 --set evaluation.resnet.steps=0",
    "image-longitudinal export first test.csv --level 0.5 --split test",
)


class Screen:
    """The screen of a terminal: what is left of a text with carriage returns, erased lines and colours."""

    def __init__(self, columns: int = COLUMNS, rows: int = ROWS) -> None:
        self.columns, self.rows = columns, rows
        self.lines: list[list[tuple[str, str]]] = [[]]  # of letters and their colours
        self.row, self.column, self.colour = 0, 0, FORE

    def feed(self, text: str) -> None:
        """Show a text; whole control sequences only."""
        place = 0
        while place < len(text):
            if code := CODE.match(text, place):
                self._control(code[1], code[2])
                place = code.end()
                continue
            letter = text[place]
            place += 1
            if letter == "\r":
                self.column = 0
            elif letter == "\n":
                self._next_row()
            elif letter >= " ":
                if self.column == self.columns:
                    self.column = 0
                    self._next_row()
                line = self.lines[self.row]
                line.extend([(" ", FORE)] * (self.column - len(line)))
                line[self.column : self.column + 1] = [(letter, self.colour)]
                self.column += 1

    def text(self) -> str:
        """The lines without colours."""
        return "\n".join("".join(letter for letter, _ in line).rstrip() for line in self.lines)

    def view(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """The rows that are seen, from the last one upwards."""
        return tuple(map(tuple, self.lines[-self.rows :]))

    def _next_row(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    def _control(self, numbers: str, letter: str) -> None:
        first = int(numbers) if numbers.isdigit() else 0
        if letter == "A":
            self.row = max(self.row - (first or 1), 0)
        elif letter == "K":
            self.lines[self.row] = self.lines[self.row][: 0 if first == 2 else self.column]
        elif letter == "m":
            self._colour([int(number or 0) for number in numbers.split(";")])

    def _colour(self, codes: list[int]) -> None:
        if codes[:2] == [38, 5]:
            self.colour = "#56c8d8" if codes[2] not in (237, 240) else COLOURS[0]
        for code in codes if codes[:1] != [38] else ():
            if code in (0, 39):
                self.colour = FORE
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.colour = COLOURS[code % 10]


class Frame(NamedTuple):
    """What is on the screen, and for how many seconds."""

    rows: tuple[tuple[tuple[str, str], ...], ...]
    seconds: float


def output_of(line: str, folder: Path, interrupt: float | None) -> Iterator[str]:
    """What a command writes to a terminal, as it comes; Ctrl-C is pressed after so many seconds of its own time."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    program = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": program, "TERM": "xterm-256color", "PREFECT_HOME": str(folder / ".prefect")}
    process = subprocess.Popen(  # noqa: S602 - the lines of this file
        line, shell=True, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
    )
    os.close(slave)
    began, rest, interrupted = None, "", False
    while True:
        if select.select([master], [], [], 0.1)[0]:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the last process that had the terminal has ended
                break
            if not piece:
                break
            rest += piece.decode(errors="ignore")
            whole = rest.rfind("\x1b") if re.search(r"\x1b(\[[0-9;?]*)?$", rest) else len(rest)
            yield rest[:whole]
            rest = rest[whole:]
            began = (
                began or ("make subjects" in CODE.sub("", piece.decode(errors="ignore")) and time.monotonic()) or None
            )
        if interrupt is not None and began and not interrupted and time.monotonic() - began > interrupt:
            os.killpg(process.pid, signal.SIGINT)
            interrupted = True
    process.wait()
    os.close(master)


def recorded(script: tuple[str, ...], folder: Path) -> list[Frame]:
    """The frames of a script."""
    screen, frames = Screen(), list[Frame]()

    def keep(seconds: float) -> None:
        frames.append(Frame(screen.view(), min(max(seconds, FASTEST), LONGEST)))

    for place, line in enumerate(script):
        if line.startswith(INTERRUPT):
            continue
        following = script[place + 1] if place + 1 < len(script) else ""
        screen.feed(f"\x1b[32m$\x1b[0m {line}\r\n")
        keep(LONGEST)
        last = time.monotonic()
        for text in output_of(line, folder, float(following.split()[1]) if following.startswith(INTERRUPT) else None):
            now = time.monotonic()
            if now - last >= FASTEST:
                keep(now - last)
                last = now
            screen.feed(text)
        keep(LONGEST)
        screen.feed("\r\n")
    return [*thinned(frames), Frame(screen.view(), END)]


def thinned(frames: list[Frame], most: int = 8) -> Iterator[Frame]:
    """Without frames that repeat the one before; at most so many in a row that differ in their last line alone."""

    def above(frame: Frame) -> object:
        """All that is not the row that counts."""
        rows = [row for row in frame.rows if row]
        return rows[:-1]

    for _, group in itertools.groupby(frames, above):
        alike = [next(same) for _, same in itertools.groupby(group, lambda frame: frame.rows)]
        step = -(-len(alike) // most)
        yield from alike[(len(alike) - 1) % step :: step]  # the last of them in any case


def svg(frames: list[Frame]) -> str:
    """One picture that shows the frames one after the other, again and again; it needs no script."""
    width, height = round(COLUMNS * WIDTH + 24), ROWS * HEIGHT + 24
    total, passed, steps = sum(frame.seconds for frame in frames), 0.0, []
    for place, frame in enumerate(frames):
        steps.append(f"{100 * passed / total:.3f}%{{transform:translateX(-{place * width}px)}}")
        passed += frame.seconds
    pictures = "".join(
        f'<g transform="translate({place * width + 12} 12)">{_rows(frame)}</g>' for place, frame in enumerate(frames)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="monospace" font-size="{SIZE}" role="img" aria-label="A terminal: the first minutes">'
        f"<style>@keyframes film{{{''.join(steps)}}}.film{{animation:film {total:.1f}s step-end infinite}}"
        f"text{{white-space:pre}}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="{BACK}"/><g class="film">{pictures}</g></svg>\n'
    )


def _rows(frame: Frame) -> str:
    """The text elements of a frame, one for each run of letters of one colour."""
    parts = []
    for place, row in enumerate(frame.rows):
        start = 0
        while start < len(row):
            stop = start + 1
            while stop < len(row) and row[stop][1] == row[start][1]:
                stop += 1
            if text := "".join(letter for letter, _ in row[start:stop]).rstrip():
                parts.append(
                    f'<text x="{start * WIDTH:.1f}" y="{place * HEIGHT + SIZE}" fill="{row[start][1]}" '
                    f'textLength="{len(text) * WIDTH:.1f}">{html.escape(text)}</text>'
                )
            start = stop
    return "".join(parts)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        Path(sys.argv[1]).write_text(svg(recorded(SCRIPT, Path(place))), encoding="utf-8")
