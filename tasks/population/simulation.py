"""Simulates a trial as a table in NM-TRAN's columns."""

from image_longitudinal.models.nlme.data.nmtran_reader import open_observations, whole
from image_longitudinal.models.nlme.simulation.trial import write_simulated_events, write_trial
from image_longitudinal.models.nlme.simulation.visits import Visits
from image_longitudinal.tasks.engine.progress import Progress, run_logger
from image_longitudinal.tasks.population.inputs import named_model, reading_of
from image_longitudinal.tasks.population.options import SimulateOptions, dose_of


def simulate_trial(options: SimulateOptions, output: str, truth: str | None, workers: int) -> str:
    """Write a simulated table; see :mod:`models.nlme.simulation.trial`. Returns its path."""
    model = named_model(options.model, options.model_file, options.values)
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
