"""Simulates a trial as a table in NM-TRAN's columns."""

from pathlib import Path

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.estimation.draws import drawn_model
from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events, write_trial
from image_longitudinal.models.nlme.simulation.visits import Visits
from image_longitudinal.tasks.engine.progress import Progress, run_logger
from image_longitudinal.tasks.population.inputs import named_model, reading_of
from image_longitudinal.tasks.population.options import SimulateOptions, dose_of
from image_longitudinal.tasks.population.summary import NAME, RESULTS, read_summary


def model_to_simulate(options: SimulateOptions) -> PopulationModel:
    """The model that options name, or that of a fit with its estimates.

    Raises:
        ConfigError: no such model or fit, draws of full Bayes, or uncertainty without a fit or its standard errors.
    """
    if options.fit is None:
        if options.uncertainty:
            raise ConfigError("parameter uncertainty is that of a fit", do="name its folder (--from)")
        return named_model(options.model, options.model_file, options.values)
    folder = Path(options.fit)
    summary = read_summary(folder)
    if summary is None or not (folder / RESULTS).exists():
        expected = f"a folder with {NAME} and {RESULTS}, as fit writes (by another method than nuts)"
        raise ConfigError("no fit to simulate from", where=folder, expected=expected)
    if options.values:
        raise ConfigError("values in place of a fit's estimates", got=", ".join(options.values), do="leave --set out")
    found = load_fit(folder / RESULTS, named_model(summary.model, options.model_file, {}))
    return drawn_model(found, options.seed) if options.uncertainty else found.model


def simulate_trial(options: SimulateOptions, output: str, truth: str | None, workers: int) -> str:
    """Write a simulated table; see :mod:`models.nlme.simulation.trial`. Returns its path."""
    model = model_to_simulate(options)
    if options.events is not None:
        opened = open_observations(options.events, model.structural, reading_of(options, model), with_values=False)
        for note in opened.notes:
            run_logger().warning(f"{options.events}: {note}")
        table = opened.events(whole(opened))
        written = write_simulated_events(
            model, table, output, seed=options.seed, truth=truth, dialect=options.dialect, n_threads=workers
        )
        return str(written)
    doses = tuple(dose_of(text) for text in options.doses) or model.design.doses
    times, visits = options.times or model.design.times, None
    if options.jitter or options.missed or options.dropout:
        visits = Visits(times, tuple(dose.time for dose in doses), options.jitter, options.missed, options.dropout)
    written = write_trial(
        model, output, options.subjects, seed=options.seed, times=times, doses=doses, visits=visits,
        covariates=options.covariate_ranges, truth=truth, dialect=options.dialect, n_threads=workers,
        progress=Progress("simulate", options.subjects, "subjects").update,
    )  # fmt: skip
    return str(written)
