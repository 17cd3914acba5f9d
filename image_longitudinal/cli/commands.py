"""How a function becomes a command: the options that every command has, and examples at the end of its help."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from image_longitudinal.cli.console import printing

_PANEL = "Output"
COMMON = {  # parameter: its type and option, the default
    "as_json": (bool, typer.Option("--json", help="One JSON document on stdout.", rich_help_panel=_PANEL), False),
    "quiet": (bool, typer.Option("--quiet", "-q", help="No plan, no progress.", rich_help_panel=_PANEL), False),
    "verbose": (
        bool, typer.Option("--verbose", "-v", help="Every message of the engine.", rich_help_panel=_PANEL), False,
    ),
    "log_file": (
        Path | None, typer.Option(help="Append every message to this file.", rich_help_panel=_PANEL), None,
    ),
}  # fmt: skip
SUFFIX = "_command"  # functions of the API have the names without it
EXAMPLES: dict[str, tuple[str, ...]] = {}  # by command, such as "models list", for tests


def add_command(
    app: typer.Typer, function: Callable[..., None], *examples: str, group: str = "", name: str | None = None
) -> None:
    """Add ``function`` as a command.

    Args:
        app: where to add it.
        function: its parameters are arguments and options, its docstring is the help.
        examples: whole command lines, shown at the end of the help.
        group: name of the group that ``app`` is, for :data:`EXAMPLES`.
        name: of the command; that of the function, without ``_command``, if None.
    """
    name = name or function.__name__.removesuffix(SUFFIX)
    full_name = f"{group} {name}".strip()
    EXAMPLES[full_name] = examples
    epilog = "\n\n".join(("Examples:", *(f"  {example}".replace("[", "\\[") for example in examples)))
    app.command(name, epilog=epilog)(_with_common_options(function, full_name))


def _with_common_options(function: Callable[..., None], name: str) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)

    @functools.wraps(function)
    def command(*, as_json: bool, quiet: bool, verbose: bool, log_file: Path | None, **given: Any) -> None:
        with printing(name, as_json=as_json, quiet=quiet, verbose=verbose, log_file=log_file):
            function(**given)

    common = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])
        for name, (kind, option, default) in COMMON.items()
    ]
    given = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in signature.parameters.values()]
    command.__signature__ = signature.replace(parameters=[*given, *common])  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in (*given, *common)}
    return command
