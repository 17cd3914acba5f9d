"""Pages of the reference that are made from code: commands, keys of the configuration, columns, models, errors.

``docs/conf.py`` writes them into ``docs/reference/generated`` before the sources are read; git does not keep them.
"""

import inspect
import re
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from typer.main import get_command

from image_longitudinal.cli.app import app
from image_longitudinal.cli.commands import COMMON, EXAMPLES
from image_longitudinal.core import errors
from image_longitudinal.core.config import Config
from image_longitudinal.core.config_keys import ConfigKey, keys_of
from image_longitudinal.models.nlme.library import get_model, known_models
from image_longitudinal.storage.dataset.layout import (
    TABLE_DESCRIPTIONS,
    TABLES,
    description_of,
    has_levels,
    table_columns,
    unit_of,
)
from image_longitudinal.storage.dataset.study_columns import TRUTH, TRUTH_DESCRIPTIONS, StudyColumns
from image_longitudinal.tasks.population.options import CovariateOptions, FitOptions, PredictOptions, SimulateOptions

MADE = "*This page is made from the code by `make docs`.*"
STUDY = StudyColumns(
    arms=("standard", "new"), covariates=("COVARIATE",), effects=("PARAMETER",), sites=True, confounder=True
)


def write_reference_pages(folder: Path) -> None:
    """Write every page, and leave files alone that would not change: an incremental build reads them again if so."""
    pages = {
        "commands": commands_page(),
        "configuration": configuration_page(),
        "columns": columns_page(),
        "models": models_page(),
        "options": options_page(),
        "errors": errors_page(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def commands_page() -> str:
    """Every command with its arguments, options and examples."""
    lines = ["# Commands", "", MADE, "", "`image-longitudinal --help` prints the same. Options of every command:", ""]
    option = [(f"`--{key.replace('_', '-')}`", _text(one.help or "")) for key, (_, one, _) in COMMON.items()]
    lines += _table(("option", "effect"), [(name.replace("as-json", "json"), effect) for name, effect in option])
    for name, command in sorted(_commands(get_command(app))):
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        usage = " ".join([f"image-longitudinal {name}", *(_usage(one) for one in arguments)])
        lines += ["", f"## {name}", "", _text(command.help or ""), "", "```text", f"{usage} [OPTIONS]", "```", ""]
        lines += _table(("argument or option", "meaning", "default"), [_parameter(one) for one in _own(command.params)])
        lines += ["", "```sh", *EXAMPLES[name], "```"]
    return "\n".join([*lines, ""])


def configuration_page() -> str:
    """Every key of the configuration, by section."""
    lines = [
        "# Keys of the configuration", "", MADE, "",
        "A configuration is a preset, then files (`--config`), then single values (`--set section.key=value`): the",
        "last one wins. The [presets](../presets.md) have values of their own, each with its reason.",
        "`image-longitudinal config list` prints this table, `config show` a whole configuration with the source of",
        "each value.",
    ]  # fmt: skip
    top = [(name, field) for name, field in Config.model_fields.items() if not _section(field.annotation)]
    lines += ["", "## At the top", ""]
    lines += _keys(key for key in keys_of(Config, "") if key.name in {name for name, _ in top})
    for name, field in Config.model_fields.items():
        if section := _section(field.annotation):
            lines += ["", f"## {name}", "", _text(inspect.getdoc(section) or ""), ""]
            lines += _keys(keys_of(section, f"{name}."))
            for place, kind in _records(section, name):
                lines += ["", f"### Entries of {place}", "", _text(inspect.getdoc(kind) or ""), ""]
                lines += _keys(keys_of(kind, ""))
    return "\n".join([*lines, ""])


def columns_page() -> str:
    """Every column of every table."""
    lines = [
        "# Columns of the tables", "", MADE, "",
        "The [layout](../layout.md) says where the files are. Units are in the metadata of every column of every file;",
        "those below are the defaults (`outcomes.units`); 1 means no unit. No column but `dv` has missing values.",
    ]  # fmt: skip
    for table in (*TABLES, *TRUTH):
        about = {**TABLE_DESCRIPTIONS, **TRUTH_DESCRIPTIONS}[table]
        lines += ["", f"## {table}", "", f"{about}. " + _place(table), ""]
        plain = {field.name for field in table_columns(table, 1, ("PARAMETER",), study=StudyColumns(), times=(0.0,))}
        full = table_columns(table, 1, ("PARAMETER",), infusions=True, study=STUDY, times=(0.0,))
        lines += _table(
            ("column", "type", "unit", "meaning", "there"),
            [(_column_name(one.name), str(one.type), unit_of(one), _text(description_of(one)),
              _there(table, one, plain)) for one in full],
        )  # fmt: skip
    return "\n".join([*lines, ""])


def models_page() -> str:
    """The population models of the library."""
    lines = [
        "# Population models of the library", "", MADE, "",
        "Names for `outcomes.model`, `simulate --model` and `fit --model`. A model of your own is a file of about 20",
        "lines ([how](../population.md#models)).",
    ]  # fmt: skip
    for name in known_models():
        model = get_model(name)
        structural = model.structural
        lines += ["", f"## {name}", "", f"Source: {_text(model.source)}." if model.source else "", ""]
        lines += [
            f"- states: {_listed(structural.states)}", f"- endpoints: {_listed(structural.endpoints)}",
            f"- covariates: {_listed(structural.covariates)}", "",
        ]  # fmt: skip
        lines += _table(
            ("parameter", "typical value", "distribution", "random effect"),
            [(f"`{one.name}`", f"{one.typical:g}", one.distribution, "yes" if one.random else "no")
             for one in model.parameters],
        )  # fmt: skip
    return "\n".join([*lines, ""])


def options_page() -> str:
    """Fields of the options of population models, which functions take as keyword arguments."""
    lines = [
        "# Options of population models", "", MADE, "",
        "Keyword arguments of `il.simulate`, `il.fit`, `il.predict` and `il.search_covariates`; the command line has",
        "an option for each.",
    ]  # fmt: skip
    for kind in (SimulateOptions, FitOptions, PredictOptions, CovariateOptions):
        lines += ["", f"## {kind.__name__}", "", _text(inspect.getdoc(kind) or ""), "", *_keys(keys_of(kind, ""))]
    return "\n".join([*lines, ""])


def errors_page() -> str:
    """The errors of the project, with the exit status of a command that ends in one."""
    lines = [
        "# Errors", "", MADE, "",
        "All derive from `ImageLongitudinalError` (`image_longitudinal.core.errors`) and say what, where, what was",
        "expected, what came, and what to do. A command prints it in one line and ends with its",
        "[exit status](../exit-statuses.md).", "",
    ]  # fmt: skip
    every = [one for _, one in inspect.getmembers(errors, inspect.isclass)]
    kinds = [one for one in every if issubclass(one, errors.ImageLongitudinalError)]
    rows = [(f"`{one.__name__}`", _first(inspect.getdoc(one)), f"`{one.__bases__[0].__name__}`", str(one.exit_status))
            for one in kinds]  # fmt: skip
    return "\n".join([*lines, *_table(("error", "when", "is a", "exit status"), rows), ""])


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _own(parameters: Sequence[Any]) -> Iterator[Any]:
    return (one for one in parameters if one.name not in COMMON and one.name != "help")


def _usage(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper().strip("[]")
    return name if argument.required else f"[{name}]"


def _parameter(one: Any) -> tuple[str, str, str]:
    if one.param_type_name == "argument":
        name = f"`{_usage(one).strip('[]')}`"
    else:
        names = ", ".join(f"`{text}`" for text in (*one.opts, *one.secondary_opts))
        value = "" if getattr(one, "is_flag", False) else f" `{_metavar(one)}`"
        name = names + value + (", repeatable" if one.multiple else "")
    default = "needed" if one.required else _default(one.default)
    return name, _text(one.help or ""), default


def _metavar(option: Any) -> str:
    return option.metavar or str(option.display_type).strip("<>[]").upper()


def _default(value: Any) -> str:
    return "" if value in (None, False, (), [], "") or callable(value) else f"`{value}`"


def _keys(keys: Iterable[ConfigKey]) -> list[str]:
    rows = []
    for key in keys:
        if not key.meaning:
            raise ValueError(f"{key.name} of the configuration has no description")
        rows.append((f"`{key.name}`", _text(key.type), f"`{key.default}`", _text(key.meaning)))
    return _table(("key", "type and range", "default", "meaning"), rows)


def _section(kind: Any) -> type[BaseModel] | None:
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _records(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Records in the lists of a section, with the key that holds them."""
    for name, field in section.model_fields.items():
        if inner := _section(field.annotation):
            yield from _records(inner, f"{prefix}.{name}")
        for kind in _inside(field.annotation):
            yield f"{prefix}.{name}", kind
            yield from _records(kind, f"{prefix}.{name}[]")


def _inside(kind: Any) -> Iterator[type[BaseModel]]:
    origin = get_origin(kind)
    if origin is Annotated:
        yield from _inside(get_args(kind)[0])
    elif origin in (Union, types.UnionType, tuple, list, dict):
        for one in get_args(kind):
            if section := _section(one):
                yield section
            else:
                yield from _inside(one)


def _place(table: str) -> str:
    return f"Files `{table}/{'rho2-LEVEL/' if has_levels(table) else ''}SPLIT/SHARD.parquet`."


def _column_name(name: str) -> str:
    if name == "eta_1":
        return "`eta_1`, `eta_2`, …"
    if name == "dv_0":
        return "`dv_0`, `dv_1`, …"
    return f"`{name}`"


def _there(table: str, field: pa.Field, plain: set[str]) -> str:
    if field.name == "rate":
        return "with infusions"
    if table in TRUTH:
        return "with a confounded assignment" if field.name == "confounder" else "with arms"
    if field.name in plain:
        return "always"
    return {"arm": "with arms", "site": "with sites"}.get(field.name, "with covariates")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [list(head), ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    nothing = ["Nothing but the options of every command."]
    return [f"| {' | '.join(line)} |" for line in lines] if len(lines) > 2 else nothing


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _first(text: str | None) -> str:
    return _text((text or "").split("\n\n")[0])


def _text(text: str) -> str:
    """Text of a docstring or of help on one line, as Markdown: roles and double backquotes become code."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split())).replace("``", "`")
    return plain.replace("\\[", "[").replace("<", "&lt;")
