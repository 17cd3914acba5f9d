"""simulate-table: a trial simulated from a named model, as a table in NM-TRAN's columns."""

from __future__ import annotations

from prefect import flow

from image_longitudinal.core.errors import ConfigError
from image_longitudinal.models.nlme.data.dosing import Dose
from image_longitudinal.models.nlme.data.visits import Visits
from image_longitudinal.tasks.population.fit import named_model, simulate


@flow(name="simulate-table", flow_run_name="simulate {subjects} subjects of {model}", persist_result=False)
def simulate_table(
    model: str,
    output: str,
    subjects: int = 100,
    times: tuple[float, ...] | None = None,
    doses: tuple[str, ...] = (),
    seed: int = 1,
    values: dict[str, float] | None = None,
    truth: str | None = None,
    model_file: str | None = None,
    workers: int = 2,
    covariates: dict[str, tuple[float, float]] | None = None,
    jitter: float = 0.0,
    missed: float = 0.0,
    dropout: float = 0.0,
) -> str:
    """Simulate subjects that share one design and write their table.

    Args:
        model: Name of the population model.
        output: CSV or Parquet file to write.
        subjects: How many.
        times: Observation times; the model's own without them.
        doses: Doses as TIME:AMOUNT[:COMPARTMENT[:DURATION]], such as 0:100:depot; the model's own without them.
        seed: Of random effects and residual error.
        values: Values over the model's, such as imax 1.1, omega 0.2, additive 0.1.
        truth: File for each subject's random effects and parameters.
        model_file: Python file that registers the model.
        workers: Threads; the result does not depend on it.
        covariates: Range of each covariate, drawn uniformly for a subject.
        jitter: Visits are up to this much earlier or later; not the first, nor those with a dose.
        missed: Probability of missing a visit, for each but the first.
        dropout: Probability of leaving before the last visit, at a constant hazard.

    Returns:
        The path of the table.
    """
    population = named_model(model, model_file, values or {})
    given = tuple(dose_of(text) for text in doses) or None
    visits = None
    if jitter or missed or dropout:
        fixed = tuple(dose.time for dose in given or population.design.doses)
        visits = Visits(times or population.design.times, fixed, jitter, missed, dropout)
    return simulate(output, population, subjects, seed, times, given, visits, covariates or {}, truth, workers)


def dose_of(text: str) -> Dose:
    """A dose written as TIME:AMOUNT[:COMPARTMENT[:DURATION]]; ConfigError if it cannot be read."""
    parts = text.split(":")
    try:
        numbers = [float(part) for part in (*parts[:2], *parts[3:])]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or len(parts) > 4:
        raise ConfigError("unreadable dose", expected="TIME:AMOUNT[:COMPARTMENT[:DURATION]]", got=repr(text))
    compartment: str | int = 1 if len(parts) < 3 else int(parts[2]) if parts[2].isdigit() else parts[2]
    return Dose(numbers[0], numbers[1], compartment, numbers[2] if len(numbers) == 3 else 0.0)
