"""Several fits of the same table side by side: objective, AIC, BIC, and likelihood ratio tests of nested ones."""

from collections.abc import Sequence
from pathlib import Path

from scipy.stats import chi2

from image_longitudinal.core.config import Section
from image_longitudinal.core.errors import ConfigError
from image_longitudinal.tasks.population.summary import NAME, FitSummary, read_summary

NESTED = (
    "p: likelihood ratio against the first fit, where the names of one fit's estimates are among the other's. It is "
    "too large where a variance is tested against 0 (its boundary), and means nothing if the models are not nested."
)


class ComparedFit(Section):
    """A row: a fit's figures, and differences to the first.

    ``change``: of the objective; ``freedom`` and ``p``: of the likelihood ratio test, None if no fit is nested in the
    other or the larger one fits worse.
    """

    fit: str
    model: str
    method: str
    converged: bool
    parameters: int
    objective: float
    aic: float
    bic: float
    change: float
    aic_change: float
    bic_change: float
    freedom: int | None
    p: float | None


class Comparison(Section):
    """The fits in the order of their AIC, the first given one as reference; ``notes`` say what to beware of."""

    reference: str
    fits: tuple[ComparedFit, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, ...]]:
        """The table as text, with a header."""
        header = ("fit", "method", "parameters", "objective", "change", "AIC", "BIC", "df", "p")
        return [header, *(_cells(one) for one in self.fits)]


def compare_fits(folders: Sequence[str]) -> Comparison:
    """Compare finished fits; the first folder is the reference.

    Raises:
        ConfigError: fewer than two folders, one without a fit or without a likelihood, or fits of different data.
    """
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ConfigError("nothing to compare", expected="two or more folders of fits", got=", ".join(folders))
    found = [(folder, _summary(folder)) for folder in folders]
    first = found[0][1]
    for folder, own in found[1:]:
        same = (own.observations, own.subjects_fitted) == (first.observations, first.subjects_fitted)
        if not same or (own.content and first.content and own.content != first.content):
            size = f"{own.subjects_fitted} subjects, {own.observations} observations"
            expected = f"the data of {folders[0]}: {first.subjects_fitted} subjects, {first.observations} observations"
            raise ConfigError("fits of different data are not comparable", where=folder, expected=expected, got=size)
    rows = sorted((_compared(folder, own, first) for folder, own in found), key=lambda row: row.aic)
    notes = [NESTED]
    methods = sorted({own.method for _, own in found})
    if len(methods) > 1:
        notes.append(f"objectives of different methods ({', '.join(methods)}) approximate the likelihood differently")
    if lost := [folder for folder, own in found if not own.converged]:
        notes.append(f"not converged: {', '.join(lost)}")
    return Comparison(reference=folders[0], fits=tuple(rows), notes=tuple(notes))


def _summary(folder: str) -> FitSummary:
    own = read_summary(Path(folder))
    if own is None or own.objective is None or own.figures is None or own.figures.aic is None:
        expected = f"a folder with {NAME}, as fit writes (by another method than nuts)"
        raise ConfigError("no fit to compare", where=folder, expected=expected)
    return own


def _compared(folder: str, own: FitSummary, first: FitSummary) -> ComparedFit:
    a, b = own.figures, first.figures
    assert own.objective is not None
    assert first.objective is not None
    assert a is not None
    assert b is not None
    assert a.aic is not None
    assert b.aic is not None
    assert a.bic is not None
    assert b.bic is not None
    change, freedom, p = own.objective - first.objective, None, None
    names, others = set(own.estimates), set(first.estimates)
    if own.method == first.method and (names < others or names > others):
        freedom = abs(len(names) - len(others))
        ratio = -change if names > others else change
        p = float(chi2.sf(ratio, freedom)) if ratio >= 0 else None
    return ComparedFit(
        fit=folder, model=own.model, method=own.method, converged=own.converged, parameters=a.parameters,
        objective=own.objective, aic=a.aic, bic=a.bic, change=change, aic_change=a.aic - b.aic,
        bic_change=a.bic - b.bic, freedom=freedom, p=p,
    )  # fmt: skip


def _cells(one: ComparedFit) -> tuple[str, ...]:
    method = one.method if one.converged else f"{one.method}, NOT CONVERGED"
    p = "" if one.p is None else f"{one.p:.3g}"
    freedom = "" if one.freedom is None else str(one.freedom)
    figures = (f"{one.objective:.3f}", f"{one.change:+.3f}", f"{one.aic:.2f}", f"{one.bic:.2f}")
    return one.fit, method, str(one.parameters), *figures, freedom, p
