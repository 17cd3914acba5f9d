"""A stepwise search of covariate relations of a table: search.json, report.html, and the model found as a file."""

import json
from pathlib import Path
from typing import Self

from image_longitudinal.core.config import Section
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.core.files import write_atomically
from image_longitudinal.core.progress import Step as Report
from image_longitudinal.core.progress import report
from image_longitudinal.models.nlme.estimation.fit import Fit
from image_longitudinal.models.nlme.selection.relations import (
    Relation,
    candidates_of,
    knowing,
    relations_for,
    with_relations,
)
from image_longitudinal.models.nlme.selection.stepwise import Search, Step, Tested, stepwise
from image_longitudinal.tasks.engine.progress import SHOWN, run_logger
from image_longitudinal.tasks.population.inputs import model_to_fit, observations_of, population_of
from image_longitudinal.tasks.population.intervals import refit_of
from image_longitudinal.tasks.population.options import CovariateOptions
from image_longitudinal.tasks.population.summary import REPORT
from image_longitudinal.tasks.reports.pages import page

SEARCH, MODEL = "search.json", "model.py"
FILES = (SEARCH, MODEL, REPORT)
CAUTION = (
    "p-values are those of single likelihood ratio tests, not corrected for the search: the smallest of many is taken. "
    "Coefficients that were chosen because they are large are biased away from 0, and no interval knows of the choice."
)


class TestedRelation(Section):
    """One comparison with the model of the step before, as :class:`models.nlme.selection.stepwise.Tested`."""

    __test__ = False  # no test of pytest's

    relation: str
    freedom: int
    objective: float | None
    change: float | None
    p: float | None
    problem: str

    @classmethod
    def of(cls, own: Tested) -> Self:
        """From the comparison."""
        return cls(
            relation=str(own.relation), freedom=own.freedom, objective=own.objective, change=own.change, p=own.p,
            problem=own.problem,
        )  # fmt: skip


class SearchStep(Section):
    """A step: all comparisons, the relation added or removed (None where the direction ended), the objective then."""

    direction: str
    tested: tuple[TestedRelation, ...]
    chosen: str | None
    objective: float

    @classmethod
    def of(cls, own: Step) -> Self:
        """From the step."""
        chosen = None if own.chosen is None else str(own.chosen)
        tested = tuple(TestedRelation.of(one) for one in own.tested)
        return cls(direction=own.direction, tested=tested, chosen=chosen, objective=own.objective)


class SearchSummary(Section):
    """search.json. ``estimates`` are those of the model found; ``name`` is its name in model.py."""

    table: str
    model: str
    method: str
    forward: float
    backward: float
    candidates: tuple[str, ...]
    base_objective: float
    objective: float
    converged: bool
    relations: tuple[str, ...]
    estimates: dict[str, float]
    name: str
    fits: int
    caution: str
    steps: tuple[SearchStep, ...]

    def lines(self) -> list[str]:
        """The search as text."""
        lines = [f"{self.method}, objective {self.base_objective:.3f} without covariates; {self.fits} fits"]
        for step in self.steps:
            limit = self.forward if step.direction == "forward" else self.backward
            did = {"forward": "added", "backward": "removed"}[step.direction]
            end = f"{did} {step.chosen}" if step.chosen else f"nothing {did}"
            lines.append(f"{step.direction} (p {'below' if did == 'added' else 'from'} {limit:g}): {end}")
            width = max(len(one.relation) for one in step.tested)
            for one in step.tested:
                change = "–" if one.change is None else f"{one.change:+.3f}"
                p = "–" if one.p is None else f"{one.p:.3g}"
                row = f"  {one.relation.ljust(width)}  {change:>10}  df {one.freedom}  p {p}"
                lines.append(f"{row}  {one.problem}".rstrip())
        found = ", ".join(self.relations) or "none"
        state = "" if self.converged else " (NOT CONVERGED)"
        lines.append(f"relations found: {found}; objective {self.objective:.3f}{state}")
        lines += [f"  {name} {value:.5g}" for name, value in self.estimates.items()]
        return [*lines, CAUTION]


