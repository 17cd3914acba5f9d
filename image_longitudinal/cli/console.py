"""How commands print their results."""

from collections.abc import Sequence

import typer


def print_result(path: object, next_command: str | None = None) -> None:
    """The end of a command: where the result is, and what to run next."""
    typer.echo(f"\ndone: {path}" + (f"\nnext: {next_command}" if next_command else ""))


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of text in columns, the first ``left`` of them aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{cell:{'<' if place < left else '>'}{width}}" for place, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )
    return "\n".join(line.rstrip() for line in lines)
