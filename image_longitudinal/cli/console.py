"""What commands print: results on stdout and everything else on stderr with --json, else all that people want to read.

Commands call :func:`note` for what happens, :func:`show` for what they found, and :func:`print_result` at their end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from image_longitudinal.cli.display import Display, can_be_live
from image_longitudinal.cli.logs import logging_to
from image_longitudinal.core.escapes import for_terminal, for_terminal_json


@dataclasses.dataclass
class _Output:
    """How the command that runs prints."""

    json: bool = False
    quiet: bool = False
    display: Display | None = None
    document: dict[str, Any] = dataclasses.field(default_factory=dict)

    def print(self, text: str, to_stderr: bool) -> None:
        with self.display.paused() if self.display else contextlib.nullcontext():
            print(for_terminal(text), file=sys.stderr if to_stderr else sys.stdout, flush=True)


_output = _Output()


@contextlib.contextmanager
def printing(
    command: str, *, as_json: bool = False, quiet: bool = False, verbose: bool = False, log_file: Path | None = None
) -> Iterator[None]:
    """Set up how a command prints; afterwards print the JSON document if there is one.

    Args:
        command: its name.
        as_json: one JSON document on stdout, also if the command fails after it has found something.
        quiet: no plan, no progress.
        verbose: every message of the engine.
        log_file: file to which every message is appended, with its time.
    """
    global _output
    outer, _output = _output, _Output(as_json, quiet)
    display = None if quiet else Display(command, can_be_live())
    try:
        with contextlib.ExitStack() as stack:
            if display:
                stack.enter_context(display)
            _output.display = display
            stack.enter_context(logging_to(display, verbose=verbose, file=log_file))
            yield
    finally:
        document, _output = _output.document, outer
        if as_json and document:
            print(for_terminal_json(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)))


def note(text: str) -> None:
    """Say what happens; not with --quiet."""
    if not _output.quiet:
        _output.print(text, to_stderr=_output.json)


def show(text: str, **data: Any) -> None:
    """Print what the command found: ``text`` for people, or ``data`` as part of the JSON document."""
    if _output.json:
        _output.document |= {name: plain(value) for name, value in data.items()}
    else:
        _output.print(text, to_stderr=False)


def print_result(path: object, next_command: str | None = None, *, label: str = "done") -> None:
    """The end of a command: where the result is, and what to run next."""
    if _output.json:
        _output.document |= {"result": str(path)} | ({"next": next_command} if next_command else {})
    elif _output.quiet:
        _output.print(str(path), to_stderr=False)
    else:
        _output.print(f"\n{label}: {path}" + (f"\nnext: {next_command}" if next_command else ""), to_stderr=False)


def command_line(*words: object, workspace: str | None = None) -> str:
    """A command of this program to copy: quoted for the shell, with the workspace if it is not the usual one."""
    given = [str(word) for word in words]
    if workspace is not None and workspace != os.environ.get("IMAGE_LONGITUDINAL_WORKSPACE", "workspace"):
        given += ["--workspace", workspace]
    return shlex.join(["image-longitudinal", *given])


def opening(page: object) -> str | None:
    """The command that opens a page in this machine's browser; None without a display."""
    if sys.platform in ("darwin", "win32"):
        return f"{'open' if sys.platform == 'darwin' else 'start'} {shlex.quote(str(page))}"
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return f"xdg-open {shlex.quote(str(page))}" if display and shutil.which("xdg-open") else None


def plain(value: Any) -> Any:
    """Records, paths and numbers as what JSON has; a number that JSON does not have is null."""
    if hasattr(value, "model_dump"):
        return plain(value.model_dump())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if hasattr(value, "item") and not getattr(value, "shape", ()):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text in columns, the first ``left`` of them aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{'<' if place < left else '>'}{width}}" for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)