def search_to_folder(options: CovariateOptions, output: str, workers: int) -> SearchSummary:
    """Search, and write search.json, report.html and model.py into an existing folder.

    Raises:
        ConfigError: candidates that cannot be used, or a method without a likelihood.
        SimulationError: the model without covariates cannot be fitted.
    """
    if options.method == "nuts":
        raise ConfigError("a covariate search compares likelihoods", expected="another method than nuts", got="nuts")
    logger = run_logger()
    candidates = candidates_of(options.candidates)
    base = model_to_fit(options)
    reading = knowing(base, [covariate for _, covariate, _ in candidates])
    table = observations_of(options, reading)
    for note in table.rows.notes:
        logger.warning(f"{options.table}: {note}")
    data = population_of(options, table)
    relations = relations_for(candidates, reading, data)
    # (reading has the covariates in the order of the data)
    whole = with_relations(reading, relations)

    def show(step: Step) -> None:
        chosen = f"{'added' if step.direction == 'forward' else 'removed'} {step.chosen}" if step.chosen else "ended"
        text = f"covariates, {step.direction}: {chosen}, objective {step.objective:.3f}"
        report(Report(text))
        logger.info(text, extra={SHOWN: True})

    logger.info(f"{len(data):,} subjects; {len(relations)} candidates: {', '.join(map(str, relations))}")
    found = stepwise(
        whole, data, relations, refit_of(options), forward=options.forward, backward=options.backward,
        n_threads=workers, progress=show,
    )  # fmt: skip
    summary = _summary(options, relations, found)
    folder = Path(output)
    write_atomically(folder / MODEL, model_file(options, found, summary.name))
    write_atomically(folder / REPORT, page("covariates.html", {}, summary=summary, options=options, caution=CAUTION))
    write_atomically(folder / SEARCH, json.dumps(summary.model_dump(), indent=1) + "\n")
    return summary


def _summary(options: CovariateOptions, relations: list[Relation], found: Search) -> SearchSummary:
    estimates = dict(zip(found.final.names, found.final.estimates.tolist(), strict=True))
    return SearchSummary(
        table=options.table,
        model=options.model,
        method=found.final.method,
        forward=options.forward,
        backward=options.backward,
        candidates=tuple(map(str, relations)),
        base_objective=found.base.objective,
        objective=found.final.objective,
        converged=found.final.converged,
        relations=tuple(map(str, found.relations)),
        estimates=estimates,
        name=f"{options.model.rpartition(':')[2]}-with-covariates",
        fits=found.fits,
        caution=CAUTION,
        steps=tuple(map(SearchStep.of, found.steps)),
    )


def model_file(options: CovariateOptions, found: Search, name: str) -> str:
    """Python that registers the model found, with its relations started at their estimates."""
    file, _, own = options.model.rpartition(":")
    code = options.model_file or (file if file.endswith(".py") else "")
    first = [f"load_models({str(Path(code).resolve())!r})", ""] if code else []
    imports = "get_model, load_models, register" if code else "get_model, register"
    lines = []
    start: dict[str, float] = {}
    for relation in found.relations:
        arguments = [relation.parameter, relation.covariate, relation.kind]
        text = ", ".join([*map(repr, arguments), repr(relation.reference)])
        if relation.levels:
            text += f", levels={relation.levels!r}"
        if relation.kind == "linear":
            text += f", low={relation.low!r}, high={relation.high!r}"
        lines.append(f"    Relation({text}),")
        start |= {own_name: _value(found.final, own_name) for own_name in relation.coefficients}
    return "\n".join([
        f'"""Found by a stepwise search of covariates, by {found.final.method}; see search.json."""',
        "",
        f"from image_longitudinal.models.nlme.library import {imports}",
        "from image_longitudinal.models.nlme.selection.relations import Relation, with_relations",
        "",
        *first,
        "relations = [",
        *lines,
        "]",
        f"start = {start!r}",
        f"register(with_relations(get_model({own!r}), relations, start=start, name={name!r}))",
        "",
    ])  # fmt: skip


def _value(fit: Fit, name: str) -> float:
    return float(fit.estimates[fit.names.index(name)])
