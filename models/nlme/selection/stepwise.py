"""Stepwise covariate search (SCM; Jonsson & Karlsson 1998, Pharm Res 15:1463): forward inclusion, backward elimination.

Each step compares nested models by the likelihood ratio. Its p-values are those of single tests, as if each had been
the only one: they are not corrected for the search, which takes the smallest of many. Coefficients that were chosen
because they are large are biased away from 0, and their standard errors do not know of the choice (Ribbing & Jonsson
2004, J Pharmacokinet Pharmacodyn 31:109).
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import chi2

from image_longitudinal.core.errors import ConfigError, SimulationError
from image_longitudinal.models.nlme.data.population_data import PopulationData
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.intervals.refits import Refit, tried
from image_longitudinal.models.nlme.model.population import PopulationModel
from image_longitudinal.models.nlme.selection.relations import Relation, without

Direction = Literal["forward", "backward"]


@dataclass(frozen=True)
class Tested:
    """One comparison with the model of the step before.

    ``change``: of the objective, negative if it falls; ``freedom``: number of coefficients; ``p``: of the likelihood
    ratio. A fit that failed or did not converge is not chosen; ``problem`` says why, and figures are None without one.
    """

    relation: Relation
    freedom: int
    objective: float | None
    change: float | None
    p: float | None
    problem: str


@dataclass(frozen=True)
class Step:
    """All comparisons of a step, and the relation that was added or removed; None where the direction ended."""

    direction: Direction
    tested: tuple[Tested, ...]
    chosen: Relation | None
    objective: float


@dataclass(frozen=True, eq=False)
class Search:
    """A search: the fit without relations, the steps, the relations at the end and their fit, number of fits."""

    base: Fit
    steps: tuple[Step, ...]
    relations: tuple[Relation, ...]
    final: Fit
    fits: int


def stepwise(
    model: PopulationModel, data: PopulationData, relations: Sequence[Relation], refit: Refit, *,
    forward: float = 0.05, backward: float = 0.01, n_threads: int = 1,
    progress: Callable[[Step], None] | None = None,
) -> Search:  # fmt: skip
    """Search relations: add the one with the smallest p below ``forward``; then remove those above ``backward``.

    A parameter and a covariate have one relation at most. The result does not depend on the number of threads.

    Args:
        model: with all relations (:func:`.relations.with_relations`), at the start values.
        data: the subjects.
        relations: the candidates.
        refit: fits a model to data.
        forward, backward: levels of p in (0, 1).
        n_threads: fits at a time.
        progress: called after each step.

    Raises:
        ConfigError: levels outside their range.
        SimulationError: the model without relations cannot be fitted.
    """
    for level in (forward, backward):
        if not 0 < level < 1:
            raise ConfigError("unusable level of p", expected="above 0, below 1", got=level)
    every = {name for relation in relations for name in relation.coefficients}
    count = 0

    def fitted(start: PopulationModel, own: Sequence[Relation]) -> Fit | str:
        kept = {name for relation in own for name in relation.coefficients}
        return tried(refit, without(start, kept, every), data)

    first = fitted(model, ())
    if isinstance(first, str):
        raise SimulationError("the model without covariates cannot be fitted", got=first)
    base, current, included, steps = first, first, list[Relation](), list[Step]()

    def compare(direction: Direction, trials: Sequence[Relation]) -> tuple[list[Tested], list[Fit | str]]:
        nonlocal count

        def one(relation: Relation) -> Fit | str:
            own = [*included, relation] if direction == "forward" else [r for r in included if r != relation]
            return fitted(current.model, own)

        with ThreadPoolExecutor(max(1, n_threads)) as pool:
            fits = list(pool.map(one, trials))
        count += len(fits)
        return [_tested(r, own, current, direction) for r, own in zip(trials, fits, strict=True)], fits

    directions: tuple[tuple[Direction, float], ...] = (("forward", forward), ("backward", backward))
    for direction, limit in directions:
        while True:
            pairs = {relation.pair for relation in included}
            trials = [r for r in relations if r.pair not in pairs] if direction == "forward" else list(included)
            if not trials:
                break
            tested, fits = compare(direction, trials)
            usable = [i for i, one in enumerate(tested) if one.p is not None and not one.problem]
            sign = 1.0 if direction == "forward" else -1.0
            best = min(usable, key=lambda i: (sign * (tested[i].p or 0.0), tested[i].change or 0.0), default=None)
            p = None if best is None else tested[best].p
            chosen = None
            if best is not None and p is not None and (p < limit if direction == "forward" else p >= limit):
                chosen, found = trials[best], fits[best]
                assert isinstance(found, Fit)
                current = found
                included = [*included, chosen] if direction == "forward" else [r for r in included if r != chosen]
            steps.append(Step(direction, tuple(tested), chosen, current.objective))
            if progress:
                progress(steps[-1])
            if chosen is None:
                break
    return Search(base, tuple(steps), tuple(included), current, count + 1)


def _tested(relation: Relation, own: Fit | str, current: Fit, direction: Direction) -> Tested:
    """A comparison with the present model."""
    freedom = len(relation.coefficients)
    if isinstance(own, str):
        return Tested(relation, freedom, None, None, None, own)
    change = own.objective - current.objective
    ratio = -change if direction == "forward" else change
    p = float(chi2.sf(max(ratio, 0.0), freedom))
    problem = "" if own.converged else f"not converged: {own.message}"
    if not np.isfinite(change):
        return Tested(relation, freedom, None, None, None, "the objective does not exist")
    return Tested(relation, freedom, own.objective, change, p, problem)
