"""Models and tables that options name."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.nmtran_reader import ObservationTable, open_observations, whole
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.data.text_files import SUFFIXES
from image_longitudinal.models.nlme.library import get_model, load_models, load_named, model_content
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.population.options import FitOptions, FitSettings, FitSpec, SimulateOptions


class FitTable(NamedTuple):
    """A table to fit, not yet read, and the digest of its content and of unusual rules by which it is read."""

    rows: ObservationTable
    content: str


def named_model(name: str, file: str | None, values: dict[str, float]) -> PopulationModel:
    """A library model, or one of a user's file, with some values replaced; ConfigError for an unknown name."""
    if file is not None:
        load_models(file)
    else:
        load_named(name)
    model = get_model(name)
    known = {*model.parameter_names, "omega", "additive", "proportional"}
    if unknown := sorted(set(values) - known):
        raise ConfigError("unknown start value", expected=f"one of {', '.join(sorted(known))}", got=", ".join(unknown))
    parameters = tuple(replace(p, typical=values.get(p.name, p.typical)) for p in model.parameters)
    omega = model.omega
    if "omega" in values:
        k = model.n_random_effects
        omega = tuple(tuple(values["omega"] if i == j else 0.0 for j in range(k)) for i in range(k))
    for part, used in (("additive", model.residual.uses_additive), ("proportional", model.residual.uses_proportional)):
        if part in values and not used:
            raise ConfigError(f"the {model.residual.kind} residual error of model {model.name!r} has no {part} part")
    errors: dict[str, Any] = {part: values[part] for part in ("additive", "proportional") if part in values}
    return replace(model, parameters=parameters, omega=omega, residual=replace(model.residual, **errors))


def observations_of(options: FitOptions, model: PopulationModel) -> FitTable:
    """The table to fit, opened for the model.

    Raises:
        ConfigError: an unknown or missing level, a level of a file, or a table that cannot be used.
        StorageError: an address without a data set.
    """
    reading = reading_of(options, model)
    if Path(options.table).suffix.lower() in (*SUFFIXES, ".parquet"):
        if options.level is not None or options.split is not None:
            raise ConfigError("only published data sets have levels and splits", got=options.table)
        table = open_observations(options.table, model.structural, reading)
        content = file_sha256(options.table)
    else:
        dataset = open_dataset(options.table)
        if options.level not in dataset.levels:
            levels = ", ".join(map(str, dataset.levels))
            raise ConfigError(
                "the association level to fit is missing", expected=f"one of {levels}", got=options.level or "none"
            )
        rows = dataset.scan("observations", options.level, options.split)
        table, content = open_observations(rows, model.structural, reading), dataset.manifest.identity
    rules = (*table.found.rules, *(["decimal ,"] if options.decimal == "," else []))
    return FitTable(table, digest_of(content, *rules) if rules else content)


def reading_of(options: FitOptions | SimulateOptions, model: PopulationModel) -> Reading:
    """How options say that a table is read."""
    return Reading(
        interpolation=options.covariates, endpoints=tuple(options.endpoints.items()), decimal=options.decimal,
        time_unit=model.units.get("time", "h"),
    )  # fmt: skip


def spec_of(options: FitOptions, table: FitTable) -> FitSpec:
    """The spec whose digest is the fit's cache key."""
    name = f"{options.model_file}:{options.model}" if options.model_file else options.model
    settings = options.model_dump(include=set(FitSettings.model_fields))
    return FitSpec(table_content=table.content, model_content=model_content(name), **settings)


def population_of(options: FitOptions, table: FitTable) -> PopulationData:
    """The subjects to fit, in memory."""
    return table.rows.population(whole(table.rows, options.subjects))
