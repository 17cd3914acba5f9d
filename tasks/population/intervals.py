"""Intervals made after a fit, which is not repeated for them: bootstrap, profile likelihood, SIR.

They become sections of fit.json. Bootstrap replicates are kept in bootstrap.parquet while they are made: the same
command goes on after an interruption, and a larger number adds to them. The draws of SIR are in sir.parquet.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from image_longitudinal.core.digest import digest_of
from image_longitudinal.core.errors import ConfigError, StorageError
from image_longitudinal.core.files import replacing
from image_longitudinal.core.progress import Throttle
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.estimation.results import load_fit
from image_longitudinal.models.nlme.intervals.bootstrap import Replicate, bootstrap, bootstrap_rows
from image_longitudinal.models.nlme.intervals.likelihood_at import LikelihoodAt
from image_longitudinal.models.nlme.intervals.profiles import ProfileInterval, profile, profiled
from image_longitudinal.models.nlme.intervals.refits import Refit
from image_longitudinal.models.nlme.intervals.sir import ITERATIONS, Sir, sir
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.tasks.engine.progress import Progress, run_logger
from image_longitudinal.tasks.population.fit import run_fit
from image_longitudinal.tasks.population.inputs import model_to_fit, observations_of, population_of, strata_of
from image_longitudinal.tasks.population.interval_summary import BootstrapSummary, ProfileSummary, SirSummary
from image_longitudinal.tasks.population.options import FitOptions
from image_longitudinal.tasks.population.summary import BOOTSTRAP, RESULTS, SIR, FitSummary, read_summary

VERSION = 1  # raise it if the same fit and options give other replicates, draws or intervals
SAVED = 10.0  # seconds between writes of the replicates
KEY = b"key"
FIXED = ("replicate", "objective", "problem")  # columns before those of the estimates
_KEEP = "replace it with --overwrite (in Python: overwrite=True), or name another folder"


def wanted(options: FitOptions) -> bool:
    """Whether the options ask for any interval that is made after a fit."""
    return options.bootstrap is not None or options.sir is not None or bool(options.profile)


def check_wanted(options: FitOptions) -> None:
    """ConfigError if the options ask for intervals of draws of full Bayes."""
    if wanted(options) and options.method == "nuts":
        what = "intervals of draws of full Bayes are those of the posterior"
        raise ConfigError(what, do="leave --bootstrap, --profile and --sir out")


def add_intervals(options: FitOptions, output: str, workers: int, overwrite: bool = False) -> bool:
    """Make what the options ask for and the folder of a finished fit does not hold; whether anything was made.

    Raises:
        ConfigError: an estimate that cannot be profiled, no column of a name to stratify by.
        StorageError: the folder holds a bootstrap with other strata, or SIR with another number of draws.
    """
    if not wanted(options):
        return False
    folder = Path(output)
    summary = read_summary(folder)
    assert summary is not None
    strata_key = digest_of(summary.key, VERSION, sorted(name.lower() for name in options.stratify))
    sir_key = digest_of(summary.key, VERSION, options.sir)
    check_replaceable(
        summary.bootstrap, strata_key, options.bootstrap, "bootstrap with other strata", folder, overwrite
    )
    check_replaceable(summary.sir, sir_key, options.sir, "SIR with another number of draws", folder, overwrite)
    model = model_to_fit(options.model_copy(update={"start": {}}))
    table = observations_of(options, model)
    data = population_of(options, table)
    found = load_fit(folder / RESULTS, model)
    names = [profiled(found, name).name for name in options.profile]  # before anything else is made
    refit, made = refit_of(options), False
    done = summary.bootstrap
    if options.bootstrap is not None and (
        done is None or done.key != strata_key or done.replicates < options.bootstrap
    ):  # fmt: skip
        strata = strata_of(options, table) if options.stratify else []
        replicates = _bootstrapped(
            found, data, refit, folder / BOOTSTRAP, strata_key, options.bootstrap, options.seed, strata, workers,
            overwrite,
        )  # fmt: skip
        own = BootstrapSummary.of(strata_key, options.stratify, replicates, bootstrap_rows(found, replicates))
        summary, made = _extended(summary, folder, bootstrap=own), True
    new = [name for name in dict.fromkeys(names) if name not in summary.profiles]
    if new:
        profiles = {one.name: ProfileSummary.of(one) for one in _profiled(found, data, refit, new, workers)}
        summary, made = _extended(summary, folder, profiles=summary.profiles | profiles), True
    if options.sir is not None and (summary.sir is None or summary.sir.key != sir_key):
        drawn = _sir(found, data, options, workers)
        _write_draws(drawn, folder / SIR, sir_key)
        summary, made = _extended(summary, folder, sir=SirSummary.of(sir_key, drawn)), True
    return made


def check_replaceable(
    done: BootstrapSummary | SirSummary | None, key: str, asked: int | None, what: str, folder: Path, overwrite: bool
) -> None:  # fmt: skip
    """StorageError if what the folder holds is of another key, asked for, and not to be overwritten."""
    if asked is not None and done is not None and done.key != key and not overwrite:
        raise StorageError(f"the folder holds a {what}", where=folder, do=_KEEP)


def refit_of(options: FitOptions) -> Refit:
    """Fits by the method of the options, on one thread, without a covariance."""

    def refit(model: PopulationModel, data: PopulationData, held: tuple[str, ...]) -> Fit:
        own = {"covariance": "none", "fixed": (*options.fixed, *held)}
        return run_fit(options.model_copy(update=own), model, data, workers=1)

    return refit


def _extended(summary: FitSummary, folder: Path, **sections: Any) -> FitSummary:
    """fit.json with further sections, written."""
    whole = summary.model_copy(update=sections)
    whole.write(folder)
    return whole


def _bootstrapped(
    found: Fit, data: PopulationData, refit: Refit, path: Path, key: str, total: int, seed: int,
    strata: Sequence[str], workers: int, overwrite: bool,
) -> list[Replicate]:  # fmt: skip
    """All replicates by number, those of an earlier run included; kept in a file while they are made."""
    kept = read_replicates(path, key, found.names, overwrite)
    missing = [number for number in range(total) if number not in kept]
    done, failed = total - len(missing), sum(bool(own.problem) for own in kept.values())
    progress, throttle = Progress("bootstrap", total, "replicates", done), Throttle(SAVED)
    try:
        for one in bootstrap(found, data, refit, missing, seed=seed, strata=strata, n_threads=workers):
            kept[one.number] = one
            done, failed = done + 1, failed + bool(one.problem)
            progress.update(done, f"{failed:,} do not count")
            if throttle.ready():
                write_replicates(path, key, found.names, kept)
    finally:
        if missing:
            write_replicates(path, key, found.names, kept)
    return [kept[number] for number in sorted(kept)]


def read_replicates(path: Path, key: str, names: Sequence[str], overwrite: bool = False) -> dict[int, Replicate]:
    """The replicates of a file by number; none without a file.

    Raises:
        StorageError: they are of other data, options or strata, and not to be overwritten.
    """
    if not path.exists():
        return {}
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StorageError("cannot read the replicates of a bootstrap", where=path, got=error, do=_KEEP) from error
    if (table.schema.metadata or {}).get(KEY, b"").decode() != key or table.column_names != [*FIXED, *names]:
        if overwrite:
            return {}
        raise StorageError("the folder holds a bootstrap with other strata", where=path, do=_KEEP)
    rows = table.to_pylist()
    return {
        row["replicate"]: Replicate(
            row["replicate"],
            () if names and row[names[0]] is None else tuple(row[name] for name in names),
            float("nan") if row["objective"] is None else row["objective"],
            row["problem"],
        )
        for row in rows
    }


def write_replicates(path: Path, key: str, names: Sequence[str], replicates: dict[int, Replicate]) -> None:
    """All replicates as a table: number, objective, problem, estimates by name."""
    rows = [replicates[number] for number in sorted(replicates)]
    columns: dict[str, Any] = {
        "replicate": pa.array([row.number for row in rows], pa.int64()),
        "objective": pa.array([row.objective if row.estimates else None for row in rows], pa.float64()),
        "problem": pa.array([row.problem for row in rows], pa.string()),
    }
    for index, name in enumerate(names):
        columns[name] = pa.array([row.estimates[index] if row.estimates else None for row in rows], pa.float64())
    table = pa.table(columns).replace_schema_metadata({KEY: key.encode()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def _profiled(
    found: Fit, data: PopulationData, refit: Refit, names: Sequence[str], workers: int
) -> list[ProfileInterval]:  # fmt: skip
    progress, logger = Progress("profile likelihood", len(names), "estimates"), run_logger()
    done = list[ProfileInterval]()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for one in pool.map(lambda name: profile(found, data, refit, name), names):
            done.append(one)
            progress.update(len(done))
            if one.problem:
                logger.warning(f"profile of {one.name}: {one.problem}")
    return done


def _sir(found: Fit, data: PopulationData, options: FitOptions, workers: int) -> Sir:
    assert options.sir is not None
    own: Callable[[], LikelihoodAt] = lambda: LikelihoodAt(  # noqa: E731 - one for each thread
        found, data, order=options.order, draws=options.draws, seed=options.seed
    )
    progress = Progress("sampling importance resampling", ITERATIONS * options.sir, "draws at most")
    return sir(found, own, options.sir, seed=options.seed, n_threads=workers, progress=progress.update)


def _write_draws(drawn: Sir, path: Path, key: str) -> None:
    """The last iteration's draws: objective, weight, whether resampled, estimates by name."""
    columns: dict[str, Any] = {
        "objective": np.where(np.isfinite(drawn.objective), drawn.objective, np.nan),
        "weight": drawn.weight,
        "resampled": drawn.resampled,
    } | {name: drawn.estimates[:, index] for index, name in enumerate(drawn.names)}
    iterations = json.dumps([[one.inflation, one.effective, one.pareto_k] for one in drawn.iterations])
    table = pa.table(columns).replace_schema_metadata({KEY: key.encode(), b"iterations": iterations.encode()})
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
