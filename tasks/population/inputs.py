"""Models and tables that options name."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from image_longitudinal.core.digest import digest_of, file_sha256
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.presets import validate_config
from image_longitudinal.core.study_config import StudyConfig
from image_longitudinal.models.design.names import check_names
from image_longitudinal.models.design.study import design_study
from image_longitudinal.models.design.study_model import study_model, true_omega
from image_longitudinal.models.nlme.data.nmtran_reader import (
    ObservationTable,
    first_rows,
    open_observations,
    whole,
)
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.data.reading import Reading
from image_longitudinal.models.nlme.data.text_files import SUFFIXES
from image_longitudinal.models.nlme.estimation.coordinates import Coordinates
from image_longitudinal.models.nlme.library import get_model, load_models, load_named, model_content
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.storage.dataset.reader import open_dataset
from image_longitudinal.tasks.population.options import (
    FitOptions,
    FitSettings,
    FitSpec,
    PredictOptions,
    SimulateOptions,
)

MOST_GROUPS = 6  # values of a number by which subjects are grouped; with more, its median divides them


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


def model_to_fit(options: FitOptions) -> PopulationModel:
    """The model to fit: of a data set with a study design also with its covariates and the effects of its arms."""
    model = named_model(options.model, options.model_file, options.start)
    study = _study_of(options)
    return model if study is None else study_model(study, model)


def true_values(options: FitOptions) -> dict[str, float]:
    """True values of what a fit estimates, by the names of a report; empty unless a data set has a study design.

    They are those of the model named, if the data set is of that model.
    """
    study = _study_of(options)
    if study is None:
        return {}
    manifest = open_dataset(options.table).manifest
    config = validate_config(manifest.config, where=options.table)
    if config.outcomes.model != options.model or manifest.study is None or options.level is None:
        return {}
    dims, latents = manifest.study.eta_dims, manifest.image.latent_dim
    design = design_study(study, config.outcomes, config.seed, options.level, latents, dims)
    values = tuple(tuple(float(value) for value in row) for row in true_omega(design))
    model = replace(study_model(study, named_model(options.model, options.model_file, {})), omega=values)
    coordinates = Coordinates(model, "full", ())
    natural = coordinates.natural(coordinates.pack(coordinates.start))
    return dict(zip(coordinates.names, natural.tolist(), strict=True))


def _study_of(options: FitOptions) -> StudyConfig | None:
    if Path(options.table).suffix.lower() in (*SUFFIXES, ".parquet"):
        return None
    manifest = open_dataset(options.table).manifest
    if manifest.study is None:
        return None
    study = validate_config(manifest.config, where=options.table).study
    check_names(study, get_model(options.model))
    return study


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


def strata_of(options: FitOptions, table: FitTable) -> list[str]:
    """A label of each subject to fit by the columns ``stratify``, such as ``arm=B``; empty texts without any.

    A column counts by its value in the subject's first row; numbers of more than six values make two groups, up to
    their median and above.

    Raises:
        ConfigError: the table has no such column.
    """
    rows, labels = table.rows, list[list[str]]()
    for name in options.stratify:
        own = {key.lower(): column for key, column in rows.names.items()}.get(name.lower())
        if own is None:
            expected = ", ".join(rows.names.values())
            raise ConfigError("no column of that name to stratify by", expected=expected, got=repr(name))
        pair = rows.rows.to_table(columns=[rows.names["id"], own])
        values = pair.column(1).take(first_rows(pair.column(0))).slice(0, options.subjects).to_pylist()
        numbers = [value for value in values if isinstance(value, int | float)]
        if len(set(numbers)) > MOST_GROUPS:
            middle = float(np.median(numbers))
            labels.append([f"{own} ≤ {middle:g}" if value <= middle else f"{own} > {middle:g}" for value in values])
        else:
            labels.append([f"{own}={value}" for value in values])
    return [", ".join(parts) for parts in zip(*labels, strict=True)]


def reading_of(options: FitOptions | SimulateOptions | PredictOptions, model: PopulationModel) -> Reading:
    """How options say that a table is read."""
    return Reading(
        interpolation=options.covariates, endpoints=tuple(options.endpoints.items()), decimal=options.decimal,
        time_unit=model.units.get("time", "h"),
    )  # fmt: skip


def spec_of(options: FitOptions, table: FitTable) -> FitSpec:
    """The spec whose digest is the fit's cache key."""
    name = f"{options.model_file}:{options.model}" if options.model_file else options.model
    settings = options.model_dump(include=set(FitSettings.model_fields))
    sampler = 2 if options.method == "imp" else 1
    return FitSpec(table_content=table.content, model_content=model_content(name), sampler=sampler, **settings)


def population_of(options: FitOptions, table: FitTable) -> PopulationData:
    """The subjects to fit, in memory."""
    return table.rows.population(whole(table.rows, options.subjects))
